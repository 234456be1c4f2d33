"""Runs and their publication: a run's rows replace its slot in one transaction, and readers see all of them or none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
from sqlalchemy import (
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
    update,
)
from sqlalchemy.exc import DBAPIError

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.store.copy import copy_arrow
from sql.store.schema import concept_drift, model, run, score, stay_forecast, stay_forecast_driver, unit_los_forecast

_PINNED = ("model_id", "source", "prediction_time", "run_id")
STAY_FORECAST_COLUMNS: tuple[str, ...] = tuple(c.name for c in stay_forecast.c if c.name not in _PINNED)
DRIVER_COLUMNS: tuple[str, ...] = tuple(c.name for c in stay_forecast_driver.c if c.name not in _PINNED)
UNIT_LOS_COLUMNS: tuple[str, ...] = tuple(c.name for c in unit_los_forecast.c if c.name not in _PINNED)
_FINISHED_WITH = ("stays_scored", "stays_abstained", "watermark", "newest_observation_at", "model_id")

_ARROW = {
    Text: pa.string(),
    Double: pa.float64(),
    BigInteger: pa.int64(),
    Integer: pa.int32(),
    DateTime: pa.timestamp("us", "UTC"),
}


# ------------------------------------------------------------------------------------------------ runs


def start_run(
    engine: Engine,
    source: str,
    kind: str,
    as_of: datetime,
    *,
    role: str = "champion",
    flow_run_id: str | None = None,
    model_id: str | None = None,
) -> int:
    """Record that a run has started, committed at once, and return its run_id; `as_of` is its slot."""
    with engine.begin() as connection:
        row = {"source": source, "kind": kind, "role": role, "as_of": _utc(as_of)}
        return connection.execute(
            insert(run).values(**row, flow_run_id=flow_run_id, model_id=model_id).returning(run.c.run_id)
        ).scalar_one()


def close_dead_runs(engine: Engine, source: str, kind: str) -> int:
    """Mark runs that are still `running` as failed and drop their landing tables; returns how many.

    Such a run can no longer publish. Call only while holding the lock of this source and kind
    (`flows.runtime.steps.alone`): then none of them has a living process.
    """
    dead = and_(run.c.source == source, run.c.kind == kind, run.c.status == "running")
    closed = (
        update(run)
        .where(dead)
        .values(
            status="failed",
            finished_at=func.clock_timestamp(),
            error="Its process died; the next run closed it.",
        )
        .returning(run.c.run_id)
    )
    with engine.begin() as connection:
        run_ids = list(connection.execute(closed).scalars())
        for run_id in run_ids:
            # Forecasts that were being checked: the check drops them, unless its process dies.
            connection.exec_driver_sql(f"drop table if exists landing.forecast_{run_id}")
    return len(run_ids)


def fail_run(engine: Engine, run_id: int, error: str) -> None:
    """Mark a run as failed with `error`, a sentence without patient data; a published run stays published."""
    with engine.begin() as connection:
        connection.execute(
            update(run)
            .where(run.c.run_id == run_id, run.c.status == "running")
            .values(status="failed", finished_at=func.clock_timestamp(), error=error)
        )


def finish_run(engine: Engine, run_id: int, **counts: Any) -> None:
    """Mark a run that publishes no forecasts as done; `counts` may be any of `_FINISHED_WITH`.

    Raises ForecastError if the run was closed as failed, ContractError for an unknown count.
    """
    if unknown := sorted(set(counts) - set(_FINISHED_WITH)):
        raise ContractError(f"A run is finished with {list(_FINISHED_WITH)}; unknown: {unknown}.")
    with engine.begin() as connection:
        _open_run(connection, run_id)
        connection.execute(_published(run_id, counts))


def last_slot(engine: Engine, source: str, kind: str, *, finished: bool = True) -> datetime | None:
    """The latest slot (UTC) of a finished run of this kind; None if there is none. finished=False: of any run."""
    query = select(func.max(run.c.as_of)).where(run.c.source == source, run.c.kind == kind)
    if finished:
        query = query.where(run.c.status == "published")
    with engine.connect() as connection:
        return connection.execute(query).scalar()


def read_run(engine: Engine, run_id: int) -> dict[str, Any]:
    """The row of a run. Raises ForecastError if there is none."""
    with engine.connect() as connection:
        row = connection.execute(select(run).where(run.c.run_id == run_id)).mappings().one_or_none()
    if row is None:
        raise ForecastError(f"There is no run {run_id}; see `select run_id, kind, as_of from forecast.run`.")
    return dict(row)


def read_forecasts(engine: Engine, run_id: int) -> pd.DataFrame:
    """The rows of `forecast.stay_forecast` that a run published and no later run has replaced, all columns."""
    query = select(stay_forecast).where(stay_forecast.c.run_id == run_id)
    with engine.connect() as connection:
        return pd.read_sql_query(query, connection)


def known_sources(engine: Engine) -> list[str]:
    """All sources that ever had a run."""
    with engine.connect() as connection:
        return list(connection.execute(select(run.c.source).distinct().order_by(run.c.source)).scalars())


def count_drifted(engine: Engine, source: str) -> int:
    """Number of concepts of the serving stay forecaster that drifted in the newest evaluation."""
    query = (
        "select count(*) from forecast.drift d join forecast.model m on m.model_id = d.model_id"
        " and m.stage in ('champion', 'provisional') where d.source = :source and d.drifted"
    )
    with engine.connect() as connection:
        return connection.execute(text(query), {"source": source}).scalar_one()


def published_slots(
    engine: Engine,
    source: str,
    kinds: str | Sequence[str] = ("forecast", "backfill"),
    *,
    role: str = "champion",
    model_id: str | None = None,
) -> list[datetime]:
    """The slots (`as_of`, UTC, oldest first) that a stay forecaster has published for `source` in runs of `kinds`.

    model_id: those of this model only.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    query = (
        select(run.c.as_of)
        .join(model)
        .where(run.c.source == source, run.c.kind.in_(kinds), run.c.role == role)
        .where(run.c.status == "published", model.c.name == "stay")
        .distinct()
        .order_by(run.c.as_of)
    )
    if model_id is not None:
        query = query.where(run.c.model_id == model_id)
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


# ------------------------------------------------------------------------------------------------ publication


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
    units: pd.DataFrame | None = None
    unit_model_id: str | None = None
    watermark: datetime | None = None
    newest_observation_at: datetime | None = None

    def _parts(self) -> Iterator["_Part"]:
        time = _utc(self.prediction_time)
        slot = _Slot(self.model_id, self.source, time)
        yield _part(stay_forecast, STAY_FORECAST_COLUMNS, self.stays, slot, self.run_id)
        drivers = pd.DataFrame(columns=list(DRIVER_COLUMNS)) if self.drivers is None else self.drivers
        yield _part(stay_forecast_driver, DRIVER_COLUMNS, drivers, slot, self.run_id)
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
    run_id, time, parts = publication.run_id, _utc(publication.prediction_time), list(publication._parts())
    scored = int((publication.stays["status"] == "scored").sum())
    counts = {"stays_scored": scored, "stays_abstained": len(publication.stays) - scored}
    about = {
        "model_id": publication.model_id,
        "watermark": None if publication.watermark is None else min(_utc(publication.watermark), time),
        "newest_observation_at": _utc(publication.newest_observation_at),
    }
    with _no_values_in_errors(run_id), engine.begin() as connection:
        for part in parts:
            _replace_slot(connection, part, run_id, publication.kind)
        connection.execute(_published(run_id, about | counts))
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
    _open_run(connection, run_id, slot, kind)
    connection.execute(delete(table).where(slot.rows(table)))
    copy_arrow(connection, table.fullname, rows)
    stored = select(func.count()).select_from(table).where(slot.rows(table), table.c.run_id == run_id)
    if (found := connection.execute(stored).scalar_one()) != rows.num_rows:
        raise ForecastError(
            f"Run {run_id} wrote {rows.num_rows} rows to {table.fullname}, but {found} are there; nothing was "
            "published. Look for a trigger or a rule on the table."
        )


def _open_run(connection: Connection, run_id: int, slot: _Slot | None = None, kind: str | None = None) -> None:
    """Lock the run's row; raises if the run cannot be published, or not into this slot."""
    row = connection.execute(select(run).where(run.c.run_id == run_id).with_for_update()).one_or_none()
    if row is None:
        raise ForecastError(f"There is no run {run_id} in forecast.run; start one before publishing.")
    if row.status == "failed":
        raise ForecastError(f"Run {run_id} is marked failed and cannot publish any more; start a new run.")
    if slot and (row.source, row.as_of, row.kind) != (slot.source, slot.prediction_time, kind):
        raise ContractError(
            f"Run {run_id} is a {row.kind} of {row.source} as of {row.as_of.isoformat()} and publishes nothing else; "
            f"requested was a {kind} of {slot.source} as of {slot.prediction_time.isoformat()}."
        )


def _published(run_id: int, values: Mapping[str, Any]):
    """The update that marks a run published, with the stage that its model has at this moment."""
    stage = select(model.c.stage).where(model.c.model_id == values.get("model_id")).scalar_subquery()
    staged = {"model_stage": stage} if values.get("model_id") else {}
    done = {"status": "published", "finished_at": func.clock_timestamp(), "error": None}
    return update(run).where(run.c.run_id == run_id).values(**done, **values, **staged)


def _part(table: Table, columns: tuple[str, ...], frame: pd.DataFrame, slot: _Slot, run_id: int) -> _Part:
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


def _utc(time: Any) -> Any:
    """The time as the database takes it; one without a zone is UTC, as in every frame."""
    if time is None or pd.isna(time):
        return None
    stamp = pd.Timestamp(time)
    return (stamp.tz_localize(UTC) if stamp.tz is None else stamp.tz_convert(UTC)).to_pydatetime()
