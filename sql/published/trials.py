"""Silent trials: while one is open for a source, its forecasts are scored and judged but shown to no reader."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, func, insert, select, update

from rnn_core.contracts.errors import ForecastError
from sql.store.schema import trial


def start_trial(engine: Engine, source: str, days: int, started_at: datetime) -> dict[str, Any]:
    """Put a source on trial and return the trial's row. Raises ForecastError where one is open.

    started_at: forecasts for this hour and later ones are judged.
    """
    if there := open_trial(engine, source):
        raise ForecastError(
            f"{source} is on trial since {there['started_at']:%Y-%m-%d}; end that trial first "
            f"(`icu-forecast trial end {source}`)."
        )
    values = {"source": source, "started_at": started_at, "ends_at": started_at + timedelta(days=days)}
    with engine.begin() as connection:
        return dict(connection.execute(insert(trial).values(**values).returning(trial)).mappings().one())


def open_trial(engine: Engine, source: str) -> dict[str, Any] | None:
    """The trial that the source is on, None where it is on none; one whose days are over stays open until it is ended."""
    query = select(trial).where(trial.c.source == source, trial.c.ended_at.is_(None))
    with engine.connect() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row else None


def last_trial(engine: Engine, source: str) -> dict[str, Any]:
    """The newest trial of the source, open or ended. Raises ForecastError where there was none."""
    query = select(trial).where(trial.c.source == source).order_by(trial.c.trial_id.desc()).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise ForecastError(f"{source} was never on trial; `icu-forecast trial start {source}` begins one.")
    return dict(row)


def end_trial(engine: Engine, source: str) -> dict[str, Any]:
    """End the open trial: from the next run on readers see the source's forecasts. Raises ForecastError without one."""
    ended = (
        update(trial)
        .where(trial.c.source == source, trial.c.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp())
        .returning(trial)
    )
    with engine.begin() as connection:
        row = connection.execute(ended).mappings().one_or_none()
    if row is None:
        raise ForecastError(f"{source} is on no trial, so there is none to end.")
    return dict(row)
