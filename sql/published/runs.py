"""Runs: each job records when it started, which hour it is for, and how it ended."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    and_,
    func,
    insert,
    select,
    update,
)

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.published.registry import KEPT_BACK
from sql.store.schema import model, run
from sql.store.snapshot import cut_between_ingests

_FINISHED_WITH = ("stays_scored", "stays_abstained", "watermark", "newest_observation_at", "model_id")


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
    """Record that a run has started, committed at once, and return its run_id; `as_of` is its slot.

    Its `started_at` is a cut between ingests of the source: reads of what was ingested by then see the same at any time.
    """
    with engine.begin() as connection:
        cut_between_ingests(connection, source)
        row = {"source": source, "kind": kind, "role": role, "as_of": utc(as_of)}
        return connection.execute(
            insert(run).values(**row, flow_run_id=flow_run_id, model_id=model_id).returning(run.c.run_id)
        ).scalar_one()


def add_failed_run(
    engine: Engine, source: str, kind: str, as_of: datetime, error: str, *, status: str = "failed", **more: Any
) -> None:
    """Record an attempt that ended before its run was recorded; `status` is failed or refused, `more` as of `start_run`."""
    row = {"source": source, "kind": kind, "as_of": utc(as_of), "status": status, "error": error, **more}
    with engine.begin() as connection:
        connection.execute(insert(run).values(**row, finished_at=func.clock_timestamp()))


def close_dead_runs(engine: Engine, source: str, kind: str) -> int:
    """Mark runs that are still `running` as failed and drop their landing tables; returns how many.

    Such a run can no longer publish (`finishing`), even if it is alive and only lost its lock. Call while holding the lock
    of this source and kind (`flows.runtime.steps.alone`).
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


@contextmanager
def finishing(engine: Engine, run_id: int) -> Iterator[tuple[Connection, dict[str, Any]]]:
    """One transaction that writes what a run changes and marks it as done: both, or neither if the block raises.

    Yields its connection, and a dictionary to fill with any of `_FINISHED_WITH`. Raises ForecastError, before anything is
    written, if the run was closed as failed: its lock was lost, and another run may have begun. ContractError for an
    unknown count.
    """
    with engine.begin() as connection:
        lock_open_run(connection, run_id)
        counts: dict[str, Any] = {}
        yield connection, counts
        if unknown := sorted(set(counts) - set(_FINISHED_WITH)):
            raise ContractError(f"A run is finished with {list(_FINISHED_WITH)}; unknown: {unknown}.")
        mark_published(connection, run_id, counts)


def finish_run(engine: Engine, run_id: int, **counts: Any) -> None:
    """`finishing` for a run that changes nothing else."""
    with finishing(engine, run_id) as (_, finished):
        finished.update(counts)


def last_slot(engine: Engine, source: str, kind: str, *, finished: bool = True) -> datetime | None:
    """The latest slot (UTC) of a finished run of this kind; None if there is none. finished=False: of any run.

    Trainings of models that are not to serve do not count: the next one that may serve is as due as before.
    """
    query = select(func.max(run.c.as_of)).select_from(run).outerjoin(model)
    query = query.where(run.c.source == source, run.c.kind == kind)
    query = query.where(~func.coalesce(model.c.stage_reason, "").startswith(KEPT_BACK))
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


def known_sources(engine: Engine) -> list[str]:
    """All sources that ever had a run."""
    with engine.connect() as connection:
        return list(connection.execute(select(run.c.source).distinct().order_by(run.c.source)).scalars())


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


def lock_open_run(connection: Connection, run_id: int) -> Row:
    """The run's row, locked to the end of the transaction. Raises ForecastError where it cannot be published."""
    return _open_run(connection, select(run).where(run.c.run_id == run_id).with_for_update(), run_id)


def check_open(engine: Engine, run_id: int) -> None:
    """Raises ForecastError where the run cannot be published any more, as `lock_open_run`, which decides; locks nothing."""
    with engine.connect() as connection:
        _open_run(connection, select(run).where(run.c.run_id == run_id), run_id)


def _open_run(connection: Connection, query: Select, run_id: int) -> Row:
    row = connection.execute(query).one_or_none()
    if row is None:
        raise ForecastError(f"There is no run {run_id} in forecast.run; start one before publishing.")
    if row.status == "failed":
        raise ForecastError(f"Run {run_id} is marked failed and cannot publish any more; start a new run.")
    return row


def mark_published(connection: Connection, run_id: int, values: Mapping[str, Any]) -> None:
    """Mark a run published within the connection's transaction, with the stage that its model has at this moment."""
    stage = select(model.c.stage).where(model.c.model_id == values.get("model_id")).scalar_subquery()
    staged = {"model_stage": stage} if values.get("model_id") else {}
    done = {"status": "published", "finished_at": func.clock_timestamp(), "error": None}
    connection.execute(update(run).where(run.c.run_id == run_id).values(**done, **values, **staged))


def utc(time: Any) -> Any:
    """The time as the database takes it; one without a zone is UTC, as in every frame."""
    if time is None or pd.isna(time):
        return None
    stamp = pd.Timestamp(time)
    return (stamp.tz_localize(UTC) if stamp.tz is None else stamp.tz_convert(UTC)).to_pydatetime()
