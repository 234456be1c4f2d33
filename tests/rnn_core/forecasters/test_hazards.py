"""Boosted trees and logistic regressions: their numbers, what hazards they find in known worlds, and both as forecasters."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from builders import at, material_of, observed, random_observations, random_stays, small_config, stays_frame
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from rnn_core.contracts.config import HORIZON_EDGES, Kind, ModelConfig, TreesConfig
from rnn_core.contracts.errors import ArtifactError, ContractError, DataTooSmallError
from rnn_core.contracts.frames import DIED
from rnn_core.contracts.known import Known
from rnn_core.forecasters import hazards
from rnn_core.forecasters.boosting import VALUE_BINS, fit_boosting
from rnn_core.forecasters.drivers import explain_stays
from rnn_core.forecasters.fit_stay import fit_forecaster
from rnn_core.forecasters.forecaster import KINDS, kind_of
from rnn_core.forecasters.hazards import Examples, fit_hazards, learned_rows
from rnn_core.forecasters.logistic import LogisticRegressions, fit_hinged
from rnn_core.forecasters.stay import forecast_stays
from rnn_core.forecasters.trees import BoostedTrees
from rnn_core.series.labels import make_labels
from rnn_core.series.person_periods import masses_of_hazards
from rnn_core.series.splits import patient_folds
from rnn_core.statistics.distribution import Distribution

BINS = len(HORIZON_EDGES)
CONFIG = replace(ModelConfig(), trees=TreesConfig(trees=150, learning_rate=0.1))


# ---- trees as arrays


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(4000, 6)).astype(np.float32), rng.integers(0, 5, 4000)]).astype(np.float64)
    x[:, 2] = 1.0
    return Examples(x, rng.random(4000) < expit(x[:, 0] + 0.5 * x[:, 6] * x[:, 1] - 1))


def test_trees_as_arrays_give_what_scikit_learn_gives(examples):
    fitted, losses = fit_boosting(examples, examples, trees=40, learning_rate=0.1, seed=3)
    model = HistGradientBoostingClassifier(
        max_iter=40,
        learning_rate=0.1,
        max_leaf_nodes=8,
        max_features=0.2,
        max_bins=VALUE_BINS,
        l2_regularization=5.0,
        early_stopping=False,
        random_state=3,
    )
    constant = 2
    x = np.delete(examples.x, constant, axis=1)
    with threadpool_limits(1, user_api="openmp"):
        model.fit(x, examples.y)
        model._predictors = model._predictors[: len(fitted.value)]
        theirs = model.decision_function(x)
    last = examples.x[:, -1].astype(int)
    ours = fitted.log_odds(examples.x[:, :-1].astype(np.float32), np.arange(5))[np.arange(4000), last]
    assert len(fitted.value) <= 40 and losses.shape == (2,)
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_trees_are_cut_where_others_are_forecast_best(examples):
    noise = Examples(examples.x, np.random.default_rng(1).random(4000) < 0.3)
    rest = Examples(examples.x, np.random.default_rng(2).random(4000) < 0.3)
    fitted, (learned, held_out) = fit_boosting(noise, rest, trees=60, learning_rate=0.3, seed=0)
    longer, (learned_longer, held_out_longer) = fit_boosting(noise, noise, trees=60, learning_rate=0.3, seed=0)
    assert len(fitted.value) < 30 and len(longer.value) == 60
    assert learned_longer < learned < held_out and held_out_longer == learned_longer


def fit_regression(train, valid, config, seed):
    """Of rows without a clock."""
    return fit_hinged(train, valid)


FITS = [BoostedTrees.fit_log_odds, fit_regression]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("outcome", [False, True])
def test_one_outcome_alone_is_forecast_as_its_share(examples, fit, outcome):
    alone = Examples(examples.x, np.full(4000, outcome))
    fitted, losses = fit(alone, alone, CONFIG, 0)
    odds = fitted.log_odds(examples.x[:7, :-1].astype(np.float32), np.arange(5))
    assert odds == pytest.approx(np.log(4000.5 / 0.5) * (1 if outcome else -1))
    assert losses == pytest.approx(np.full(2, np.log1p(0.5 / 4000.5)))


@pytest.mark.parametrize("fit", FITS)
def test_nothing_to_learn_from_or_to_choose_by_is_too_little(examples, fit):
    nothing = Examples(examples.x[:0], examples.y[:0])
    for train, valid in ((nothing, examples), (examples, nothing)):
        with pytest.raises(DataTooSmallError, match="finished stays"):
            fit(train, valid, CONFIG, 0)


# ---- regressions as arrays


def test_regressions_find_what_bends_and_what_fades_over_the_bins():
    """Too low and too high are both bad, what a feature says fades from bin to bin, and the clock matters in one."""
    rng = np.random.default_rng(0)

    def truth(x, number):
        at_noon = x[:, 3] * (number == 1)
        return np.abs(x[:, 0]) - 1.5 + (1 - 0.2 * number) * x[:, 1] + 0.3 * number + at_noon

    def draw(n):
        x = np.column_stack([rng.normal(size=(n, 4)), rng.integers(0, 5, n)])
        return Examples(x, rng.random(n) < expit(truth(x, x[:, -1])))

    fitted, losses = fit_hinged(draw(20_000), draw(2000), clock=[3])
    x = rng.normal(size=(500, 4))
    found = fitted.log_odds(x, np.arange(5))
    expected = np.stack([truth(x, number) for number in range(5)], axis=1)
    assert np.abs(found - expected).mean() < 0.15 * expected.std() and losses.max() < 0.62
    # A bin in which nothing was seen counts as the last in which something was.
    np.testing.assert_array_equal(fitted.log_odds(x, np.array([4, 9])).T[0], fitted.log_odds(x, np.array([4, 9])).T[1])


def test_regressions_are_shrunk_the_more_the_less_there_is_to_learn(examples):
    noise = Examples(examples.x, np.random.default_rng(1).random(4000) < 0.3)
    rest = Examples(examples.x, np.random.default_rng(2).random(4000) < 0.3)
    spread = [
        fit_hinged(*pair)[0].log_odds(examples.x, np.zeros(1, int)).std() for pair in ((noise, rest), (noise, noise))
    ]
    assert spread[0] < 0.1 < spread[1]


# ---- a world whose hazards are known


def hazards_of(x: np.ndarray) -> np.ndarray:
    """Hazards [rows, bins, 2]: some leave soon, some die, and the more so the later the bin."""
    number = np.arange(BINS)
    ends = expit(-2.0 + 0.08 * number + 0.8 * x[:, :1])
    ends[:, -1] = 1
    dies = expit(-1.5 + x[:, 1:2] + 0.05 * number)
    return ends[:, :, None] * np.stack([1 - dies, dies], axis=2)


def world(n: int, seed: int):
    """Features, true masses, remaining hours (the open bin ends 1,000 hours after its edge) and outcome."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    masses = masses_of_hazards(hazards_of(x))
    cell = (masses.reshape(n, -1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    number, cause = np.divmod(cell, 2)
    edges = np.append(HORIZON_EDGES, HORIZON_EDGES[-1] + 1000)
    remaining = edges[number] + rng.random(n) * np.diff(edges)[number]
    return x, masses, remaining, np.where(cause == DIED, "died", "alive")


def fit_world(
    x, stays: list[dict], until: np.ndarray, delayed_entry_hours: float = 0.0, fit=BoostedTrees.fit_log_odds
) -> np.ndarray:
    """Fit on four fifths of the rows, choose the size on the rest; the masses of `TESTED`."""
    windows = SimpleNamespace(offsets=np.arange(len(stays) + 1))
    labels = make_labels(
        windows, stays_frame(*stays), HORIZON_EDGES, delayed_entry_hours, at(1e5), known_until=at(1 + until)
    )
    held_out = np.arange(int(labels.usable.sum())) % 5 == 0
    fitted, _ = fit_hazards(x[labels.usable], labels.take(labels.usable), held_out, CONFIG, 0, fit)
    return Distribution(fitted.masses(TESTED[0], BINS), HORIZON_EDGES).masses


TESTED = world(500, seed=9)
LEARNED = world(10_000, seed=8)


def fit_complete(fit, n: int = 10_000) -> np.ndarray:
    x, _, remaining, outcome = (part[:n] for part in LEARNED)
    stays = [{"intime": 0, "outtime": 1 + r, "outcome": o} for r, o in zip(remaining, outcome, strict=True)]
    return fit_world(x, stays, np.full(len(x), 1e4), fit=fit)


@pytest.fixture(scope="module")
def complete():
    return fit_complete(BoostedTrees.fit_log_odds)


def curves(masses: np.ndarray) -> np.ndarray:
    """Cumulative incidence of both causes by each edge, [rows, bins, 2]."""
    return masses.cumsum(axis=1)


@pytest.mark.parametrize("kind", ["trees", "logistic"])
def test_masses_approach_the_truth(complete, kind):
    truth = TESTED[1]
    complete = complete if kind == "trees" else fit_complete(fit_regression, 4000)
    far = np.abs(curves(complete) - curves(truth))
    assert far.mean() < 0.025
    trivial = np.abs(curves(np.broadcast_to(truth.mean(axis=0), truth.shape)) - curves(truth))
    assert far.mean() < 0.25 * trivial.mean()
    assert np.abs(curves(complete).mean(axis=0) - curves(truth).mean(axis=0)).max() < 0.02


def test_what_is_censored_coarse_or_without_a_time_teaches_the_same(complete):
    """A third of the stays are open after a random time, a third of the ends are known to a day, a few have no time."""
    x, _, remaining, outcome = LEARNED
    rng = np.random.default_rng(7)
    followed = np.where(rng.random(len(x)) < 1 / 3, rng.exponential(150, len(x)), 1e4)
    precision = np.where(rng.random(len(x)) < 1 / 3, 24.0, 0.0)
    timed = rng.random(len(x)) > 0.05
    stays = []
    for r, o, limit, p, t in zip(remaining, outcome, followed, precision, timed, strict=True):
        known = {"outtime": 1 + r if t or limit < 1e4 else None, "outcome": o, "end_precision_hours": p}
        stays.append({"intime": 0, **({} if r > limit else known)})
    assert 0.1 < np.mean(remaining > followed) < 0.3
    found = fit_world(x, stays, followed)
    far = np.abs(curves(found) - curves(TESTED[1]))
    assert far.mean() < 0.03
    assert np.abs(curves(found).mean(axis=0) - curves(complete).mean(axis=0)).max() < 0.025


def test_stays_that_are_in_the_sample_only_if_they_last_teach_the_same_from_there_on():
    x, _, remaining, outcome = LEARNED
    late = remaining > 24
    stays = [{"intime": 0, "outtime": 1 + r, "outcome": o} for r, o in zip(remaining[late], outcome[late], strict=True)]
    found = fit_world(x[late], stays, np.full(late.sum(), 1e4), delayed_entry_hours=25)
    after, truth = (m[:, 3:] / m[:, 3:].sum(axis=(1, 2), keepdims=True) for m in (found, TESTED[1]))
    assert np.abs(curves(after) - curves(truth)).mean() < 0.03


# ---- the forecaster


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(5)
    stays = random_stays(rng, 120, hours=90)
    return Known(stays, random_observations(rng, stays, 9000), at(1000))


SMALL = replace(small_config(), forecaster="trees")
CLASSES = [BoostedTrees, LogisticRegressions]


@pytest.fixture(scope="module")
def material(known):
    return material_of(known, SMALL)


@pytest.fixture(scope="module", params=CLASSES)
def fitted(material, request):
    return request.param.fit(material, np.ones(120, bool), SMALL)


def test_masses_are_whole_and_out_of_fold_rows_are_judged_ones(fitted, material):
    assert fitted.forecast.masses.shape == (len(fitted.row), BINS, 2)
    assert (np.diff(fitted.row) > 0).all() and material.is_judged(fitted.row).all()
    assert len(fitted.forecaster.members()) == len(fitted.best_epochs) == 2
    whole = fitted.forecaster.forecast(material.windows, fitted.row)
    assert np.abs(whole.masses - fitted.forecast.masses).max() > 0.001


def test_what_is_read_back_forecasts_the_same_to_the_bit(fitted, material, tmp_path):
    fitted.forecaster.save(tmp_path)
    again = type(fitted.forecaster).load(tmp_path, SMALL)
    first, second = (one.forecast(material.windows, fitted.row) for one in (fitted.forecaster, again))
    assert (first.masses == second.masses).all() and (first.edges == second.edges).all()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_file_that_would_run_code_or_is_damaged_is_refused(tmp_path, kind):
    for name in ("code", "damaged", "absent"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "code" / kind.file, fits=np.array([print], dtype=object))
    (tmp_path / "damaged" / kind.file).write_bytes(b"PK\x03\x04 and no more")
    for name in ("code", "damaged", "absent"):
        with pytest.raises(ArtifactError, match=name):
            kind.load(tmp_path / name, SMALL)


def test_every_kind_that_can_be_chosen_has_a_class():
    assert set(get_args(Kind)) == set(KINDS)
    assert kind_of(SMALL) is BoostedTrees


def test_it_starts_from_scratch(fitted, material):
    with pytest.raises(ContractError, match="from scratch"):
        type(fitted.forecaster).fit(material, np.ones(120, bool), SMALL, warm_from=fitted.forecaster)


def test_a_fit_of_the_same_data_is_the_same_and_members_that_were_fitted_are_not_fitted_again(
    fitted, material, tmp_path, monkeypatch
):
    fit = partial(type(fitted.forecaster).fit, material, checkpoint_dir=tmp_path)
    again = fit(np.ones(120, bool), SMALL)
    assert (again.forecast.masses == fitted.forecast.masses).all()
    monkeypatch.setattr(hazards, "fit_hazards", lambda *_: pytest.fail("fitted again"))
    resumed = fit(np.ones(120, bool), SMALL)
    assert (resumed.forecast.masses == fitted.forecast.masses).all() and resumed.best_epochs == fitted.best_epochs
    for learned, config in (
        (np.arange(120) > 3, SMALL),
        (np.ones(120, bool), replace(SMALL, trees=TreesConfig(trees=3))),
    ):
        with pytest.raises(pytest.fail.Exception, match="fitted again"):
            fit(learned, config)


def test_a_fold_is_forecast_without_its_outcomes(fitted, known):
    """Whatever became of the patients of fold 0, its member never learned it, and says the same of fold 0 up to where
    its trees are cut, or with the penalty that it chose there."""
    fold = patient_folds(known.stays["patient_id"], 2)
    swapped = known.stays["outcome"].map({"alive": "died", "died": "alive"})
    turned = known.stays.assign(outcome=known.stays["outcome"].where(fold != 0, swapped))
    turned = material_of(replace(known, stays=turned), SMALL)
    other = type(fitted.forecaster).fit(turned, np.ones(120, bool), SMALL)
    first, second = fitted.forecaster.fits[0], other.forecaster.fits[0]
    for name, array in first.ends.to_arrays("").items():
        np.testing.assert_array_equal(array, getattr(second.ends, name))
    if isinstance(fitted.forecaster, BoostedTrees):
        shared = min(first.dies.rounds, second.dies.rounds)
        assert (first.dies.value[:shared] == second.dies.value[:shared]).all()
    else:
        np.testing.assert_array_equal(first.dies.knot, second.dies.knot)


def test_rows_up_to_an_hour_are_learned_from_alike_however_the_stay_goes_on(known):
    """Two worlds agree up to hour 30 of every stay; in one, all stays last 200 hours longer."""
    rng = np.random.default_rng(6)
    stays = stays_frame(*({"intime": 0, "outtime": 40 + i, "outcome": "alive"} for i in range(40)))
    longer = stays.assign(outtime=stays["outtime"] + np.timedelta64(200, "h"), outcome="died")
    early = random_observations(rng, stays.assign(outtime=at(30)), 3000)

    def chosen(frame):
        material = material_of(Known(frame, early, at(1000)), SMALL)
        rows = learned_rows(material, SMALL)
        hour = material.hour_of_row(rows)
        return list(zip(material.stay_of_row[rows][hour <= 30], hour[hour <= 30], strict=True))

    assert chosen(stays) == chosen(longer)
    assert {hour for _, hour in chosen(stays)} == {6, 12, 24}


@pytest.mark.parametrize("kind", ["trees", "logistic"])
def test_drivers_are_what_was_learned_from(kind):
    """Who dies has a high lactate from the first hour on, and nothing else differs."""
    died = np.arange(80) % 4 == 0
    stays = stays_frame(
        *({"intime": 0, "outtime": 20 + i % 30, "outcome": "died" if dead else "alive"} for i, dead in enumerate(died))
    )
    seen = observed(
        *((i, "lactate", h, h, 9.0 if died[i] else 1.0) for i in range(80) for h in range(1, 20, 3)),
        *((i, "heart_rate", h, h, 80.0 + (7 * i + h) % 11) for i in range(80) for h in range(1, 20, 2)),
    )
    forecaster, _ = fit_forecaster(Known(stays, seen, at(1000)), np.ones(80, bool), replace(SMALL, forecaster=kind))
    then = Known(stays.assign(outtime=at(np.nan), outcome=None), seen, at(18))
    risk = forecast_stays(forecaster, then).numbers["mortality_risk"].to_numpy()
    assert risk[died].min() > risk[~died].max()
    drivers = explain_stays(forecaster, then, risk, limit=10)
    first = drivers[drivers["rank"] == 1]
    assert len(first) == 10 and (first["driver"] == "lactate").all() and (first["direction"] == "raises").all()
