"""The slot of a run: the hour it runs for, which is when it was first scheduled, not when it started."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from flows.runtime.flow import flow_run_context
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError

if TYPE_CHECKING:
    from rnn_core.contracts.census import Calendar


def floor_hour(time: datetime) -> datetime:
    """The last whole hour at or before `time`, in UTC; a time without a zone is taken as UTC."""
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time.replace(minute=0, second=0, microsecond=0)


def parse_time(value: str) -> datetime:
    """ISO 8601 text as a UTC time. Raises ForecastError if it is not a time.

    >>> parse_time("2026-01-20T14:00+01:00")
    datetime.datetime(2026, 1, 20, 13, 0, tzinfo=datetime.timezone.utc)
    """
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise ForecastError(
            f"A time looks like 2026-01-20T14:00 (UTC) or 2026-01-20T14:00+01:00; found {value!r}."
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def slot(as_of: datetime | None, scheduled: datetime | None = None) -> datetime:
    """The hour a run is for: as requested, else as scheduled, else now; floored to the hour.

    Raises ForecastError for a slot in the future.
    """
    now = datetime.now(UTC)
    chosen = floor_hour(as_of or scheduled or now)
    if chosen > now:
        raise ForecastError(f"The hour {chosen.isoformat()} has not come yet (now {now:%Y-%m-%dT%H:%M}Z).")
    return chosen


def slots(start: datetime, end: datetime, every: timedelta) -> list[datetime]:
    """Whole hours from `start` to `end` inclusive, `every` apart."""
    if every < timedelta(hours=1) or every % timedelta(hours=1):
        raise ForecastError(f"Slots are whole hours apart; found {every}.")
    first, last = floor_hour(start), floor_hour(end)
    if last < first:
        raise ForecastError(f"Give the times from the earlier to the later; found {first} to {last}.")
    return [first + every * step for step in range((last - first) // every + 1)]


def to_numpy(time: datetime) -> np.datetime64:
    """A UTC time as datetime64[us] without a zone, the form in frames and arrays."""
    return np.datetime64(time.replace(tzinfo=None), "us")


def newest(times: np.ndarray) -> datetime | None:
    """The latest of some datetime64 times as a UTC time; None if there are none."""
    return times.max().astype("datetime64[us]").item().replace(tzinfo=UTC) if len(times) else None


def calendar(source: str) -> "Calendar":
    """What the arrivals of a source follow."""
    from rnn_core.contracts.census import Calendar

    settings = load_settings().source(source)
    return Calendar(settings.data_timezone, settings.holidays)


def scheduled_time() -> datetime | None:
    """When the current Prefect flow run was first scheduled; None outside a flow run."""
    context = flow_run_context()
    if not context or not context.flow_run or not context.flow_run.expected_start_time:
        return None
    # Prefect's own datetime type subtracts to durations that divide differently from Python's.
    return datetime.fromtimestamp(context.flow_run.expected_start_time.timestamp(), UTC)
