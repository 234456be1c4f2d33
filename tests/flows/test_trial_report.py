"""The report of a silent trial: its verdict in worlds that are fit to be shown and in worlds that are not, and its page."""

import re
from datetime import UTC, datetime
from html import unescape

import numpy as np
import pytest
from builders_sql import SOURCE, add_batch, add_forecasts, add_model, empty, hours, migrated, rows
from scipy.special import expit
from scipy.stats import gamma
from sklearn.metrics import roc_auc_score
from sqlalchemy import insert, text

from flows.pages.trial import report_trial
from flows.runtime.settings import load_settings
from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.errors import DataTooSmallError
from rnn_core.evaluation.scorecard import LANDMARKS
from sql.published import registry, runs, trials
from sql.store import schema

BEGAN = datetime(2025, 5, 1, 12, tzinfo=UTC)
STAYS, DUE = 240, 10


class World:
    """A hospital whose patients were forecast in every hour of a trial that `published` names, and then left or died.

    One half stays for about a day, the other for about three, and the forecasts know who belongs to which. At its start all
    have been there for 20 hours.

    noise: standard deviation of the published log-odds around the true ones. shift: by how much they are all off.
    hurried: by what part the forecast stays are shorter than the true ones. known_after: hours from the start of the trial
    after which no end is known.
    failed: hours in which a run failed; in the other hours that are not published there was none. arrival: hours from the
    start of the trial at which every second patient comes in, long before it by default.
    """

    def __init__(
        self,
        engine,
        *,
        stays=STAYS,
        noise=0.5,
        shift=0.0,
        published=range(DUE),
        failed=(),
        arrival=-20,
        hurried=0.0,
        known_after=400,
    ) -> None:
        random = np.random.default_rng(0)
        truth = random.normal(-2, 1.5, stays)
        self.names = [f"stay-{i:04}" for i in range(stays)]
        self.died = random.random(stays) < expit(truth)
        self.risk = expit(truth + random.normal(0, noise, stays) + shift)
        self.engine = engine
        self.began = np.where(np.arange(stays) % 2, float(arrival), -20.0)
        trials.start_trial(engine, SOURCE, 7, BEGAN)
        add_model(engine, "m1")
        self.batch_id = add_batch(engine, as_of=BEGAN + hours(known_after), ingested_at=BEGAN + hours(known_after))
        # Ends at evenly spaced quantiles, so that the share beyond each is right in every world.
        self.length, self.hurried = gamma(4, scale=np.where(np.arange(stays) % 4 < 2, 5, 18)), hurried
        even = np.concatenate([(random.permutation(stays // 4) + 0.5) / (stays // 4) for _ in range(4)])
        left_after = self.length.ppf(even.reshape(4, -1).T.ravel()) + DUE
        self._admit(left_after, left_after <= known_after)
        # Every second stay has a heart rate, known half an hour late; nothing else is charted.
        at = {"source": SOURCE, "observed_at": BEGAN, "available_at": BEGAN + hours(0.5), "batch_id": self.batch_id}
        seen = [at | {"stay_id": name, "concept": "heart_rate", "value": 80.0} for name in self.names[::2]]
        with engine.begin() as connection:
            connection.execute(text("update forecast.model set data_cutoff = :at"), {"at": BEGAN - hours(1)})
            connection.execute(text("update forecast.trial set ended_at = :at"), {"at": BEGAN + hours(DUE)})
            connection.execute(insert(schema.observation), seen)
        for hour in published:
            self.forecast(hour)
        for hour in failed:
            run_id = runs.start_run(engine, SOURCE, "forecast", BEGAN + hours(hour), role="trial", model_id="m1")
            runs.fail_run(engine, run_id, "The source could not be reached.")

    def _admit(self, left_after: np.ndarray, end_known: np.ndarray) -> None:
        same = {
            "source": SOURCE,
            "unit": "MICU",
            "unit_type": "medical",
            "ends_at": "unit",
            "age_years": 60.0,
            "sex": "female",
            "batch_id": self.batch_id,
        }
        known = [
            same | {"stay_id": name, "patient_id": f"patient-{i:04}", "intime": BEGAN + hours(h)}
            for i, (name, h) in enumerate(zip(self.names, self.began, strict=True))
        ]
        ended = [
            row
            | {"outtime": BEGAN + hours(h), "available_at": BEGAN + hours(h), "outcome": "died" if died else "alive"}
            for row, h, died, is_known in zip(known, left_after, self.died, end_known, strict=True)
            if is_known
        ]
        with self.engine.begin() as connection:
            connection.execute(insert(schema.stay_version), [row | {"available_at": row["intime"]} for row in known])
            if ended:
                connection.execute(insert(schema.stay_version), ended)

    def forecast(self, hour: int, model_id: str = "m1", risk: float | None = None, role: str = "trial") -> int:
        """Publish the risks of those who are in the unit, or one risk for all."""
        here = self.began <= hour
        own = self.risk if risk is None else np.full(len(self.risk), risk)
        risks = dict(zip(np.array(self.names)[here], own[here].tolist(), strict=True))
        longer, left = 1 - self.hurried, DUE - hour
        said = {f"remaining_los_p{q}_hours": longer * (self.length.ppf(q / 100) + left) for q in (10, 50, 90)}
        said |= {f"discharge_{h}h_prob": (1 - own) * self.length.cdf(h / longer - left) for h in (24, 48, 72)}
        said = {name: values[here] for name, values in said.items()}
        return add_forecasts(self.engine, risks, model_id=model_id, as_of=BEGAN + hours(hour), role=role, **said)


@pytest.fixture(scope="module")
def database(make_database):
    with migrated(make_database("trial")) as engine:
        yield engine


@pytest.fixture
def store(database, thrifty, tmp_path, monkeypatch):
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


def alerts(path) -> dict[str, list[str]]:
    return {band: cells for band, *cells in read_page(path)["Bands"]}


def number(found: str) -> float:
    return float(found.split()[0].rstrip("%"))


def test_good_forecasts_of_every_hour_are_a_go_and_the_page_says_what_it_rests_on(store, tmp_path):
    world = World(store)
    decision, path = report_trial(SOURCE, tmp_path / "report.html")
    assert decision.verdict == "go" and path == tmp_path / "report.html"
    found = criteria(path)
    assert [met for _, met in found.values()] == ["met"] * 11
    assert list(found) == [
        "at least 30 deaths",
        "at least 100 stays with a known end",
        "AUROC at least 0.7, its interval above 0.6",
        "observed to expected deaths as published within 0.8 to 1.25",
        "calibration slope as published within 0.75 to 1.35",
        "quantile score of the remaining stay in days not worse than that of the population's curve",
        "Brier score of a discharge within 24 h not worse than that of the population's curve",
        "Brier score of a discharge within 48 h not worse than that of the population's curve",
        "stays beyond the 50th percentile within 46% to 54%",
        "stays beyond the 90th percentile within 7% to 13%",
        "at least 95% of the hours published",
    ]
    deaths, ends, auroc, ratio, slope, *lengths, half, tenth, published = (number(value) for value, _ in found.values())
    assert ends == STAYS and max(lengths) < 0 and (half, tenth) == pytest.approx((0.5, 0.1), abs=0.01)
    assert deaths == world.died.sum() >= 30
    assert auroc == pytest.approx(roc_auc_score(world.died, world.risk), abs=0.01)
    assert ratio == pytest.approx(world.died.sum() / world.risk.sum(), abs=0.01)
    assert 0.75 < slope < 1.35 and published == 100
    page, tables = path.read_text(), read_page(path)
    assert "Every criterion is met" in page and "icu-forecast trial end hospital" in page
    assert not re.search(r"stay-\d{4}|patient-\d{4}", page)
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
    by_hour = {
        hours: number(covers) for _, hours, *_, covers in tables["By hour of the stay; in brackets without a model"]
    }
    assert by_hour["all"] == pytest.approx(_inside(store), abs=0.01)
    assert set(by_hour) <= {"all", *LANDMARKS}


def test_risks_that_are_all_too_high_are_no_go_and_the_page_says_what_recalibrating_would_give(store):
    world = World(store, shift=2.0)
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "no-go"
    found = {name: (number(a), number(b)) for name, a, b in read_page(path)["As published and recalibrated"]}
    published, recalibrated = found["observed to expected deaths"]
    assert published == pytest.approx(world.died.sum() / world.risk.sum(), abs=0.01)
    assert published == pytest.approx(0.39, abs=0.03) and recalibrated == pytest.approx(1, abs=0.2)
    brier_published, brier_recalibrated = found["Brier score of death"]
    assert brier_published == pytest.approx(((world.risk - world.died) ** 2).mean(), abs=0.006)
    assert brier_recalibrated < brier_published
    page = path.read_text()
    assert "Only a recalibrated copy would pass: recalibrate, then run the trial again." in page
    assert "icu-forecast models recalibrate m1 hospital" in page


def test_hurried_forecasts_are_no_go_though_the_stays_that_have_ended_are_the_short_ones(store):
    World(store, hurried=0.4, known_after=60)
    decision, path = report_trial(SOURCE, None)
    assert (
        decision.verdict == "no-go"
        and "count in the lengths of stay for as long as they were followed" in path.read_text()
    )
    found = criteria(path)
    median, met = found["stays beyond the 50th percentile within 46% to 54%"]
    assert met == "not met" and number(median) > 0.7
    assert number(found["at least 100 stays with a known end"][0]) < 0.75 * STAYS


def test_few_deaths_are_too_early_whatever_else_was_found(store):
    World(store, stays=60)
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "too early" and "continue the trial" in path.read_text()


def test_forecasts_that_rank_hardly_better_than_chance_are_no_go(store):
    world = World(store, noise=12.0)
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "no-go"
    found, met = criteria(path)["AUROC at least 0.7, its interval above 0.6"]
    assert met == "not met" and number(found) == pytest.approx(roc_auc_score(world.died, world.risk), abs=0.01)
    assert "Not every criterion is met" in path.read_text()


def test_an_hour_whose_run_failed_is_missed(store):
    World(store, published=[0, *range(2, DUE)], failed=[1])
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "no-go"
    found = criteria(path)
    assert found.pop("at least 95% of the hours published") == ("90.0%", "not met")
    assert {met for _, met in found.values()} == {"met"}
    assert "10 hours due, 1 missed, 1 runs failed" in path.read_text()


def test_hours_in_which_the_job_was_dead_are_missed_and_raised_no_alert(store):
    """In the second half nothing ran; every second patient came in then, and is one that no alert has reached."""
    world = World(store, published=range(5), arrival=5)
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict != "go"
    assert criteria(path)["at least 95% of the hours published"] == ("50.0%", "not met")
    assert "10 hours due, 5 missed, 0 runs failed" in path.read_text()
    here = np.arange(STAYS) % 2 == 0
    flagged = here & (world.risk >= 0.5)
    assert alerts(path)["high"] == [
        f"{flagged.sum():.1f}",
        f"{flagged.sum()} of {STAYS}",
        f"{world.died[flagged].sum() / world.died.sum():.0%}".replace("%", " %"),
        f"{world.died[flagged].mean():.0%}".replace("%", " %"),
    ]


def test_hours_that_were_caught_up_a_day_later_are_missed_but_those_of_a_rehearsal_are_not(store):
    World(store, known_after=60)
    assert report_trial(SOURCE, None)[0].verdict == "go", (
        "every fourth stay is open; all hours are before the trial was made: a rehearsal"
    )
    with store.begin() as connection:
        connection.execute(text("update forecast.trial set made_at = started_at"))
        connection.execute(
            text(
                "update forecast.run set finished_at = as_of + interval '1 hour' * case when run_id > 5 then 30 else 0.2 end"
            )
        )
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "no-go"
    assert criteria(path)["at least 95% of the hours published"] == ("50.0%", "not met")


def test_only_the_model_that_the_end_would_show_is_judged_and_only_within_the_trial(store):
    world = World(store, published=range(2, DUE))
    add_model(store, "m0", stage="retired")
    for hour in (0, 1):
        world.forecast(hour, model_id="m0", risk=0.99)
    world.forecast(DUE + 1, risk=0.99, role="trial")
    world.forecast(3, model_id="m0", risk=0.99, role="shadow")
    decision, path = report_trial(SOURCE, None)
    assert decision.verdict == "go", "all hours were published, and m1 is calibrated"
    assert f"{STAYS * 8:,} forecasts of {STAYS} stays of {STAYS} patients by m1" in path.read_text()
    assert alerts(path)["high"][1] == f"{(world.risk >= 0.5).sum()} of {STAYS}"
    with store.begin() as connection:
        connection.execute(text("update forecast.trial set ended_at = null"))
        connection.execute(text("update forecast.model set data_cutoff = :at"), {"at": BEGAN - hours(1)})
    registry.set_stage(store, "m0", "champion", "test")
    _, path = report_trial(SOURCE, None)
    found, met = criteria(path)["observed to expected deaths as published within 0.8 to 1.25"]
    assert met == "not met" and number(found) == pytest.approx(world.died.mean() / 0.99, abs=0.01)
    assert "patients by m0" in path.read_text(), "while the trial is open its end would show what serves now"


def test_a_model_that_serves_only_since_the_last_run_has_nothing_to_judge_yet(store):
    World(store)
    add_model(store, "m2")
    with store.begin() as connection:
        connection.execute(text("update forecast.trial set ended_at = null"))
    with pytest.raises(DataTooSmallError, match="m2 has published none"):
        report_trial(SOURCE, None)


def _inside(engine) -> float:
    """Share of the ends from the 10th to the 90th percentile of their forecast."""
    within = "remaining_hours between remaining_los_p10_hours and remaining_los_p90_hours"
    found = rows(engine, f"select {within} as inside from forecast.forecast_outcome")
    return np.mean([row["inside"] for row in found])


def test_a_trial_of_which_no_stay_has_ended_cannot_be_judged_yet(store):
    World(store, known_after=DUE)
    with pytest.raises(DataTooSmallError, match="10 of 10 hours"):
        report_trial(SOURCE, None)
