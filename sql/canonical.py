"""Reads of the canonical tables as of a time: stays, observations and the lengths of stay of a unit."""

import json
from datetime import UTC, datetime

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pandas as pd
from sqlalchemy import Engine, text

from rnn_core.concepts import NAMES
from rnn_core.frames import STAY_COLUMNS, Observations, check_stays
from sql.engine import libpq_uri

_TIMES = ("intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")


def read_stays(
    engine: Engine, source: str, as_of: datetime, *, only_open: bool = False, only_sound: bool = False,
    ingested_by: datetime | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Stays as known at `as_of`, one row each with the columns of STAY_COLUMNS plus `last_available_at`, ordered by
    (intime, stay_id).

    only_open: stays whose end was not known then. only_sound: without those that the stay audit names (for training).
    ingested_by: what the tables held then, to reproduce a past run.
    """
    conditions = ["s.source = :source"]
    if only_open:
        conditions.append("s.outtime is null and s.outcome is null")
    if only_sound:
        conditions.append(
            "not exists (select 1 from quality.stay_audit a where a.source = s.source and a.stay_id = s.stay_id)"
        )
    query = text(
        f"select {', '.join('s.' + c for c in STAY_COLUMNS)} from icu.stay_at(:as_of, :ingested_by) s"
        f" where {' and '.join(conditions)} order by s.intime, s.stay_id"
    )
    bound = {"source": source, "as_of": as_of, "ingested_by": ingested_by or datetime.max.replace(tzinfo=UTC)}
    with engine.connect() as connection:
        frame = pd.read_sql_query(query, connection, params=bound)
    for column in _TIMES:
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.tz_localize(None).astype("datetime64[us]")
    for column in ("end_precision_hours", "age_years", "height_cm", "weight_kg"):
        frame[column] = frame[column].astype("float64")
    return check_stays(frame)


_OBSERVATIONS = """
with wanted as materialized (
    select id, (number - 1)::int as number from json_array_elements_text($2::json) with ordinality as w (id, number)
), feature as materialized (
    select name, (number - 1)::smallint as number from json_array_elements_text($3::json) with ordinality as f (name, number)
)
select w.number, f.number, o.observed_at, o.available_at, o.value
from icu.observation o join wanted w on w.id = o.stay_id join feature f on f.name = o.concept
where o.source = $1 and o.available_at <= $4::timestamptz
"""
_INGESTED = " and o.batch_id in (select batch_id from icu.batch where ingested_at <= $5::timestamptz)"


def read_observations(
    engine: Engine, source: str, stays: pd.DataFrame, as_of: datetime, *, ingested_by: datetime | None = None
) -> Observations:
    """All versions of all observations of `stays` known at `as_of`, sorted by (available_at, observed_at)."""
    bound = [source, json.dumps(stays["stay_id"].tolist()), json.dumps(list(NAMES)), as_of.isoformat()]
    sql = _OBSERVATIONS
    if ingested_by is not None:
        sql, bound = sql + _INGESTED, [*bound, ingested_by.isoformat()]
    # ADBC fills arrow columns in C; SQLAlchemy would build a tuple of Python objects per observation.
    with adbc.connect(libpq_uri(engine)) as connection, connection.cursor() as cursor:
        cursor.execute(sql, bound)
        table = cursor.fetch_arrow_table().combine_chunks()
    stay, concept, observed, available, value = (c.to_numpy() for c in table.itercolumns())
    observed, available = observed.astype("datetime64[us]"), available.astype("datetime64[us]")
    order = np.lexsort((observed, available))
    return Observations(
        stay[order].astype(np.int32), concept[order].astype(np.int16), observed[order], available[order],
        value[order].astype(np.float64),
    )  # fmt: skip


def read_unit_lengths(engine: Engine, source: str, as_of: datetime) -> dict[str, np.ndarray]:
    """Per unit the lengths of stay in days of the stays that had ended by `as_of`, in the order of their ends."""
    stays = read_stays(engine, source, as_of, only_sound=True)
    ended = stays[stays["outtime"].notna() & stays["unit"].notna()].sort_values(["outtime", "stay_id"])
    days = (ended["outtime"] - ended["intime"]) / pd.Timedelta(days=1)
    return {str(unit): values.to_numpy(np.float64) for unit, values in days.groupby(ended["unit"], observed=True)}


def read_outcome_pairs(engine: Engine, source: str, as_of: datetime) -> pd.DataFrame:
    """Scored forecasts beside what happened, as known at `as_of`: rows of forecast.forecast_outcome.

    Left out: stays that the audit names, and predictions made before their model's data cut-off, whose outcomes the
    model may have learned from.
    """
    query = text(
        "select o.* from forecast.forecast_outcome o join forecast.model m using (model_id)"
        " where o.source = :source and o.outcome_known_at <= :as_of and o.status = 'scored' and not o.excluded"
        " and o.prediction_time > m.data_cutoff order by o.model_id, o.prediction_time, o.stay_id"
    )
    with engine.connect() as connection:
        return pd.read_sql_query(query, connection, params={"source": source, "as_of": as_of})
