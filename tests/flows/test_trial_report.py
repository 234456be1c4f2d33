"""The report of a silent trial: its verdict in worlds that are fit to be shown and in worlds that are not, and its page."""

import re
from datetime import UTC, datetime
from html import unescape

import numpy as np
import pytest
from builders_sql import SOURCE, add_batch, add_forecasts, add_model, empty, hours, migrated, rows
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from sqlalchemy import insert, text

from flows.pages.trial import report_trial
from flows.runtime.settings import load_settings
from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import DataTooSmallError
from sql.published import runs, trials
from sql.store import schema

BEGAN = datetime(2025, 5, 1, 12, tzinfo=UTC)
STAYS, DUE = 240, 10


class World:
    """A hospital whose patients were forecast in every hour of a trial that `published` names, and then left or died.

    noise: standard deviation of the published log-odds around the true ones. shift: by how much they are all off.
    """

    def __init__(self, engine, *, noise=0.5, shift=0.0, published=range(DUE), end_known=True) -> None:
        random = np.random.default_rng(0)
        truth = random.normal(-2, 1.5, STAYS)
        self.names = [f"stay-{i:04}" for i in range(STAYS)]
        self.died = random.random(STAYS) < expit(truth)
        self.risk = expit(truth + random.normal(0, noise, STAYS) + shift)
        self.engine = engine
        trials.start_trial(engine, SOURCE, 7, BEGAN)
        add_model(engine, "m1")
        batch_id = add_batch(engine, as_of=BEGAN + hours(100), ingested_at=BEGAN + hours(100))
        admitted = {
            "source": SOURCE,
            "intime": BEGAN - hours(30),
            "unit": "MICU",
            "unit_type": "medical",
            "ends_at": "unit",
            "age_years": 60.0,
            "sex": "female",
            "batch_id": batch_id,
        }
        known = [
            admitted | {"stay_id": name, "patient_id": f"patient-{i:04}", "available_at": BEGAN - hours(30)}
            for i, name in enumerate(self.names)
        ]
        stayed = random.gamma(2, 10, STAYS) + DUE
        ended = [
            row
            | {"outtime": BEGAN + hours(h), "available_at": BEGAN + hours(h), "outcome": "died" if died else "alive"}
            for row, h, died in zip(known, stayed, self.died, strict=True)
        ]
        # Every second stay has a heart rate, known half an hour late; nothing else is charted.
        at = {"source": SOURCE, "observed_at": BEGAN, "available_at": BEGAN + hours(0.5), "batch_id": batch_id}
        seen = [at | {"stay_id": name, "concept": "heart_rate", "value": 80.0} for name in self.names[::2]]
        with engine.begin() as connection:
            connection.execute(text("update forecast.model set data_cutoff = :at"), {"at": BEGAN - hours(1)})
            connection.execute(insert(schema.stay_version), known)
            if end_known:
                connection.execute(insert(schema.stay_version), ended)
            connection.execute(insert(schema.observation), seen)
        risks = dict(zip(self.names, self.risk.tolist(), strict=True))
        for hour in range(DUE):
            if hour in published:
                add_forecasts(engine, risks, model_id="m1", as_of=BEGAN + hours(hour), role="trial")
            else:
                run_id = runs.start_run(engine, SOURCE, "forecast", BEGAN + hours(hour), role="trial", model_id="m1")
                runs.fail_run(engine, run_id, "The source could not be reached.")


@pytest.fixture(scope="module")
def database(make_database):
    with migrated(make_database("trial")) as engine:
        yield engine


@pytest.fixture
def store(database, tmp_path, monkeypatch):
    """An installation without a source of its own: what is in its tables is the world of the test."""
    monkeypatch.setenv("ICU_HOME", str(tmp_path))
    monkeypatch.setenv("ICU_DATABASE_URL", database.url.render_as_string(hide_password=False))
    load_settings.cache_clear()
    yield database
    empty(database)
    load_settings.cache_clear()


def read_page(path) -> dict[str, list[list[str]]]:
    """Caption → rows of cells of each table of a page."""
    tables = {}
    for table in re.findall(r"<table>.*?</table>", path.read_text(), re.S):
        cells = [
            re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in re.findall(r"<tr>.*?</tr>", table, re.S)
        ]
        caption = re.search(r"<caption>(.*?)</caption>", table, re.S)[1]
        tables[unescape(caption)] = [[unescape(cell) for cell in row] for row in cells[1:]]
    return tables


def criteria(path) -> dict[str, tuple[str, str]]:
    return {what: (found, met) for what, found, met in read_page(path)["Criteria"]}


def number(found: str) -> float:
    return float(found.split()[0].rstrip("%"))


def test_good_forecasts_of_every_hour_are_a_go_and_the_page_says_what_it_rests_on(store, tmp_path):
    world = World(store)
    decision, path = report_trial(SOURCE, tmp_path / "report.html")
    assert decision.verdict == "go" and path == tmp_path / "report.html"
    found = criteria(path)
    assert [met for _, met in found.values()] == ["met"] * 5
    assert list(found) == [
        "at least 30 deaths",
        "AUROC at least 0.7, its interval above 0.6",
        "observed to expected deaths after recalibration within 0.8 to 1.25",
        "calibration slope after recalibration within 0.75 to 1.35",
        "at least 95% of the hours published",
    ]
    deaths, auroc, ratio, slope, published = (number(value) for value, _ in found.values())
    assert deaths == world.died.sum() >= 30
    assert auroc == pytest.approx(roc_auc_score(world.died, world.risk), abs=0.01)
    assert ratio == pytest.approx(1, abs=0.05) and slope == pytest.approx(1, abs=0.15) and published == 100
    page, tables = path.read_text(), read_page(path)
    assert "Every criterion is met." in page and not re.search(r"stay-\d{4}|patient-\d{4}", page)
    assert f"{STAYS * DUE:,} forecasts of {STAYS} stays of {STAYS} patients" in page
    flagged = world.risk >= 0.5
    assert next(row for row in tables["Bands"] if row[0] == "high") == [
        "high",
        f"{flagged.sum():.1f}",
        f"{flagged.sum()} of {STAYS}",
        f"{world.died[flagged].sum() / world.died.sum():.0%}".replace("%", " %"),
        f"{world.died[flagged].mean():.0%}".replace("%", " %"),
    ]
    assert tables["By concept"] == [["heart_rate", str(STAYS // 2), "0.5", "0.5"]]
    never = re.search(r"Never charted: (.*?)\.", page)[1].split(", ")
    assert sorted(never) == sorted(set(NAMES) - {"heart_rate"})
    lengths = {name: number(here) for _, name, here, _ in tables["By model"]}
    assert lengths["80 % interval covers"] == pytest.approx(_inside(store), abs=0.01)


def test_risks_that_are_all_too_high_are_shown_before_and_after_recalibration(store):
    world = World(store, shift=1.5)
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "go"
    before_and_after = {name: (number(a), number(b)) for name, a, b in read_page(path)["Before and after"]}
    before, after = before_and_after["observed to expected deaths"]
    assert before == pytest.approx(world.died.sum() / world.risk.sum(), abs=0.01) and before < 0.7
    assert after == pytest.approx(1, abs=0.05)
    brier_before, brier_after = before_and_after["Brier score of death"]
    assert (
        brier_before == pytest.approx(((world.risk - world.died) ** 2).mean(), abs=0.006) and brier_after < brier_before
    )


def test_forecasts_that_rank_hardly_better_than_chance_are_no_go(store):
    world = World(store, noise=12.0)
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "no-go"
    found, met = criteria(path)["AUROC at least 0.7, its interval above 0.6"]
    assert met == "not met" and number(found) == pytest.approx(roc_auc_score(world.died, world.risk), abs=0.01)
    assert "Not every criterion is met" in path.read_text()


def test_hours_without_a_forecast_are_no_go_and_counted(store):
    World(store, published=[0, *range(2, DUE)])
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "no-go"
    found = criteria(path)
    assert found.pop("at least 95% of the hours published") == ("90.0%", "not met")
    assert {met for _, met in found.values()} == {"met"}
    assert "10 hours due, 1 runs failed" in path.read_text()


def _inside(engine) -> float:
    """Share of the ends from 5 to 90 hours after their forecast, the interval of `builders_sql.forecasts`."""
    found = rows(engine, "select remaining_hours between 5 and 90 as inside from forecast.forecast_outcome")
    return np.mean([row["inside"] for row in found])


def test_a_trial_of_which_no_stay_has_ended_cannot_be_judged_yet(store):
    World(store, end_known=False)
    with pytest.raises(DataTooSmallError, match="10 forecasts were published"):
        report_trial(SOURCE, None)
