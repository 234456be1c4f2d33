"""Publication: a run's rows replace its slot in one transaction, and readers see all of them or none."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    DateTime,
    Double,
    Engine,
    Integer,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.published.runs import lock_open_run, mark_published, utc
from sql.store.copy import copy_arrow
from sql.store.schema import concept_drift, score, stay_forecast, stay_forecast_driver, unit_forecast, unit_los_forecast

_PINNED = ("model_id", "source", "prediction_time", "run_id")
STAY_FORECAST_COLUMNS: tuple[str, ...] = tuple(c.name for c in stay_forecast.c if c.name not in _PINNED)
DRIVER_COLUMNS: tuple[str, ...] = tuple(c.name for c in stay_forecast_driver.c if c.name not in _PINNED)
UNIT_FORECAST_COLUMNS: tuple[str, ...] = tuple(c.name for c in unit_forecast.c if c.name not in _PINNED)
UNIT_LOS_COLUMNS: tuple[str, ...] = tuple(c.name for c in unit_los_forecast.c if c.name not in _PINNED)

_ARROW = {
    Text: pa.string(),
    Double: pa.float64(),
    BigInteger: pa.int64(),
    Integer: pa.int32(),
    DateTime: pa.timestamp("us", "UTC"),
    ARRAY: pa.list_(pa.float64()),
}


@dataclass(frozen=True)
class _Slot:
    """What one publication replaces: all rows of a model for a source at a prediction time."""

    model_id: str
    source: str
    prediction_time: datetime

    def rows(self, table: Table):
        return and_(
            table.c.model_id == self.model_id,
            table.c.source == self.source,
            table.c.prediction_time == self.prediction_time,
        )


@dataclass(frozen=True)
class _Part:
    """A slot of one table with its new rows."""

    table: Table
    slot: _Slot
    rows: pa.Table


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a run of forecasts publishes: the rows of one slot (model, source, prediction time) and their drivers.

    stays: STAY_FORECAST_COLUMNS, a row per stay. drivers: DRIVER_COLUMNS, a row per stay and rank; none by default.
    census: UNIT_FORECAST_COLUMNS, a row per unit and horizon; none by default.
    units: UNIT_LOS_COLUMNS, a row per unit and step, forecast by `unit_model_id`; without it the units' slot is left alone.
    watermark, newest_observation_at: how far the source and the observations reach; UTC.
    """

    run_id: int
    kind: str = "forecast"
    model_id: str
    source: str
    prediction_time: datetime
    stays: pd.DataFrame
    drivers: pd.DataFrame | None = None
    census: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    unit_model_id: str | None = None
    watermark: datetime | None = None
    newest_observation_at: datetime | None = None

    def _parts(self) -> Iterator["_Part"]:
        time = utc(self.prediction_time)
        slot = _Slot(self.model_id, self.source, time)
        yield _part(stay_forecast, STAY_FORECAST_COLUMNS, self.stays, slot, self.run_id)
        yield _part(stay_forecast_driver, DRIVER_COLUMNS, self.drivers, slot, self.run_id)
        yield _part(unit_forecast, UNIT_FORECAST_COLUMNS, self.census, slot, self.run_id)
        if self.unit_model_id is not None:
            slot = _Slot(self.unit_model_id, self.source, time)
            yield _part(unit_los_forecast, UNIT_LOS_COLUMNS, self.units, slot, self.run_id)


def publish(engine: Engine, publication: Publication) -> dict[str, int]:
    """Replace the slots of a publication and mark its run published: all or nothing.

    Publishing the same again leaves the same rows. Of two runs that publish one slot at once, one waits and then replaces
    the rows of the other. Readers take per slot the newest published champion run (greatest run_id); the rows of an older
    champion stay in the table. A watermark after the slot (in a back-fill) is stored as the slot: no later row
    was used.

    Returns `stays_scored` and `stays_abstained`. Raises ContractError if a frame or the run does not fit, ForecastError if
    the database refuses; the run is then still `running`, and the caller fails it.
    """
    run_id, time, parts = publication.run_id, utc(publication.prediction_time), list(publication._parts())
    scored = int((publication.stays["status"] == "scored").sum())
    counts = {"stays_scored": scored, "stays_abstained": len(publication.stays) - scored}
    about = {
        "model_id": publication.model_id,
        "watermark": None if publication.watermark is None else min(utc(publication.watermark), time),
        "newest_observation_at": utc(publication.newest_observation_at),
    }
    with _no_values_in_errors(run_id):
        with engine.begin() as connection:
            # By itself: a new month locks forecast.run until it is committed.
            connection.execute(text("select forecast.add_month(:at)"), {"at": time})
        with engine.begin() as connection:
            for part in parts:
                _replace_slot(connection, part, run_id, publication.kind)
            mark_published(connection, run_id, about | counts)
    return counts


def write_scores(connection: Connection, run_id: int, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write the rows of `forecast.score` of an evaluation (all columns but run_id), replacing those it wrote before.

    They belong to the connection's transaction; `forecast.scorecard` shows them once the run is finished. A NaN is
    stored as null.
    """
    return _write_of_run(connection, score, run_id, rows)


def write_drift(connection: Connection, run_id: int, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write the rows of `forecast.concept_drift` of an evaluation, as `write_scores` does."""
    return _write_of_run(connection, concept_drift, run_id, rows)


def _write_of_run(connection: Connection, table: Table, run_id: int, rows: Iterable[Mapping[str, Any]]) -> int:
    values = [{"run_id": run_id, **{k: None if v != v else v for k, v in row.items()}} for row in rows]
    connection.execute(delete(table).where(table.c.run_id == run_id))
    if values:
        connection.execute(insert(table), values)
    return len(values)


def _replace_slot(connection: Connection, part: _Part, run_id: int, kind: str) -> None:
    """Replace the slot's rows within the connection's transaction."""
    table, slot, rows = part.table, part.slot, part.rows
    name = f"publish {table.name} {slot.model_id} {slot.source} {slot.prediction_time.isoformat()}"
    # Held to the end of the transaction: two publishers of one slot run one after the other.
    connection.execute(text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})
    row = lock_open_run(connection, run_id)
    if (row.source, row.as_of, row.kind) != (slot.source, slot.prediction_time, kind):
        raise ContractError(
            f"Run {run_id} is a {row.kind} of {row.source} as of {row.as_of.isoformat()} and publishes nothing else; "
            f"requested was a {kind} of {slot.source} as of {slot.prediction_time.isoformat()}."
        )
    connection.execute(delete(table).where(slot.rows(table)))
    copy_arrow(connection, table.fullname, rows)
    stored = select(func.count()).select_from(table).where(slot.rows(table), table.c.run_id == run_id)
    if (found := connection.execute(stored).scalar_one()) != rows.num_rows:
        raise ForecastError(
            f"Run {run_id} wrote {rows.num_rows} rows to {table.fullname}, but {found} are there; nothing was "
            "published. Look for a trigger or a rule on the table."
        )


def _part(table: Table, columns: tuple[str, ...], frame: pd.DataFrame | None, slot: _Slot, run_id: int) -> _Part:
    """The slot with the rows of the frame; without one it is emptied."""
    frame = pd.DataFrame(columns=list(columns)) if frame is None else frame
    if set(frame.columns) != set(columns):
        missing, unknown = sorted(set(columns) - set(frame.columns)), sorted(set(frame.columns) - set(columns))
        raise ContractError(
            f"A frame for {table.fullname} has the columns {list(columns)}; missing: {missing}, unknown: {unknown}."
        )
    arrays = {name: _array(table, name, frame[name]) for name in columns}
    for name, value in (*vars(slot).items(), ("run_id", run_id)):
        arrays[name] = _array(table, name, [value] * len(frame))
    return _Part(table, slot, pa.table(arrays))


def _array(table: Table, name: str, values: Any) -> pa.Array:
    wanted = _ARROW[type(table.c[name].type)]
    try:
        return pa.array(values, type=wanted, from_pandas=True)
    except (pa.ArrowException, TypeError):
        found = getattr(values, "dtype", type(values))
        raise ContractError(f"Column {name} of {table.fullname} takes {wanted}; the frame's is {found}.") from None


@contextmanager
def _no_values_in_errors(run_id: int) -> Iterator[None]:
    """Turns a database error into a sentence: the database's own text may quote a row."""
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        diag = getattr(cause, "diag", None)
        broken = diag and (diag.constraint_name or diag.column_name)
        what = f"{type(cause).__name__}, {broken}" if broken else type(cause).__name__
        raise ForecastError(
            f"The database aborted the publication of run {run_id} ({what}). Readers see all of a run or none of it, "
            "so nothing partial is visible; once the cause is gone, publishing again is safe."
        ) from None


def read_forecasts(engine: Engine, run_id: int) -> pd.DataFrame:
    """The rows of `forecast.stay_forecast` that a run published and no later run has replaced, all columns."""
    query = select(stay_forecast).where(stay_forecast.c.run_id == run_id)
    with engine.connect() as connection:
        return pd.read_sql_query(query, connection)


def count_drifted(engine: Engine, source: str) -> int:
    """Number of concepts of the serving stay forecaster that drifted in the newest evaluation."""
    query = (
        "select count(*) from forecast.drift d join forecast.model m on m.model_id = d.model_id"
        " and m.stage in ('champion', 'provisional') where d.source = :source and d.drifted"
    )
    with engine.connect() as connection:
        return connection.execute(text(query), {"source": source}).scalar_one()
