"""The forecast of a unit's patients; beds in versions; what a source plans; the clock of a source."""

from itertools import pairwise

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_QUANTILES = ("05", "10", "25", "50", "75", "90", "95")
_PROBABILITIES = ("prob_full", "prob_free_1", "prob_free_2", "prob_free_3")
_SINCE_EVER = "timestamptz '1000-01-01 00:00+00'"


def upgrade() -> None:
    op.add_column(
        "batch",
        sa.Column(
            "timezone",
            sa.Text(),
            nullable=False,
            server_default=sa.text("'UTC'"),
            comment="the clock of the source's hospital",
        ),
        schema="icu",
    )
    _beds_in_versions()
    op.create_table(
        "planned",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("planned_id", sa.Text(), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("expected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("stay_id", sa.Text(), comment="of the patient who moves or leaves; null where it is not known"),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind in ('admission', 'transfer', 'discharge')", name=op.f("ck_planned_kind")),
        sa.CheckConstraint("status in ('planned', 'cancelled', 'done')", name=op.f("ck_planned_status")),
        sa.CheckConstraint("probability between 0 and 1", name=op.f("ck_planned_probability")),
        sa.ForeignKeyConstraint(["batch_id"], ["icu.batch.batch_id"], name=op.f("fk_planned_batch_id")),
        sa.PrimaryKeyConstraint("source", "planned_id", "available_at", name=op.f("pk_planned")),
        schema="icu",
    )
    op.create_index(op.f("ix_planned_source_expected_at"), "planned", ["source", "expected_at"], schema="icu")
    _unit_forecast()


def _beds_in_versions() -> None:
    op.add_column(
        "unit",
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text(_SINCE_EVER)),
        schema="icu",
    )
    op.alter_column("unit", "available_at", server_default=None, schema="icu")
    op.add_column("unit", sa.Column("staffed_beds", sa.Integer()), schema="icu")
    op.add_column(
        "unit",
        sa.Column("batch_id", sa.BigInteger(), comment="null for a version older than this column"),
        schema="icu",
    )
    op.create_foreign_key(
        op.f("fk_unit_batch_id"),
        "unit",
        "batch",
        ["batch_id"],
        ["batch_id"],
        source_schema="icu",
        referent_schema="icu",
    )
    op.drop_constraint(op.f("pk_unit"), "unit", schema="icu", type_="primary")
    op.create_primary_key(op.f("pk_unit"), "unit", ["source", "unit", "available_at"], schema="icu")
    op.drop_constraint(op.f("ck_unit_beds"), "unit", schema="icu", type_="check")
    op.create_check_constraint(op.f("ck_unit_beds"), "unit", "beds >= 0", schema="icu")
    op.create_check_constraint(
        op.f("ck_unit_staffed_beds"),
        "unit",
        "staffed_beds >= 0 and (beds is null or staffed_beds <= beds)",
        schema="icu",
    )


def _unit_forecast() -> None:
    op.create_table(
        "unit_forecast",
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("prediction_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False, comment="'*' is the hospital: all units of the source together"),
        sa.Column("horizon_hours", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_reason", sa.Text()),
        sa.Column("n_present", sa.Integer(), nullable=False, comment="patients at the prediction time"),
        sa.Column("expected_census", sa.Double()),
        *(sa.Column(f"census_p{percent}", sa.Integer()) for percent in _QUANTILES),
        sa.Column(
            "expected_arrivals",
            sa.Double(),
            comment="patients who come until then, whether they are still there or not",
        ),
        sa.Column("expected_discharges", sa.Double(), comment="of those at the prediction time, until then; alive"),
        sa.Column("expected_deaths", sa.Double(), comment="the same; null where the model forecasts no risk of death"),
        sa.Column("beds", sa.Integer()),
        sa.Column("staffed_beds", sa.Integer()),
        *(sa.Column(name, sa.Double()) for name in _PROBABILITIES),
        sa.Column("census_probabilities", sa.ARRAY(sa.Double()), comment="of 0, 1, 2 and more patients"),
        *(
            sa.CheckConstraint(f"{name} between 0 and 1", name=op.f(f"ck_unit_forecast_{name}_is_a_probability"))
            for name in _PROBABILITIES
        ),
        sa.CheckConstraint("horizon_hours > 0", name=op.f("ck_unit_forecast_horizon_hours")),
        sa.CheckConstraint("status in ('scored', 'abstained')", name=op.f("ck_unit_forecast_status")),
        sa.CheckConstraint(
            "(status_reason is null) = (status = 'scored')", name=op.f("ck_unit_forecast_abstains_with_a_reason")
        ),
        sa.CheckConstraint(
            "num_nulls(expected_census, census_p50, census_probabilities) = case status when 'scored' then 0 else 3 end",
            name=op.f("ck_unit_forecast_abstains_without_numbers"),
        ),
        sa.CheckConstraint(
            " and ".join(f"census_p{a} <= census_p{b}" for a, b in pairwise(_QUANTILES)),
            name=op.f("ck_unit_forecast_quantiles_rise"),
        ),
        sa.ForeignKeyConstraint(["model_id"], ["forecast.model.model_id"], name=op.f("fk_unit_forecast_model_id")),
        sa.ForeignKeyConstraint(["run_id"], ["forecast.run.run_id"], name=op.f("fk_unit_forecast_run_id")),
        sa.PrimaryKeyConstraint(
            "model_id", "source", "prediction_time", "unit", "horizon_hours", name=op.f("pk_unit_forecast")
        ),
        schema="forecast",
    )
    op.create_index(op.f("ix_unit_forecast_run_id"), "unit_forecast", ["run_id"], schema="forecast")
    op.create_index(
        op.f("ix_unit_forecast_source_unit_prediction_time"),
        "unit_forecast",
        ["source", "unit", "prediction_time"],
        schema="forecast",
    )


def downgrade() -> None:
    op.drop_table("unit_forecast", schema="forecast")
    op.drop_table("planned", schema="icu")
    op.execute(
        "delete from icu.unit u using icu.unit later where later.source = u.source and later.unit = u.unit"
        " and later.available_at > u.available_at"
    )
    op.execute("update icu.unit set beds = null where beds = 0")
    op.drop_constraint(op.f("ck_unit_staffed_beds"), "unit", schema="icu", type_="check")
    op.drop_constraint(op.f("ck_unit_beds"), "unit", schema="icu", type_="check")
    op.create_check_constraint(op.f("ck_unit_beds"), "unit", "beds > 0", schema="icu")
    op.drop_constraint(op.f("pk_unit"), "unit", schema="icu", type_="primary")
    for column in ("batch_id", "staffed_beds", "available_at"):
        op.drop_column("unit", column, schema="icu")
    op.create_primary_key(op.f("pk_unit"), "unit", ["source", "unit"], schema="icu")
    op.drop_column("batch", "timezone", schema="icu")
