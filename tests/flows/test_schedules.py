"""Schedules in a hospital's own time zone, on the days when its clocks change: every hour once, every daily job once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from prefect.server.schemas.schedules import CronSchedule

from flows.runtime import clock
from flows.runtime.settings import Settings, SourceSettings
from flows.server.deploy import plan_deployments

# Two days around each change: Berlin to summer and to winter, New York likewise, Lord Howe by half an hour.
CHANGES = [
    ("Europe/Berlin", datetime(2027, 3, 27, 12, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2027, 10, 30, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2027, 3, 13, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2027, 11, 6, 12, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 4, 3, 0, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 10, 2, 0, tzinfo=UTC)),
]


def due(name: str, timezone: str, start: datetime) -> list[datetime]:
    """When a shipped deployment runs within 48 hours from `start`, UTC."""
    settings = Settings(sources={"clif": SourceSettings(timezone=timezone)}, _env_file=None)
    (plan,) = (d for d in plan_deployments(["clif"], settings) if d.full_name == name)
    dates = asyncio.run(CronSchedule(cron=plan.schedule, timezone=plan.timezone).get_dates(100, start))
    return [time for date in dates if (time := date.astimezone(UTC)) < start + timedelta(hours=48)]


@pytest.mark.parametrize(("timezone", "start"), CHANGES)
@pytest.mark.parametrize("name", ["ingest/hourly", "forecast/hourly", "catch_up/hourly"])
def test_an_hourly_job_speaks_for_every_hour_once_when_the_clocks_change(name, timezone, start):
    slots = Counter(clock.floor_hour(time) for time in due(name, timezone, start))
    assert slots == Counter(start + timedelta(hours=n) for n in range(48))


@pytest.mark.parametrize(("timezone", "start"), CHANGES)
@pytest.mark.parametrize("name", ["ingest/nightly", "evaluate/daily"])
def test_a_daily_job_runs_once_a_day_when_the_clocks_change(name, timezone, start):
    times = due(name, timezone, start)
    assert len(times) == 2
    assert timedelta(hours=22.9) <= times[1] - times[0] <= timedelta(hours=25.1)
