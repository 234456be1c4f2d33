"""The first tables: canonical data, landing, data quality, results. Frozen: later changes are later revisions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    for schema in ("icu", "landing", "quality", "forecast"):
        op.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
    op.create_table(
        "model",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), server_default=sa.text("'candidate'"), nullable=False),
        sa.Column("stage_reason", sa.Text()),
        sa.Column("staged_at", sa.DateTime(timezone=True)),
        sa.Column("served_as", sa.Text()),
        sa.Column("served_at", sa.DateTime(timezone=True)),
        sa.Column(
            "trained_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("data_cutoff", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.Text()),
        sa.Column("concept_hash", sa.Text()),
        sa.Column("artifact", sa.Text(), nullable=False),
        sa.Column("git_revision", sa.Text()),
        sa.Column("warm_from", sa.Text()),
        sa.Column("config", JSONB(), nullable=False),
        sa.Column("metrics", JSONB(), nullable=False),
        sa.CheckConstraint("name in ('stay', 'unit')", name=op.f("ck_model_name")),
        sa.CheckConstraint("served_as in ('provisional', 'champion')", name=op.f("ck_model_served_as")),
        sa.CheckConstraint(
            "stage in ('candidate', 'provisional', 'challenger', 'champion', 'retired')", name=op.f("ck_model_stage")
        ),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_model")),
        schema="forecast",
    )
    op.create_index(
        "ix_model_one_serving",
        "model",
        ["source", "name"],
        unique=True,
        schema="forecast",
        postgresql_where=sa.text("stage in ('champion', 'provisional')"),
    )
    op.create_index(
        op.f("ix_model_source_name_version"), "model", ["source", "name", "version"], unique=True, schema="forecast"
    )
    op.create_table(
        "batch",
        sa.Column("batch_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("read_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ingested_at", sa.DateTime(timezone=True)),
        sa.Column(
            "watermark",
            sa.DateTime(timezone=True),
            comment="greatest available_at taken over so far: what the data are known up to",
        ),
        sa.Column(
            "stays_watermark",
            sa.DateTime(timezone=True),
            comment="the same of stays; the next batch reads them from an overlap before it",
        ),
        sa.Column(
            "observations_watermark",
            sa.DateTime(timezone=True),
            comment="the same of observations, which may lag behind the stays",
        ),
        sa.Column("status", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("stays_read", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stays_added", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("observations_read", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("observations_added", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("quarantined", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unmapped", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint("status in ('running', 'done', 'failed', 'abandoned')", name=op.f("ck_batch_status")),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch")),
        schema="icu",
    )
    op.create_index(op.f("ix_batch_source_batch_id"), "batch", ["source", "batch_id"], unique=False, schema="icu")
    op.create_table(
        "observation",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("stay_id", sa.Text(), nullable=False),
        sa.Column("concept", sa.Text(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "source", "stay_id", "concept", "observed_at", "available_at", name=op.f("pk_observation")
        ),
        schema="icu",
    )
    op.create_table(
        "unit",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("beds", sa.Integer()),
        sa.CheckConstraint("beds > 0", name=op.f("ck_unit_beds")),
        sa.PrimaryKeyConstraint("source", "unit", name=op.f("pk_unit")),
        schema="icu",
    )
    op.create_table(
        "observation",
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("row_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stay_id", sa.Text()),
        sa.Column("variable", sa.Text()),
        sa.Column("unit", sa.Text()),
        sa.Column("observed_at", sa.Text()),
        sa.Column("available_at", sa.Text()),
        sa.Column("value", sa.Text()),
        schema="landing",
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "stay",
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("row_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("stay_id", sa.Text()),
        sa.Column("available_at", sa.Text()),
        sa.Column("patient_id", sa.Text()),
        sa.Column("unit", sa.Text()),
        sa.Column("unit_type", sa.Text()),
        sa.Column("intime", sa.Text()),
        sa.Column("outtime", sa.Text()),
        sa.Column("outcome", sa.Text()),
        sa.Column("ends_at", sa.Text()),
        sa.Column("end_precision_hours", sa.Text()),
        sa.Column("hospital_intime", sa.Text()),
        sa.Column("hospital_outtime", sa.Text()),
        sa.Column("died_at", sa.Text()),
        sa.Column("age_years", sa.Text()),
        sa.Column("sex", sa.Text()),
        sa.Column("height_cm", sa.Text()),
        sa.Column("weight_kg", sa.Text()),
        sa.Column("admission_type", sa.Text()),
        schema="landing",
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "check_result",
        sa.Column("check_result_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("batch_id", sa.BigInteger()),
        sa.Column("run_id", sa.BigInteger()),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("check_name", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("rows_checked", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rows_failed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "checked_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("check_result_id", name=op.f("pk_check_result")),
        schema="quality",
    )
    op.create_index(
        op.f("ix_check_result_source_checked_at"),
        "check_result",
        ["source", "checked_at"],
        unique=False,
        schema="quality",
    )
    op.create_table(
        "quarantine",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("relation", sa.Text(), nullable=False),
        sa.Column("row_hash", sa.Text(), nullable=False),
        sa.Column("check_name", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("row", JSONB(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("disposition", sa.Text(), server_default=sa.text("'rejected'"), nullable=False),
        sa.Column(
            "quarantined_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("disposition in ('rejected', 'corrected')", name=op.f("ck_quarantine_disposition")),
        sa.PrimaryKeyConstraint("source", "relation", "row_hash", "check_name", name=op.f("pk_quarantine")),
        schema="quality",
    )
    op.create_index(op.f("ix_quarantine_batch_id"), "quarantine", ["batch_id"], unique=False, schema="quality")
    op.create_table(
        "run",
        sa.Column("run_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), server_default=sa.text("'champion'"), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("status", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("stays_scored", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stays_abstained", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("watermark", sa.DateTime(timezone=True)),
        sa.Column("newest_observation_at", sa.DateTime(timezone=True)),
        sa.Column("flow_run_id", sa.Text()),
        sa.Column("model_id", sa.Text()),
        sa.Column("model_stage", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint("kind in ('ingest', 'forecast', 'backfill', 'train', 'evaluate')", name=op.f("ck_run_kind")),
        sa.CheckConstraint("role in ('champion', 'shadow')", name=op.f("ck_run_role")),
        sa.CheckConstraint("status in ('running', 'published', 'failed')", name=op.f("ck_run_status")),
        sa.ForeignKeyConstraint(["model_id"], ["forecast.model.model_id"], name=op.f("fk_run_model_id")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run")),
        schema="forecast",
    )
    op.create_index(
        op.f("ix_run_source_kind_status_as_of"),
        "run",
        ["source", "kind", "status", "as_of"],
        unique=False,
        schema="forecast",
    )
    op.create_table(
        "stay_version",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("stay_id", sa.Text(), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text()),
        sa.Column("unit_type", sa.Text()),
        sa.Column("intime", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outtime", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Text()),
        sa.Column("ends_at", sa.Text(), nullable=False),
        sa.Column("end_precision_hours", sa.Double()),
        sa.Column("hospital_intime", sa.DateTime(timezone=True)),
        sa.Column("hospital_outtime", sa.DateTime(timezone=True)),
        sa.Column("died_at", sa.DateTime(timezone=True)),
        sa.Column("age_years", sa.Double()),
        sa.Column("sex", sa.Text()),
        sa.Column("height_cm", sa.Double()),
        sa.Column("weight_kg", sa.Double()),
        sa.Column("admission_type", sa.Text()),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("ends_at in ('unit', 'hospital')", name=op.f("ck_stay_version_ends_at")),
        sa.CheckConstraint("outcome in ('alive', 'died')", name=op.f("ck_stay_version_outcome")),
        sa.CheckConstraint("outtime > intime", name=op.f("ck_stay_version_ends_after_it_begins")),
        sa.ForeignKeyConstraint(["batch_id"], ["icu.batch.batch_id"], name=op.f("fk_stay_version_batch_id")),
        sa.PrimaryKeyConstraint("source", "stay_id", "available_at", name=op.f("pk_stay_version")),
        schema="icu",
    )
    op.create_index(
        op.f("ix_stay_version_source_available_at"),
        "stay_version",
        ["source", "available_at"],
        unique=False,
        schema="icu",
    )
    op.create_table(
        "score",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False, comment="'all' over all units"),
        sa.Column("month", sa.Text(), nullable=False, comment="'all' over all months, else YYYY-MM of the prediction"),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("low", sa.Double()),
        sa.Column("high", sa.Double()),
        sa.Column("baseline", sa.Double(), comment="the trivial baseline's value on the same rows"),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["forecast.model.model_id"], name=op.f("fk_score_model_id")),
        sa.ForeignKeyConstraint(["run_id"], ["forecast.run.run_id"], name=op.f("fk_score_run_id")),
        sa.PrimaryKeyConstraint("run_id", "model_id", "unit", "month", "metric", name=op.f("pk_score")),
        schema="forecast",
    )
    op.create_table(
        "stay_forecast",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("prediction_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stay_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text()),
        sa.Column("mortality_risk", sa.Double()),
        sa.Column("prolonged_stay_risk", sa.Double()),
        sa.Column("remaining_los_p10_hours", sa.Double()),
        sa.Column("remaining_los_p50_hours", sa.Double()),
        sa.Column("remaining_los_p90_hours", sa.Double()),
        sa.Column("discharge_24h_prob", sa.Double()),
        sa.Column("discharge_48h_prob", sa.Double()),
        sa.Column("discharge_72h_prob", sa.Double()),
        sa.Column("risk_band", sa.Text()),
        sa.Column("n_observations", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("hours_since_last_observation", sa.Double()),
        sa.CheckConstraint(
            "(status = 'abstained') = (status_reason is not null)", name=op.f("ck_stay_forecast_abstains_with_a_reason")
        ),
        sa.CheckConstraint(
            "(status = 'scored') = (mortality_risk is not null)", name=op.f("ck_stay_forecast_abstains_without_numbers")
        ),
        sa.CheckConstraint("status in ('scored', 'abstained')", name=op.f("ck_stay_forecast_status")),
        sa.CheckConstraint(
            "discharge_24h_prob between 0 and 1", name=op.f("ck_stay_forecast_discharge_24h_prob_is_a_probability")
        ),
        sa.CheckConstraint(
            "discharge_48h_prob between 0 and 1", name=op.f("ck_stay_forecast_discharge_48h_prob_is_a_probability")
        ),
        sa.CheckConstraint(
            "discharge_72h_prob between 0 and 1", name=op.f("ck_stay_forecast_discharge_72h_prob_is_a_probability")
        ),
        sa.CheckConstraint(
            "mortality_risk between 0 and 1", name=op.f("ck_stay_forecast_mortality_risk_is_a_probability")
        ),
        sa.CheckConstraint(
            "prolonged_stay_risk between 0 and 1", name=op.f("ck_stay_forecast_prolonged_stay_risk_is_a_probability")
        ),
        sa.ForeignKeyConstraint(["model_id"], ["forecast.model.model_id"], name=op.f("fk_stay_forecast_model_id")),
        sa.ForeignKeyConstraint(["run_id"], ["forecast.run.run_id"], name=op.f("fk_stay_forecast_run_id")),
        sa.PrimaryKeyConstraint("model_id", "source", "prediction_time", "stay_id", name=op.f("pk_stay_forecast")),
        schema="forecast",
    )
    op.create_index(op.f("ix_stay_forecast_run_id"), "stay_forecast", ["run_id"], unique=False, schema="forecast")
    op.create_index(
        op.f("ix_stay_forecast_source_stay_id_prediction_time"),
        "stay_forecast",
        ["source", "stay_id", "prediction_time"],
        unique=False,
        schema="forecast",
    )
    op.create_table(
        "unit_los_forecast",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("prediction_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False, comment="1 is the next stay to end in the unit"),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("los_days", sa.Double(), nullable=False),
        sa.Column("last_los_days", sa.Double()),
        sa.Column("median_los_days", sa.Double()),
        sa.Column("n_stays", sa.Integer(), nullable=False),
        sa.CheckConstraint("los_days >= 0", name=op.f("ck_unit_los_forecast_los_days")),
        sa.ForeignKeyConstraint(["model_id"], ["forecast.model.model_id"], name=op.f("fk_unit_los_forecast_model_id")),
        sa.ForeignKeyConstraint(["run_id"], ["forecast.run.run_id"], name=op.f("fk_unit_los_forecast_run_id")),
        sa.PrimaryKeyConstraint(
            "model_id", "source", "unit", "prediction_time", "step", name=op.f("pk_unit_los_forecast")
        ),
        schema="forecast",
    )
    op.create_index(
        op.f("ix_unit_los_forecast_run_id"), "unit_los_forecast", ["run_id"], unique=False, schema="forecast"
    )
