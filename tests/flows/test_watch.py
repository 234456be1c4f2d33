"""The watch: every kind of fault is told once, to a real receiver, and nothing is told while all is well."""

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import gethostname

import pytest
from builders_sql import tuples
from sqlalchemy import text
from typer.testing import CliRunner

from flows.cli import app
from flows.jobs.evaluate import evaluate
from flows.jobs.forecast import forecast
from flows.jobs.ingest import ingest
from flows.jobs.watch import watch
from flows.runtime import clock, notify
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError, QualityError
from sql.published import incidents
from sql.published.incidents import Incident

AT = datetime(2026, 1, 19, tzinfo=UTC)


@pytest.fixture
def inbox(monkeypatch):
    """The messages that reach a receiver on this machine, as Apprise sends them to json://."""
    received = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ICU_NOTIFY", f"json://127.0.0.1:{server.server_port}")
    load_settings.cache_clear()
    yield received
    server.shutdown()
    server.server_close()


@pytest.fixture
def healthy(published):
    """An installation whose last runs all went well a moment ago, with data of this hour."""
    shift = clock.floor_hour(datetime.now(UTC)) - AT
    with published.begin() as connection:
        connection.execute(text("update forecast.run set as_of = as_of + :shift"), {"shift": shift})
        connection.execute(
            text("update icu.batch set as_of = as_of + :shift, watermark = watermark + :shift"), {"shift": shift}
        )
    return published


def open_incidents(store) -> list[tuple]:
    return [
        tuple(row)
        for row in tuples(
            store,
            "select kind, subject, notified_at is not null from forecast.incident where closed_at is null order by 1, 2",
        )
    ]


def test_nothing_is_told_while_all_is_well(healthy, inbox):
    assert watch.fn()["incidents"] == "none"
    assert (inbox, open_incidents(healthy)) == ([], [])


def test_a_late_run_is_told_once_and_closed_when_it_is_over(healthy, inbox):
    late = text("update forecast.run set as_of = as_of - interval '3 hours' where kind = 'forecast'")
    with healthy.begin() as connection:
        connection.execute(late)
    assert watch.fn()["alerts sent"] == 1
    assert watch.fn()["alerts sent"] == 0
    assert len(inbox) == 1
    assert inbox[0]["title"] == f"icu-forecast: late run (clif), {gethostname()}"
    hours = re.match(r"No forecast of clif for ([0-9.]+) hours;", inbox[0]["message"])
    assert 3 <= float(hours[1]) <= 4, "three hours, and the minutes since the hour began"
    assert open_incidents(healthy) == [("late_run", "forecast", True)]
    with healthy.begin() as connection:
        connection.execute(text("update forecast.run set as_of = as_of + interval '3 hours' where kind = 'forecast'"))
    assert watch.fn()["incidents"] == "none"
    assert (len(inbox), open_incidents(healthy)) == (1, [])
    with healthy.begin() as connection:
        connection.execute(late)
    watch.fn()
    assert len(inbox) == 2, "the next time it is another incident"


def add_run(store, status: str, kind: str = "train", error: str | None = None) -> None:
    with store.begin() as connection:
        statement = (
            "insert into forecast.run (source, kind, as_of, status, finished_at, error)"
            " values ('clif', :kind, now(), :status, case when :status <> 'running' then now() end, :error)"
        )
        connection.execute(text(statement), {"status": status, "kind": kind, "error": error})


def test_a_failed_run_is_told_with_its_sentence_and_stays_open_until_a_good_run(healthy, inbox):
    add_run(healthy, "failed", error="No space is left on the disk.")
    watch.fn()
    assert "The last train of clif failed (1 in a row): No space is left on the disk." in inbox[0]["message"]
    for status in ("running", "refused"):
        add_run(healthy, status)
        assert watch.fn()["incidents"] == "The last train of clif failed (1 in a row): No space is left on the disk."
    assert open_incidents(healthy) == [("failed_run", "train", True)]
    add_run(healthy, "published")
    assert watch.fn()["incidents"] == "none"
    assert (len(inbox), open_incidents(healthy)) == (1, [])


def test_a_run_that_is_running_far_longer_than_those_before_it_is_told(healthy, inbox):
    """Three times the longest good one, never within an hour; six hours where there is none."""

    def running(kind: str, minutes: int) -> bool:
        with healthy.begin() as connection:
            connection.execute(text("delete from forecast.run where status = 'running'"))
        add_run(healthy, "running", kind)
        with healthy.begin() as connection:
            connection.execute(
                text(
                    "update forecast.run set started_at = now() - make_interval(mins => :minutes) where status = 'running'"
                ),
                {"minutes": minutes},
            )
        watch.fn()
        return ("long_run", kind, True) in open_incidents(healthy)

    assert [running("ingest", minutes) for minutes in (59, 61)] == [False, True], "in seconds, as a rule"
    assert [running("backfill", minutes) for minutes in (359, 361)] == [False, True], "there was none yet"
    add_run(healthy, "published", "backfill")
    with healthy.begin() as connection:
        longer = "update forecast.run set started_at = finished_at - interval '1 hour' where (kind, status) = "
        longer += "('backfill', 'published')"
        connection.execute(text(longer))
    assert [running("backfill", minutes) for minutes in (179, 181)] == [False, True]
    assert re.search(
        r"The backfill of clif \(run \d+\) has been running for 3.0 hours, the last good ones took up to 1.0;",
        inbox[-1]["message"],
    )


def test_a_watch_that_does_not_see_prefect_leaves_its_incidents_open(healthy, inbox):
    gave_up = Incident("clif", incidents.BY_PREFECT, "a run", "It crashed three times.")
    incidents.update_incidents(healthy, [gave_up])
    assert watch.fn()["incidents"] == "none"
    assert open_incidents(healthy) == [("gave_up", "a run", True)]
    incidents.update_incidents(healthy, [])
    assert open_incidents(healthy) == []


def test_a_critical_check_is_told_as_that_and_not_as_a_failed_run_too(healthy, inbox, contradictory_forecasts):
    with pytest.raises(QualityError):
        forecast.fn("clif", AT)
    watch.fn()
    assert open_incidents(healthy) == [("critical_check", "forecast", True)]
    assert "quantiles_rise" in inbox[0]["message"]


def test_a_feed_that_can_be_read_but_tells_nothing_new_is_told(healthy, inbox):
    with healthy.begin() as connection:
        connection.execute(text("update icu.batch set watermark = watermark - interval '8 hours'"))
    watch.fn()
    assert open_incidents(healthy) == [("stale_feed", "feed", True)]
    assert "has nothing new" in inbox[0]["message"]


def test_risks_that_are_off_beyond_their_interval_are_told(healthy, inbox):
    with healthy.begin() as connection:
        (run_id, model_id) = connection.execute(
            text("select run_id, model_id from forecast.run where kind = 'forecast'")
        ).one()
        connection.execute(text("update forecast.run set kind = 'evaluate' where run_id = :run"), {"run": run_id})
        for low, high, metric in ((1.4, 2.2, "mortality_observed_expected"), (0.5, 1.2, "mortality_calibration_slope")):
            connection.execute(
                text(
                    "insert into forecast.score (run_id, model_id, source, unit, month, metric, value, low, high, n)"
                    " values (:run, :model, 'clif', 'all', 'all', :metric, :low + 0.2, :low, :high, 900)"
                ),
                {"run": run_id, "model": model_id, "low": low, "high": high, "metric": metric},
            )
    watch.fn()
    assert open_incidents(healthy) == [("calibration", model_id, True)]
    assert "observed to expected deaths 1.60 (1.40 to 2.20), acceptable are 0.8 to 1.25" in inbox[0]["message"]


def test_a_concept_that_drifted_is_told_with_what_changed(healthy, inbox):
    with healthy.begin() as connection:
        connection.execute(
            text(
                "with evaluation as (update forecast.run set kind = 'evaluate' where kind = 'forecast'"
                " returning run_id, model_id)"
                " insert into forecast.concept_drift (run_id, model_id, concept, source, n_observations, median,"
                " reference_median, psi, missing, reference_missing, wrong_unit, drifted)"
                " select run_id, model_id, concept, 'clif', n, median, 7.4, psi, missing, 0.1, wrong_unit, drifted"
                " from evaluation, (values ('temperature', 900, 98.6, 4.2, 0.1, true, true),"
                " ('lactate', 0, null, null, 0.9, false, true), ('heart_rate', 900, 7.4, 0.01, 0.1, false, false))"
                " c (concept, n, median, psi, missing, wrong_unit, drifted)"
            )
        )
    watch.fn()
    assert open_incidents(healthy) == [("drift", "lactate", True), ("drift", "temperature", True)]
    assert len(inbox) == 1, "one message for all of them"
    told = inbox[0]["message"]
    assert "temperature of clif has drifted, perhaps to another unit: median 98.60 (7.40 in training)" in told
    assert "lactate of clif has drifted: median none (7.40 in training), stability index none, missing in 0.90" in told


def test_a_message_that_is_not_taken_is_sent_again_by_the_next_watch(healthy, inbox, monkeypatch):
    reachable = load_settings()
    with healthy.begin() as connection:
        connection.execute(text("update icu.batch set watermark = watermark - interval '8 hours'"))
    monkeypatch.setenv("ICU_NOTIFY", "json://127.0.0.1:9")
    load_settings.cache_clear()
    with pytest.raises(ForecastError, match=r"The service behind ICU_NOTIFY \(json\) did not accept the message"):
        watch.fn()
    assert open_incidents(healthy) == [("stale_feed", "feed", False)]
    monkeypatch.setenv("ICU_NOTIFY", reachable.notify.get_secret_value())
    load_settings.cache_clear()
    assert watch.fn()["alerts sent"] == 1
    assert open_incidents(healthy) == [("stale_feed", "feed", True)]


def test_our_database_being_away_is_told_once(trained, inbox, monkeypatch):
    url = load_settings().database_url.get_secret_value()
    monkeypatch.setenv("ICU_DATABASE_URL", "postgresql+psycopg://127.0.0.1:9/away")
    load_settings.cache_clear()
    for _ in range(2):
        with pytest.raises(ForecastError, match="does not answer"):
            watch.fn()
    assert [message["title"] for message in inbox] == [f"icu-forecast: its database is down, {gethostname()}"]
    monkeypatch.setenv("ICU_DATABASE_URL", url)
    load_settings.cache_clear()
    watch.fn(dry_run=True)
    monkeypatch.setenv("ICU_DATABASE_URL", "postgresql+psycopg://127.0.0.1:9/away")
    load_settings.cache_clear()
    with pytest.raises(ForecastError):
        watch.fn()
    assert len(inbox) == 2


def test_a_dry_run_tells_nobody_and_keeps_nothing(healthy, inbox):
    with healthy.begin() as connection:
        connection.execute(text("update icu.batch set watermark = watermark - interval '8 hours'"))
    assert "has nothing new" in watch.fn(dry_run=True)["incidents"]
    assert (inbox, open_incidents(healthy)) == ([], [])


def test_a_test_alert_reaches_the_receiver_and_a_wrong_address_is_refused_without_repeating_it(
    installation, inbox, monkeypatch
):
    assert CliRunner().invoke(app, ["watch", "--test-alert"]).exit_code == 0
    assert inbox[0]["title"] == f"icu-forecast: a test, {gethostname()}"
    monkeypatch.setenv("ICU_NOTIFY", "nonsense-token-123")
    load_settings.cache_clear()
    with pytest.raises(ForecastError, match="not a URL that Apprise supports") as refused:
        notify.send("a", "b")
    assert "token-123" not in str(refused.value)


@pytest.mark.soak
def test_an_evaluation_of_real_outcomes_raises_no_alarm_on_small_numbers(healthy, inbox):
    """Ten deaths give wide intervals, and a watch that cried at them would be switched off."""
    ingest.fn("clif", AT + timedelta(days=14))
    evaluate.fn("clif", AT + timedelta(days=14))
    assert "calibration" not in {kind for kind, _, _ in open_incidents(healthy)}
