"""The tables, declared once: canonical data, data quality, landing and forecasts. Migrations are tested to equal this."""

from itertools import pairwise

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMAS: tuple[str, ...] = ("icu", "landing", "quality", "forecast")
_CENSUS_QUANTILES = ("05", "10", "25", "50", "75", "90", "95")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


def _time(name: str, **options) -> Column:
    return Column(name, DateTime(timezone=True), **options)


def _now(name: str) -> Column:
    return _time(name, nullable=False, server_default=text("clock_timestamp()"))


def _count(name: str) -> Column:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


def _probability(name: str) -> tuple[Column, CheckConstraint]:
    return Column(name, Double), CheckConstraint(f"{name} between 0 and 1", name=f"{name}_is_a_probability")


# ------------------------------------------------------------------------------------------------ canonical: icu

batch = Table(
    "batch",
    metadata,
    Column("batch_id", BigInteger, Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False),
    _time("as_of", nullable=False),
    _time("read_since", nullable=False),
    _now("started_at"),
    # Null until the batch's one transaction committed; the time a row became visible to readers.
    _time("ingested_at"),
    _time("watermark", comment="greatest available_at taken over so far: what the data are known up to"),
    _time("stays_watermark", comment="the same of stays; the next batch reads them from an overlap before it"),
    _time("observations_watermark", comment="the same of observations, which may lag behind the stays"),
    Column("status", Text, nullable=False, server_default=text("'running'")),
    Column("error", Text),
    *(_count(c) for c in ("stays_read", "stays_added", "observations_read", "observations_added", "quarantined")),
    Column("unmapped", JSONB, nullable=False, server_default=text("'{}'")),
    Column(
        "timezone", Text, nullable=False, server_default=text("'UTC'"), comment="the clock of the source's hospital"
    ),
    _time("beds_watermark", comment="the same of versions of beds, for a source that has beds.sql"),
    _time("plans_watermark", comment="the same of plans, for a source that has arrivals.sql"),
    Column("adapter", Text, comment="folder of sql/sources that read it"),
    CheckConstraint("status in ('running', 'done', 'failed', 'abandoned')", name="status"),
    Index(None, "source", "batch_id"),
    schema="icu",
)

stay_version = Table(
    "stay_version",
    metadata,
    Column("source", Text, primary_key=True),
    Column("stay_id", Text, primary_key=True),
    _time("available_at", primary_key=True),
    Column("patient_id", Text, nullable=False),
    Column("unit", Text),
    Column("unit_type", Text),
    _time("intime", nullable=False),
    _time("outtime"),
    Column("outcome", Text),
    Column("ends_at", Text, nullable=False),
    Column("end_precision_hours", Double),
    _time("hospital_intime"),
    _time("hospital_outtime"),
    _time("died_at"),
    Column("age_years", Double),
    Column("sex", Text),
    Column("height_cm", Double),
    Column("weight_kg", Double),
    Column("admission_type", Text),
    Column("batch_id", BigInteger, ForeignKey(batch.c.batch_id), nullable=False),
    CheckConstraint("outcome in ('alive', 'died')", name="outcome"),
    CheckConstraint("ends_at in ('unit', 'hospital')", name="ends_at"),
    CheckConstraint("outtime > intime", name="ends_after_it_begins"),
    Index(None, "source", "available_at"),
    schema="icu",
)

observation = Table(
    "observation",
    metadata,
    Column("source", Text, nullable=False),
    Column("stay_id", Text, nullable=False),
    Column("concept", Text, nullable=False),
    _time("observed_at", nullable=False),
    _time("available_at", nullable=False),
    Column("value", Double, nullable=False),
    Column("batch_id", BigInteger, nullable=False),
    # In the order of reads as of a time; within a stay, numbers before texts, which makes an append a third faster.
    PrimaryKeyConstraint("stay_id", "available_at", "observed_at", "concept", "source"),
    schema="icu",
)

# Versions of the beds of a unit; the first one of source.yaml holds since ever, which is the year 1000 here.
unit = Table(
    "unit",
    metadata,
    Column("source", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    Column("beds", Integer),
    _time("available_at", primary_key=True),
    Column("staffed_beds", Integer),
    Column("batch_id", BigInteger, ForeignKey(batch.c.batch_id), comment="null for a version older than this column"),
    CheckConstraint("beds >= 0", name="beds"),
    CheckConstraint("staffed_beds >= 0 and (beds is null or staffed_beds <= beds)", name="staffed_beds"),
    schema="icu",
)

# Versions of what a source plans; only a plan in status `planned` may still happen.
planned = Table(
    "planned",
    metadata,
    Column("source", Text, primary_key=True),
    Column("planned_id", Text, primary_key=True),
    _time("available_at", primary_key=True),
    Column("unit", Text, nullable=False),
    Column("kind", Text, nullable=False),
    _time("expected_at", nullable=False),
    Column("probability", Double, nullable=False),
    Column("status", Text, nullable=False),
    Column("stay_id", Text, comment="of the patient who moves or leaves; null where it is not known"),
    Column("batch_id", BigInteger, ForeignKey(batch.c.batch_id), nullable=False),
    CheckConstraint("kind in ('admission', 'transfer', 'discharge')", name="kind"),
    CheckConstraint("status in ('planned', 'cancelled', 'done')", name="status"),
    CheckConstraint("probability between 0 and 1", name="probability"),
    Index(None, "source", "expected_at"),
    schema="icu",
)

# Time before which a source's ended stays were purged: a reconcile reads nothing older, or it would restore them.
retention = Table(
    "retention", metadata, Column("source", Text, primary_key=True), _time("purged_until", nullable=False), schema="icu"
)

# ------------------------------------------------------------------------------------------------ landing
# Templates for each batch's own tables: unlogged raw text. After a crash the next batch reads it again.


def _landing(name: str, *columns: str) -> Table:
    return Table(name, metadata, *(Column(c, Text) for c in columns), schema="landing", prefixes=["UNLOGGED"])


landing_stay = _landing(
    "stay",
    "stay_id",
    "available_at",
    "patient_id",
    "unit",
    "unit_type",
    "intime",
    "outtime",
    "outcome",
    "ends_at",
    "end_precision_hours",
    "hospital_intime",
    "hospital_outtime",
    "died_at",
    "age_years",
    "sex",
    "height_cm",
    "weight_kg",
    "admission_type",
)

landing_observation = _landing("observation", "stay_id", "variable", "unit", "observed_at", "available_at", "value")

landing_beds = _landing("beds", "unit", "beds", "staffed_beds", "available_at")

landing_planned = _landing(
    "planned", "planned_id", "unit", "kind", "expected_at", "available_at", "probability", "status", "stay_id"
)

# ------------------------------------------------------------------------------------------------ quality

quarantine = Table(
    "quarantine",
    metadata,
    Column("source", Text, primary_key=True),
    Column("relation", Text, primary_key=True),
    Column("row_hash", Text, primary_key=True),
    Column("check_name", Text, primary_key=True),
    Column("batch_id", BigInteger, nullable=False),
    Column("row", JSONB, nullable=False),
    Column("reason", Text, nullable=False),
    # rejected: the row is not used; corrected: it is used with the change given in `reason`.
    Column("disposition", Text, nullable=False, server_default=text("'rejected'")),
    _now("quarantined_at"),
    CheckConstraint("disposition in ('rejected', 'corrected')", name="disposition"),
    Index(None, "batch_id"),
    # Every ingest asks whose rows wait here for a stay, and a person asks for the rows of one stay.
    Index("ix_quarantine_stay_id", text("(row ->> 'stay_id')")),
    schema="quality",
)

check_result = Table(
    "check_result",
    metadata,
    Column("check_result_id", BigInteger, Identity(always=True), primary_key=True),
    Column("batch_id", BigInteger),
    Column("run_id", BigInteger),
    Column("source", Text, nullable=False),
    Column("suite", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("passed", Boolean, nullable=False),
    _count("rows_checked"),
    _count("rows_failed"),
    _now("checked_at"),
    Index(None, "source", "checked_at"),
    schema="quality",
)

# ------------------------------------------------------------------------------------------------ results: forecast

model = Table(
    "model",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("stage", Text, nullable=False, server_default=text("'candidate'")),
    Column("stage_reason", Text),
    _time("staged_at"),
    # Null for a model that never served; kept after it is retired, so that a rollback can restore model and stage.
    Column("served_as", Text),
    _time("served_at"),
    _now("trained_at"),
    _time("data_cutoff", nullable=False),
    Column("ends_at", Text),
    Column("concept_hash", Text),
    Column("artifact", Text, nullable=False),
    Column("git_revision", Text),
    Column("warm_from", Text),
    Column("config", JSONB, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("staged_by", Text, comment="user of the system whose process gave the stage"),
    Column("trained_by", Text, comment="user of the system whose process registered it"),
    CheckConstraint("name in ('stay', 'unit', 'arrivals')", name="name"),
    CheckConstraint("stage in ('candidate', 'provisional', 'challenger', 'champion', 'retired')", name="stage"),
    CheckConstraint("served_as in ('provisional', 'champion')", name="served_as"),
    Index(None, "source", "name", "version", unique=True),
    # One model serves a source at a time; a race of two promotions fails here, not in the views.
    Index(
        "ix_model_one_serving",
        "source",
        "name",
        unique=True,
        postgresql_where=text("stage in ('champion', 'provisional')"),
    ),
    schema="forecast",
)

run = Table(
    "run",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("role", Text, nullable=False, server_default=text("'champion'")),
    _time("as_of", nullable=False),
    _now("started_at"),
    _time("finished_at"),
    Column("status", Text, nullable=False, server_default=text("'running'")),
    _count("stays_scored"),
    _count("stays_abstained"),
    _time("watermark"),
    _time("newest_observation_at"),
    Column("flow_run_id", Text),
    Column("model_id", Text, ForeignKey(model.c.model_id)),
    # The model's stage when it published: provisional rows stay marked after the model's stage changes.
    Column("model_stage", Text),
    Column("error", Text),
    CheckConstraint(
        "kind in ('ingest', 'forecast', 'backfill', 'train', 'evaluate', 'catch_up', 'refresh')", name="kind"
    ),
    CheckConstraint("role in ('champion', 'shadow', 'trial')", name="role"),
    # refused: another run of the kind was running.
    CheckConstraint("status in ('running', 'published', 'failed', 'refused')", name="status"),
    Index(None, "source", "kind", "status", "as_of"),
    schema="forecast",
)

# A partition per month: `forecast.add_month` adds one before its first publication.
stay_forecast = Table(
    "stay_forecast",
    metadata,
    Column("model_id", Text, ForeignKey(model.c.model_id), primary_key=True),
    Column("source", Text, primary_key=True),
    # Before stay_id, so that the key finds a whole slot (model, source, prediction time): publishing replaces slots.
    _time("prediction_time", primary_key=True),
    Column("stay_id", Text, primary_key=True),
    Column("run_id", BigInteger, ForeignKey(run.c.run_id), nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Text),
    *_probability("mortality_risk"),
    *_probability("prolonged_stay_risk"),
    Column("remaining_los_p10_hours", Double),
    Column("remaining_los_p50_hours", Double),
    Column("remaining_los_p90_hours", Double),
    *_probability("discharge_24h_prob"),
    *_probability("discharge_48h_prob"),
    *_probability("discharge_72h_prob"),
    Column("risk_band", Text),
    _count("n_observations"),
    Column("hours_since_last_observation", Double),
    CheckConstraint("status in ('scored', 'abstained')", name="status"),
    CheckConstraint("status = 'scored' or mortality_risk is null", name="abstains_without_numbers"),
    # A scored stay without a risk of death has a reason too.
    CheckConstraint("(status_reason is null) = (mortality_risk is not null)", name="abstains_with_a_reason"),
    Index(None, "run_id"),
    Index(None, "source", "stay_id", "prediction_time"),
    postgresql_partition_by="range (prediction_time)",
    schema="forecast",
)

# Drivers of mortality risks, strongest first; in runs of kind `forecast`, for the highest risks if there are many.
stay_forecast_driver = Table(
    "stay_forecast_driver",
    metadata,
    Column("model_id", Text, ForeignKey(model.c.model_id), primary_key=True),
    Column("source", Text, primary_key=True),
    _time("prediction_time", primary_key=True),
    Column("stay_id", Text, primary_key=True),
    Column("rank", Integer, primary_key=True, comment="1 is the strongest"),
    Column("run_id", BigInteger, ForeignKey(run.c.run_id), nullable=False),
    Column("driver", Text, nullable=False, comment="a concept or a descriptor of the stay"),
    Column("direction", Text, nullable=False),
    Column("contribution", Double, nullable=False, comment="log-odds of the mortality risk, with less without it"),
    Column("last_value", Double),
    Column("value_unit", Text),
    _time("last_observed_at"),
    CheckConstraint("direction in ('raises', 'lowers')", name="direction"),
    CheckConstraint("(direction = 'raises') = (contribution > 0)", name="sign"),
    Index(None, "run_id"),
    Index(None, "source", "stay_id", "prediction_time"),
    schema="forecast",
)

unit_los_forecast = Table(
    "unit_los_forecast",
    metadata,
    Column("model_id", Text, ForeignKey(model.c.model_id), primary_key=True),
    Column("source", Text, primary_key=True),
    Column("unit", Text, primary_key=True),
    _time("prediction_time", primary_key=True),
    Column("step", Integer, primary_key=True, comment="1 is the next stay to end in the unit"),
    Column("run_id", BigInteger, ForeignKey(run.c.run_id), nullable=False),
    Column("los_days", Double, nullable=False),
    Column("last_los_days", Double),
    Column("median_los_days", Double),
    Column("n_stays", Integer, nullable=False),
    CheckConstraint("los_days >= 0", name="los_days"),
    Index(None, "run_id"),
    schema="forecast",
)

# How many patients a unit will have, by the stay model of the slot and the arrivals of the unit.
unit_forecast = Table(
    "unit_forecast",
    metadata,
    Column("model_id", Text, ForeignKey(model.c.model_id), primary_key=True),
    Column("source", Text, primary_key=True),
    _time("prediction_time", primary_key=True),
    Column("unit", Text, primary_key=True, comment="'*' is the hospital: all units of the source together"),
    Column("horizon_hours", Integer, primary_key=True),
    Column("run_id", BigInteger, ForeignKey(run.c.run_id), nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Text),
    Column("n_present", Integer, nullable=False, comment="patients at the prediction time"),
    Column("expected_census", Double),
    *(Column(f"census_p{percent}", Integer) for percent in _CENSUS_QUANTILES),
    Column("expected_arrivals", Double, comment="patients who come until then, whether they are still there or not"),
    Column("expected_discharges", Double, comment="of those at the prediction time, until then; alive"),
    Column("expected_deaths", Double, comment="the same; null where the model forecasts no risk of death"),
    Column("beds", Integer),
    Column("staffed_beds", Integer),
    *_probability("prob_full"),
    *(part for n in (1, 2, 3) for part in _probability(f"prob_free_{n}")),
    Column("census_probabilities", ARRAY(Double), comment="of 0, 1, 2 and more patients"),
    Column(
        "curves_probabilities", ARRAY(Double), comment="the same, if patients were forecast by their unit's curve alone"
    ),
    CheckConstraint("horizon_hours > 0", name="horizon_hours"),
    CheckConstraint("status in ('scored', 'abstained')", name="status"),
    CheckConstraint("(status_reason is null) = (status = 'scored')", name="abstains_with_a_reason"),
    CheckConstraint(
        "num_nulls(expected_census, census_p50, census_probabilities) = case status when 'scored' then 0 else 3 end",
        name="abstains_without_numbers",
    ),
    CheckConstraint(
        " and ".join(f"census_p{a} <= census_p{b}" for a, b in pairwise(_CENSUS_QUANTILES)), name="quantiles_rise"
    ),
    Index(None, "run_id"),
    Index(None, "source", "unit", "prediction_time"),
    schema="forecast",
)

# Written by evaluate, a set of rows per run; forecast.scorecard shows the newest set.
score = Table(
    "score",
    metadata,
    Column("run_id", BigInteger, ForeignKey(run.c.run_id), primary_key=True),
    Column("model_id", Text, ForeignKey(model.c.model_id), primary_key=True),
    Column("source", Text, nullable=False),
    Column("unit", Text, primary_key=True, comment="'all' over all units"),
    Column("month", Text, primary_key=True, comment="'all' over all months, else YYYY-MM of the prediction"),
    Column("metric", Text, primary_key=True),
    Column("value", Double),
    Column("low", Double),
    Column("high", Double),
    Column("baseline", Double, comment="the trivial baseline's value on the same rows"),
    Column("n", Integer, nullable=False),
    *(
        Column(name, Text, primary_key=True, server_default=text("'all'"), comment=f"'all' over all {what}")
        for name, what in (("age_group", "ages"), ("sex", "sexes"), ("stay_hours", "hours of the stay"))
    ),
    schema="forecast",
)

# Written by evaluate like the scores: how current observations differ from the training data.
concept_drift = Table(
    "concept_drift",
    metadata,
    Column("run_id", BigInteger, ForeignKey(run.c.run_id), primary_key=True),
    Column("model_id", Text, ForeignKey(model.c.model_id), primary_key=True),
    Column("concept", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("n_observations", BigInteger, nullable=False, comment="of the last days"),
    Column("median", Double),
    Column("reference_median", Double),
    Column("psi", Double, comment="population stability index over the tenths of the reference"),
    Column("missing", Double, comment="share of the stays of the last days without an observation"),
    Column("reference_missing", Double, nullable=False),
    Column("wrong_unit", Boolean, nullable=False, comment="the median left the range of the reference by a factor"),
    Column("drifted", Boolean, nullable=False),
    schema="forecast",
)

# While a trial is open (ended_at is null) the source's runs have the role `trial` and are shown in no view.
trial = Table(
    "trial",
    metadata,
    Column("trial_id", BigInteger, Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False),
    _time("started_at", nullable=False),
    _time("ends_at", nullable=False),
    _time("ended_at"),
    _now("made_at"),
    CheckConstraint("ends_at > started_at", name="ends_after_it_starts"),
    Index("ix_trial_one_open", "source", unique=True, postgresql_where=text("ended_at is null")),
    schema="forecast",
)

# What watch found and reported; one row while it lasts, so that one alert is sent.
incident = Table(
    "incident",
    metadata,
    Column("incident_id", BigInteger, Identity(always=True), primary_key=True),
    Column("source", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="the kind of run, the check, the concept or the model it is about"),
    Column("sentence", Text, nullable=False),
    _now("opened_at"),
    _now("seen_at"),
    _time("notified_at", comment="null while nobody was told: no ICU_NOTIFY, or it did not answer"),
    _time("closed_at"),
    CheckConstraint(
        "kind in ('late_run', 'failed_run', 'critical_check', 'stale_feed', 'drift', 'calibration', 'gave_up',"
        " 'long_run')",
        name="kind",
    ),
    Index("ix_incident_one_open", "source", "kind", "subject", unique=True, postgresql_where=text("closed_at is null")),
    schema="forecast",
)
