"""Schedules in a hospital's own time zone, on the days when its clocks change: every hour once, every daily job once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.server.schemas.schedules import CronSchedule

from flows.runtime import clock
from flows.runtime.settings import Settings, SourceSettings
from flows.server.deploy import _is_active, plan_deployments
from rnn_core.contracts.errors import ForecastError

# Two days around each change: Berlin to summer and to winter, New York likewise, Lord Howe by half an hour.
CHANGES = [
    ("Europe/Berlin", datetime(2027, 3, 27, 12, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2027, 10, 30, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2027, 3, 13, 12, tzinfo=UTC)),
    ("America/New_York", datetime(2027, 11, 6, 12, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 4, 3, 0, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2027, 10, 2, 0, tzinfo=UTC)),
]


def due(name: str, timezone: str, start: datetime, **schedules: str) -> list[datetime]:
    """When a deployment runs within 48 hours from `start`, UTC; as shipped but for `schedules`."""
    settings = Settings(sources={"clif": SourceSettings(timezone=timezone, schedules=schedules)}, _env_file=None)
    (plan,) = (d for d in plan_deployments(["clif"], settings) if d.full_name == name)
    dates = asyncio.run(CronSchedule(cron=plan.schedule, timezone=plan.timezone).get_dates(200, start))
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


@pytest.mark.parametrize(("timezone", "start"), CHANGES[1::4])
@pytest.mark.parametrize(
    "line", ["@hourly", "5 0-23 * * *", "5 */1 * * *", "5 0-11,12-23 * * *", "*/20 * * * *", "5 * * * 0-6"]
)
def test_a_line_that_means_every_hour_is_hourly_however_it_is_spelt(line, timezone, start):
    found = due("ingest/hourly", timezone, start, ingest_hourly=line)
    assert {clock.floor_hour(time) for time in found} == {start + timedelta(hours=n) for n in range(48)}


def planned(**schedules: str):
    settings = Settings(sources={"clif": SourceSettings(timezone="Europe/Berlin", schedules=schedules)}, _env_file=None)
    return {deployment.full_name: deployment for deployment in plan_deployments(["clif"], settings)}


@pytest.mark.parametrize(
    ("line", "timezone"),
    [
        ("5 8-18 * * *", "Europe/Berlin"),
        ("5 */2 * * *", "Europe/Berlin"),
        ("@daily", "Europe/Berlin"),
        ("5 * * * 1-5", "UTC"),
    ],
)
def test_a_line_that_leaves_hours_out_is_read_in_the_zone_of_the_source(line, timezone):
    assert planned(ingest_hourly=line)["ingest/hourly"].timezone == timezone


@pytest.mark.parametrize("line", ["hourly", "61 * * * *", "0 0 30 2 *", "R * * * *"])
def test_a_line_that_is_no_schedule_is_refused_by_the_name_of_its_deployment(line):
    with pytest.raises(ForecastError, match="The schedule of ingest/hourly of clif is invalid"):
        planned(ingest_hourly=line)


@pytest.mark.parametrize(
    ("there", "is_active"),
    [
        ([], True),
        ([("2 * * * *", "UTC", True)], True),
        ([("2 * * * *", "UTC", False)], False),
        ([("7 * * * *", "UTC", False)], False),
        ([("2 * * * *", "UTC", False), ("7 7 * * *", "UTC", True)], False),
    ],
    ids=["new", "running", "paused", "paused, with another line now", "paused beside another"],
)
def test_a_schedule_that_somebody_paused_stays_paused(there, is_active):
    schedules = [
        DeploymentSchedule(schedule={"cron": cron, "timezone": timezone}, active=active)
        for cron, timezone, active in there
    ]
    assert _is_active(schedules, planned()["ingest/hourly"]) is is_active
