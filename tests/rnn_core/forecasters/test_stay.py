"""The stay forecaster as a whole on made stays: what it learns, what it refuses, what it never sees."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from builders import at, observed, random_observations, random_stays, small_config, stays_frame
from scipy.special import logit

from rnn_core.contracts.config import ModelConfig, Sampling
from rnn_core.contracts.errors import ArtifactError, DataTooSmallError
from rnn_core.contracts.frames import Observations
from rnn_core.contracts.known import Known
from rnn_core.contracts.thresholds import RISK_THRESHOLDS
from rnn_core.evaluation.holdout import compare_forecasters, unseen
from rnn_core.evaluation.judged_fit import fit_stay_forecaster
from rnn_core.forecasters import fit_stay
from rnn_core.forecasters.fit_stay import _ensemble_stretch, fit_forecaster
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.start import WarmStart
from rnn_core.forecasters.stay import forecast_stays, load_stay_forecaster, save_stay_forecaster
from rnn_core.series.material import make_material, make_served_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.statistics.calibration import PlattCalibration

AS_OF, CUTOFF = at(70), at(25)
HOUR = np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(5)
    stays = random_stays(rng, 120)
    stays["ends_at"] = "unit"
    return stays, random_observations(rng, stays, 6000)


def at_cutoff(stays: pd.DataFrame, observations: Observations) -> Known:
    """The stays as a database would have told them at CUTOFF: those begun, without ends and rows of later."""
    known = Known(stays, observations.known_at(CUTOFF), CUTOFF).take((stays["intime"] <= CUTOFF).to_numpy())
    ended = known.stays["outtime"] <= CUTOFF
    hidden = {"outtime": known.stays["outtime"].where(ended), "outcome": known.stays["outcome"].where(ended, None)}
    return Known(known.stays.assign(**hidden), known.observations, CUTOFF)


def fit(stays: pd.DataFrame, observations: Observations, config: ModelConfig, **options):
    return fit_stay_forecaster(at_cutoff(stays, observations), Known(stays, observations, AS_OF), config, **options)


@pytest.fixture(scope="module")
def fitted(made):
    return fit(*made, small_config())


def open_at(stays: pd.DataFrame, observations: Observations, as_of) -> Known:
    """The stays open at `as_of` as they were known then, with all their rows, later ones too."""
    chosen = ((stays["intime"] <= as_of) & (stays["outtime"] > as_of)).to_numpy()
    known = Known(stays, observations, as_of).take(chosen)
    return Known(known.stays.assign(outtime=np.datetime64("NaT", "us"), outcome=None), known.observations, as_of)


def test_a_fit_judges_on_stays_that_had_no_part_in_it_beside_a_trivial_baseline(fitted):
    _, report = fitted
    assert report.n_stays["learned"] > 0 and report.n_stays["judged"] > 0
    assert report.metrics["mortality_brier"].n > 0
    assert not np.isnan(report.metrics["baseline_mortality_brier"].value)
    assert [len(history) >= best >= 1 for history, best in zip(report.histories, report.best_epochs, strict=True)] == [
        True
    ] * 2


def test_the_same_seed_gives_the_same_forecasts_twice(made, fitted):
    forecaster, _ = fit(*made, small_config())
    now = open_at(*made, at(40))
    pd.testing.assert_frame_equal(
        forecast_stays(forecaster, now).numbers, forecast_stays(fitted[0], now).numbers, check_exact=True
    )


def test_an_outcome_that_became_known_after_the_cut_off_is_not_learned(made, fitted):
    """The fit sees the stays as known at the cut-off and nothing of what is known at the time of judging."""
    stays, observations = made
    later = observations.available_at > CUTOFF
    scrambled = replace(observations, value=np.where(later, observations.value * 0.5, observations.value))
    moved = stays.assign(
        outtime=stays["outtime"].where(stays["outtime"] <= CUTOFF, stays["outtime"] + 7 * HOUR),
        outcome=np.where(stays["outtime"] <= CUTOFF, stays["outcome"], "died"),
    )
    forecaster, _ = fit(moved, scrambled, small_config())
    for ours, theirs in zip(forecaster.model.network.get_weights(), fitted[0].model.network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert forecaster.calibration == fitted[0].calibration


def test_nobody_who_was_fitted_on_is_judged_not_even_after_the_audit_changed_its_mind(made):
    stays, observations = made
    then = at_cutoff(*made)
    later = stays.assign(sound=stays["intime"] > CUTOFF)  # every older stay turned out to be wrong
    judged, newer = unseen(Known(later, observations, AS_OF), then)
    again = stays.assign(patient_id="p0", stay_id=stays["stay_id"] + "b", intime=AS_OF - 30 * HOUR)
    returned, _ = unseen(Known(pd.concat([later, again.assign(sound=True)]), observations, AS_OF), then)
    fitted_patients = set(then.stays["patient_id"])
    assert newer.any() and not set(stays["patient_id"][newer]) & fitted_patients
    assert judged.sum() == newer.sum()
    assert returned[len(stays) :].all() == ("p0" not in fitted_patients)


def test_rows_of_later_change_no_forecast(made, fitted):
    known = open_at(*made, at(40))
    cut = Known(known.stays, known.observations.known_at(at(40)), known.as_of)
    assert len(cut.observations) < len(known.observations)
    pd.testing.assert_frame_equal(
        forecast_stays(fitted[0], known).numbers, forecast_stays(fitted[0], cut).numbers, check_exact=True
    )


def test_a_forecaster_is_the_same_after_it_was_saved(made, fitted, tmp_path):
    save_stay_forecaster(tmp_path, "m1", fitted[0], {})
    loaded = load_stay_forecaster(tmp_path / "m1")
    now = open_at(*made, at(40))
    pd.testing.assert_frame_equal(
        forecast_stays(loaded, now).numbers, forecast_stays(fitted[0], now).numbers, check_exact=True
    )


def test_a_stay_with_too_little_data_gets_a_reason_and_no_number(fitted):
    stays = stays_frame(*({"intime": hour, "ends_at": "unit"} for hour in (38.5, 10, 10, 10, 10)))
    rows = [(0, "heart_rate", 39 + h / 10, 39 + h / 10, 80) for h in range(9)]
    rows += [(2, "heart_rate", 12 + h / 10, 12 + h / 10, 80) for h in range(9)]  # silent for a day and more
    rows += [(3, "heart_rate", 39, 39, 80)]
    rows += [(4, "heart_rate", 30 + h, 30 + h, 80) for h in range(9)]
    found = forecast_stays(fitted[0], Known(stays, observed(*rows), at(40)))
    frame = found.numbers
    assert found.scored.stay_ids == ["s4"] and found.scored.forecasts_death
    assert found.scored.forecast.mortality_risk()[0] == frame["mortality_risk"][4], "the very distribution"
    assert frame["status_reason"].to_list()[:4] == ["too_early", "no_observations", "stale", "too_few_observations"]
    assert frame["status"].to_list() == ["abstained"] * 4 + ["scored"]
    assert frame["mortality_risk"].isna().to_list() == [True] * 4 + [False]
    assert frame["n_observations"].to_list() == [9, 0, 9, 1, 9]


def test_no_open_stay_gives_no_row(fitted):
    assert len(forecast_stays(fitted[0], Known(stays_frame(), observed(), at(40))).numbers) == 0


def test_stays_that_end_elsewhere_are_refused(fitted):
    stays = stays_frame({"ends_at": "hospital"})
    with pytest.raises(ArtifactError, match="end at the unit, these end at the hospital"):
        forecast_stays(fitted[0], Known(stays, observed(), at(10)))


def test_a_warm_start_takes_the_champions_scaler_and_begins_where_it_stood(made, fitted):
    frozen = small_config(epochs=1, learning_rate=1e-12)
    refreshed, _ = fit(*made, frozen, warm_from=WarmStart(fitted[0]))
    assert refreshed.scaler.to_json() == fitted[0].scaler.to_json()
    for ours, theirs in zip(refreshed.model.network.get_weights(), fitted[0].model.network.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_forecaster_differs_from_itself_by_nothing(made, fitted):
    found = compare_forecasters(fitted[0], fitted[0], Known(*made, AS_OF), Known(*made, AS_OF))
    assert {difference.value for difference in found.overall.values()} == {0}
    assert found.groups and {d.value for differences in found.groups.values() for d in differences.values()} <= {0}


def test_forecasters_with_other_windows_are_compared_on_the_hours_both_forecast(made, fitted):
    config = small_config()
    other = replace(fitted[0], config=replace(config, window=replace(config.window, min_observations=30)))
    differences = compare_forecasters(
        replace(other, model=fitted[0].model), fitted[0], Known(*made, AS_OF), Known(*made, AS_OF)
    ).overall
    assert differences["mortality_auroc"].value == 0 and differences["mortality_auroc"].n > 0


def test_a_model_says_nothing_beyond_the_hours_it_learned_from(made, fitted):
    short = replace(fitted[0], sampling=Sampling(data_hours=12))
    frame = forecast_stays(short, open_at(*made, at(40))).numbers
    late = ((at(40) - open_at(*made, at(40)).stays["intime"]) > 12 * HOUR).to_numpy()
    assert late.any() and set(frame["status_reason"][late]) <= {"later_than_learned", "stale", "too_few_observations"}
    assert frame["mortality_risk"][late].isna().all()


@pytest.mark.soak
def test_data_that_stop_by_design_are_not_learned_from_after_their_end(made):
    """With data_hours, rows after them have no part: moving them changes no weight."""
    stays, observations = made
    intime = stays["intime"].to_numpy("datetime64[us]")[observations.stay]
    late = observations.available_at > intime + 12 * HOUR
    changed = replace(observations, value=np.where(late, observations.value * 0.5, observations.value))
    sampling = Sampling(data_hours=12)
    a, _ = fit(stays, observations, small_config(epochs=1), sampling=sampling)
    b, _ = fit(stays, changed, small_config(epochs=1), sampling=sampling)
    for ours, theirs in zip(a.model.network.get_weights(), b.model.network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_too_few_stays_are_refused_with_a_sentence():
    stays = stays_frame({"outtime": 20.0, "outcome": "alive", "ends_at": "unit", "intime": 0.0})
    with pytest.raises(DataTooSmallError):
        fit(stays, observed((0, "heart_rate", 1, 1, 80)), small_config())


@pytest.mark.soak
def test_members_that_lie_apart_stretch_the_ensemble_and_equal_ones_do_not(made):
    """Log-odds of single members with noise of a known size: their mean is as far from the centre again as the truth."""
    then = at_cutoff(*made)
    config = small_config(folds=3, epochs=1)
    grid = make_served_grid(then, config.window, Sampling())
    material = make_material(
        then, grid, fit_scaler(grid, static_features(then.stays), np.arange(40)), config, Sampling()
    )
    fitted = RecurrentEnsemble.fit(material, np.ones(len(then.stays), bool), config)
    elapsed, as_is = material.windows.prediction_hour[fitted.row], PlattCalibration()
    factor, centre = _ensemble_stretch(material, fitted, as_is, elapsed)
    assert factor > 1 and centre == pytest.approx(logit(fitted.forecast.mortality_risk()).mean(), abs=1e-6)
    nobody = replace(material, labels=replace(material.labels, death=np.zeros_like(material.labels.death)))
    assert _ensemble_stretch(nobody, fitted, as_is, elapsed)[0] == 1, "it counts by the deaths behind it"
    first, *others = fitted.forecaster.members()
    alike = RecurrentEnsemble(
        Networks((*first.networks.plain,) * (1 + len(others)), fitted.forecaster.network), fitted.forecaster.edges
    )
    same, _ = _ensemble_stretch(material, replace(fitted, forecaster=alike), as_is, elapsed)
    assert same == pytest.approx(1, abs=1e-6)


def test_risk_bands_keep_to_the_alert_budget():
    rng = np.random.default_rng(0)
    stays = random_stays(rng, 300).assign(ends_at="unit", intime=at(0.0), outtime=at(40 + rng.random(300)))
    known = Known(stays, random_observations(rng, stays, 9000), at(100))
    forecaster, _ = fit_forecaster(known, np.ones(300, bool), small_config(epochs=1))
    medium, high, very_high = forecaster.risk_thresholds
    assert forecaster.risk_thresholds != RISK_THRESHOLDS and medium < high < very_high
    few, _ = fit_forecaster(known.take(np.arange(300) < 100), np.ones(100, bool), small_config(epochs=1))
    assert few.risk_thresholds == RISK_THRESHOLDS


def test_a_forecast_counts_the_same_in_the_risk_bands_however_long_its_stay_goes_on():
    """Two worlds with the same forecasts: in one, half of them are of one long stay."""
    risk = np.random.default_rng(0).random(1000)
    evenly, one_long = np.arange(1000) % 250, np.minimum(np.arange(1000), 500)
    found = [
        fit_stay._fit_thresholds(SimpleNamespace(stay_of_row=stay), np.arange(1000), risk, (0.4, 0.15, 0.05))
        for stay in (evenly, one_long)
    ]
    assert found[0] == found[1] and (risk >= found[0][2]).mean() == pytest.approx(0.05, abs=0.002)
