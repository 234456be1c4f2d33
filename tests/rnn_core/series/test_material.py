"""What is learned of the risk of death near the cut-off, where of the stays that began only the short ones have ended."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from builders import at, material_of, observed, small_config, stays_frame

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.known import Known
from rnn_core.forecasters import blend, fit_stay, training_material
from rnn_core.forecasters.forecaster import OutOfFold
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.training_material import build_material
from rnn_core.network import training
from rnn_core.network.scoring import fixed_inputs
from rnn_core.series.material import JUDGE_EVERY_HOURS, Material, known_until, make_served_grid
from rnn_core.series.material_files import read_material, write_material
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.statistics.calibration import fit_mortality_calibration
from rnn_core.statistics.distribution import Distribution

N, DAYS, ODDS = 400, 20, 1 / 3
CONFIG = small_config()
CONFIG = replace(CONFIG, window=replace(CONFIG.window, concepts=("heart_rate",), min_observations=1))
# Mean days to the end of those who die and of those who live.
WORLDS = {"late": (5.0, 1.5), "early": (1.0, 5.0)}


@cache
def world(when: str) -> Material:
    """Stays of exponential lengths that begin evenly over three weeks, as known at their end; a fourth dies, nobody knows
    who. Begins and lengths are spread evenly instead of drawn, so that chance has no part."""
    number = np.arange(N)
    died = number % 4 == 0
    nth = np.where(died, number // 4, number)
    begin = 24 * DAYS * ((nth * 0.6180339887) % 1)
    days = np.where(died, *WORLDS[when])
    end, cutoff = begin + np.maximum(-24 * days * np.log1p(-((nth * 0.4142135624 + 0.5) % 1)), 1), 24.0 * DAYS
    stays = stays_frame(
        *(
            {"intime": b} | ({"outtime": e, "outcome": "died" if dead else "alive"} if e <= cutoff else {})
            for b, e, dead in zip(begin, end, died, strict=True)
        )
    ).assign(ends_at="unit")
    seen = [
        (i, "heart_rate", t, t, 80.0)
        for i, (b, e) in enumerate(zip(begin, np.minimum(end, cutoff), strict=True))
        for t in np.arange(b + 0.5, e, 12)
    ]
    return material_of(Known(stays, observed(*seen), at(cutoff)), CONFIG)


def test_material_in_files_is_what_a_fit_reads_of_it(tmp_path):
    material = world("late")
    stays = material.known.stays
    borrowed = np.arange(len(stays)) % 5 == 0
    stays = stays.assign(borrowed=borrowed, source=np.where(borrowed, "other", stays["source"]))
    material = replace(material, known=replace(material.known, stays=stays))
    write_material(tmp_path, material)
    found = read_material(tmp_path)
    for name in ("windows", "labels"):
        parts, again = getattr(material, name), getattr(found, name)
        for field in fields(parts):
            np.testing.assert_array_equal(getattr(again, field.name), getattr(parts, field.name), strict=True)
    for name in ("stay_of_row", "judged_rows", "settled_death", "known_until"):
        np.testing.assert_array_equal(getattr(found, name), getattr(material, name), strict=True)
    np.testing.assert_array_equal(found.folds(5), material.folds(5))
    np.testing.assert_array_equal(found.windows_with_origin.static, material.windows_with_origin.static)
    assert material.origin.sum() == borrowed.sum() > 0


def test_material_made_part_by_part_in_files_is_that_of_all_stays_together(tmp_path, monkeypatch):
    material, stays = world("late"), np.arange(N)
    sources = np.where(stays % 5 == 0, "other", "own")
    known = replace(material.known, stays=material.known.stays.assign(source=sources, borrowed=sources == "other"))
    learned, read = stays % 7 > 0, []
    together, scaler = build_material(known, learned, CONFIG, Sampling())
    assert (
        scaler.to_json()
        == fit_scaler(
            make_served_grid(known, CONFIG.window, Sampling()), static_features(known.stays), np.flatnonzero(learned)
        ).to_json()
    )
    monkeypatch.setattr("rnn_core.contracts.known.PART_STAYS", 90)
    monkeypatch.setattr(training_material, "known_until", lambda *given: read.append(1) or known_until(*given))
    _, again = build_material(known, learned, CONFIG, Sampling())
    np.testing.assert_allclose(again.center, scaler.center, rtol=1e-6)
    np.testing.assert_allclose(again.scale, scaler.scale, rtol=1e-6)
    assert len(read) == 5
    for expected in (5, 0):
        del read[:]
        in_files, _ = build_material(known, learned, CONFIG, Sampling(), tmp_path, lambda _: scaler)
        assert len(read) == expected, "what an interrupted fit has read is not read again"
        assert isinstance(in_files.windows.channels, np.memmap)
        assert_same(in_files, together)
    assert_same(build_material(known, learned, CONFIG, Sampling(), completed=lambda _: scaler)[0], together)
    later = replace(known, as_of=known.as_of + np.timedelta64(1, "h"))
    build_material(later, learned, CONFIG, Sampling(), tmp_path)
    assert len(read) == 10 and len(list(tmp_path.iterdir())) == 1, "what another fit has read is removed"


def assert_same(ours: Material, theirs: Material) -> None:
    for part in ("windows", "labels"):
        for field in fields(getattr(ours, part)):
            one, other = (getattr(getattr(each, part), field.name) for each in (ours, theirs))
            np.testing.assert_array_equal(one, other, strict=True, err_msg=field.name)
    for name in ("known_until", "settled_death", "judged_rows", "fixed"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), strict=True)
    np.testing.assert_array_equal(ours.fixed, fixed_inputs(ours.windows_with_origin, CONFIG))


@pytest.mark.parametrize("when", WORLDS)
def test_risks_are_learned_where_deaths_had_as_much_time_as_survivals(when):
    """Where whatever has ended is learned from, true risks are called too high, or too low."""
    material, (dying, living) = world(when), WORLDS[when]
    row = material.judged_rows
    hours = material.windows.prediction_hour[row].astype(float)
    odds = ODDS * np.exp(hours / 24 * (1 / living - 1 / dying))
    risk = odds / (1 + odds)

    def calibrated(death: np.ndarray) -> float:
        line = fit_mortality_calibration(risk, death[row], hours, JUDGE_EVERY_HOURS / 24)
        return line.calibrate(risk, hours).mean() / risk.mean()

    of_all_ended = calibrated(material.labels.death)
    assert of_all_ended < 0.94 if when == "late" else of_all_ended > 1.15
    assert calibrated(material.settled_death) == pytest.approx(1, abs=0.03)


def test_which_risks_are_learned_depends_on_when_they_were_forecast_and_not_on_what_became_of_the_stay():
    material = world("late")
    stay, death = material.stay_of_row, material.labels.death
    age = (material.known.as_of - material.known.intime)[stay] / np.timedelta64(
        1, "h"
    ) - material.windows.prediction_hour
    learned = ~np.isnan(material.settled_death)
    known = ~np.isnan(death)
    assert 0 < learned.sum() < known.sum()
    assert age[learned].min() >= age[known & ~learned].max()
    np.testing.assert_array_equal(material.settled_death[learned], death[learned])


def test_where_all_stays_have_ended_all_of_them_are_learned_from():
    material = world("late")
    ended = material_of(material.known.take(material.known.stays["outtime"].notna().to_numpy()), CONFIG)
    np.testing.assert_array_equal(ended.settled_death, ended.labels.death)


def test_the_networks_the_calibration_and_the_pool_learn_the_risk_of_settled_forecasts(monkeypatch):
    material = world("early")
    row, given = material.judged_rows, {}

    def caught(name: str):
        def catch(*arguments, **_):
            given[name] = arguments[1]
            raise InterruptedError

        return catch

    edges = np.array(CONFIG.network.horizon_edges)
    masses = np.full((len(row), len(edges), 2), 0.5 / len(edges))
    fitted = OutOfFold(forecaster=None, config=CONFIG, row=row, forecast=Distribution(masses, edges))
    for module, name, learn in (
        (training, "fit_stay_model", lambda: RecurrentEnsemble.fit(material, np.ones(N, bool), CONFIG)),
        (fit_stay, "fit_calibration", lambda: fit_stay.make_forecaster(material, fitted, None, None)),
        (blend, "fit_pool", lambda: blend.join(material, [fitted, fitted], CONFIG)),
    ):
        monkeypatch.setattr(module, name, caught(name))
        with pytest.raises(InterruptedError):
            learn()
    np.testing.assert_array_equal(given["fit_stay_model"].death, material.settled_death)
    np.testing.assert_array_equal(given["fit_calibration"], material.settled_death[row])
    np.testing.assert_array_equal(given["fit_pool"], material.settled_death[row])
