"""The scaler: fitted on training stays only, defined for what training never saw, the same bits after a round trip."""

import json

import numpy as np
import pytest
from builders import observed, random_observations, random_stays, stays_frame

from rnn_core.contracts.concepts import CONCEPTS, INDEX, NAMES, bounds
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.frames import Observations
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import CLIP, STATIC_NAMES, Scaler, fit_scaler, static_features

ARRAYS = ("center", "scale", "static_center", "static_scale")
EVERY_CONCEPT = np.arange(len(NAMES))


def same_scaler(one: Scaler, other: Scaler) -> bool:
    return one.clip == other.clip and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in ARRAYS)


def fit_on(values: dict[str, list[float]]) -> Scaler:
    """A scaler fitted on one stay in which each value became available in an hour of its own."""
    rows = [(0, name, float(h), float(h), v) for name, vs in values.items() for h, v in enumerate(vs, start=1)]
    stays = stays_frame({"outtime": 1 + max(map(len, values.values()), default=1)})
    return fit_scaler(make_grid(stays, observed(*rows)), static_features(stays), np.array([0]))


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(5)
    stays = random_stays(rng, 30)
    return stays, random_observations(rng, stays, 6000)


def test_other_stays_than_those_of_training_change_nothing(cohort):
    stays, observations = cohort
    training = np.arange(0, 30, 3)
    before = fit_scaler(make_grid(stays, observations), static_features(stays), training)
    other = ~np.isin(observations.stay, training)
    changed = Observations(
        observations.stay,
        observations.concept,
        observations.observed_at,
        observations.available_at,
        np.where(other, observations.value * 3 + 1, observations.value),
    )
    aged = stays.copy()
    aged.loc[~aged.index.isin(training), "age_years"] = 99
    after = fit_scaler(make_grid(aged, changed), static_features(aged), training)
    assert same_scaler(before, after)
    everyone = fit_scaler(make_grid(aged, changed), static_features(aged), np.arange(30))
    assert not np.array_equal(everyone.center, after.center)
    assert everyone.static_center[0] != after.static_center[0]


def test_observed_training_cells_get_mean_zero_and_spread_one(cohort):
    stays, observations = cohort
    grid = make_grid(stays, observations)
    scaler = fit_scaler(grid, static_features(stays), np.arange(30))
    for name in ("heart_rate", "creatinine"):
        cells = grid.last[:, INDEX[name]]
        cells = cells[~np.isnan(cells)]
        raw = np.log1p(cells) if name == "creatinine" else cells
        scaled = (raw - scaler.center[INDEX[name]]) / scaler.scale[INDEX[name]]
        assert np.isclose(scaled.mean(), 0, atol=1e-4) and np.isclose(scaled.std(), 1, atol=1e-4)
        assert np.allclose(scaler.scale_values(cells, np.full(len(cells), INDEX[name])), scaled, atol=1e-5)


def test_a_concept_that_training_never_saw_maps_its_plausible_range_to_plus_minus_two():
    scaler = fit_on({"heart_rate": [60, 80]})
    unseen = np.delete(EVERY_CONCEPT, INDEX["heart_rate"])
    for bound, expected in zip(bounds(), (-2, 2), strict=True):
        assert np.allclose(scaler.scale_values(bound, EVERY_CONCEPT)[unseen], expected, atol=1e-4)


def test_a_concept_that_never_varied_in_training_keeps_a_sane_scale():
    scaler = fit_on({"sodium": [140.0, 140.0, 140.0]})
    scaled = scaler.scale_values(np.array([140.0, 141.0]), np.full(2, INDEX["sodium"]))
    assert scaled[0] == 0 and 0 < scaled[1] < 0.1


def test_scaled_values_are_cut_and_stay_finite_over_the_whole_plausible_range(cohort):
    stays, observations = cohort
    scaler = fit_scaler(make_grid(stays, observations), static_features(stays), np.arange(30))
    for bound in bounds():
        scaled = scaler.scale_values(bound, EVERY_CONCEPT)
        assert np.isfinite(scaled).all() and (np.abs(scaled) <= CLIP).all() and scaled.dtype == np.float32
    assert fit_on({"heart_rate": [70, 72, 74]}).scale_values(np.array([300.0]), np.array([INDEX["heart_rate"]])) == CLIP


def test_concepts_with_a_long_tail_are_scaled_by_their_logarithm():
    assert next(c for c in CONCEPTS if c.name == "lactate").log_scale
    scaler = fit_on({"lactate": [1.0, 3.0, 7.0]})
    low, middle, high = scaler.scale_values(np.array([1.0, 3.0, 7.0]), np.full(3, INDEX["lactate"]))
    assert np.isclose(middle - low, high - middle, atol=1e-5)


def test_a_scaler_survives_a_round_trip_through_json_bit_by_bit(cohort):
    stays, observations = cohort
    scaler = fit_scaler(make_grid(stays, observations), static_features(stays), np.arange(30))
    again = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    assert same_scaler(scaler, again)
    assert all(getattr(again, a).dtype == np.float32 for a in ARRAYS)


def test_a_scaler_of_other_static_features_is_refused():
    saved = fit_on({}).to_json()
    saved["static"] = saved["static"][::-1]
    with pytest.raises(ContractError, match="static features"):
        Scaler.from_json(saved)


def test_a_scaler_knows_its_concepts_by_name_whatever_their_order_or_number():
    fitted = fit_on({"lactate": [1.0, 3.0, 7.0], "heart_rate": [60.0, 80.0]})
    saved = fitted.to_json()
    for name in ("concepts", "center", "scale"):
        saved[name] = saved[name][::-1][:-1]
    values, concept = np.array([2.0, 5.0]), np.array([INDEX["lactate"]] * 2)
    again = Scaler.from_json(saved)
    np.testing.assert_array_equal(again.scale_values(values, concept), fitted.scale_values(values, concept))
    assert Scaler.from_json(again.to_json()).concepts == again.concepts == NAMES[::-1][:-1]
    with pytest.raises(IndexError):
        again.scale_values(values, np.array([INDEX[NAMES[0]]] * 2))


def test_a_scaler_of_a_concept_that_is_gone_is_refused_by_name():
    saved = fit_on({}).to_json()
    saved["concepts"][3] = "gone"
    with pytest.raises(ContractError, match="does not have: gone"):
        Scaler.from_json(saved)


def test_static_features_tell_what_is_missing_from_what_is_average():
    stays = stays_frame(
        {"outtime": 3, "age_years": 60, "height_cm": 170, "weight_kg": 80, "sex": "male", "admission_type": "urgent"},
        {"outtime": 3, "age_years": 70, "height_cm": 180, "weight_kg": 90, "sex": "female", "unit_type": "trauma"},
        {"outtime": 3, "age_years": None, "height_cm": -1, "weight_kg": 9000, "sex": None, "unit_type": "zoo"},
    )
    raw = static_features(stays)
    assert raw.shape == (3, len(STATIC_NAMES)) and raw.dtype == np.float32
    scaled = fit_scaler(make_grid(stays, observed()), raw, np.array([0, 1])).scale_static(raw)
    features = [dict(zip(STATIC_NAMES, row, strict=True)) for row in scaled.tolist()]
    assert [f["age_years"] for f in features] == [-1, 1, 0]
    assert [f["height_cm"] for f in features] == [-1, 1, 0]
    assert [f["weight_kg_missing"] for f in features] == [0, 0, 1]
    assert {n for n, v in features[0].items() if v == 1} == {"sex_male", "admission_type_urgent", "unit_type_mixed"}
    assert {n for n, v in features[2].items() if v} == {"age_years_missing", "height_cm_missing", "weight_kg_missing"}


def test_static_numbers_that_no_training_stay_has_get_their_plausible_range():
    stays = stays_frame({"outtime": 3}, {"outtime": 3, "age_years": 120, "height_cm": 230, "weight_kg": 400})
    raw = static_features(stays)
    scaled = fit_scaler(make_grid(stays, observed()), raw, np.array([0])).scale_static(raw)
    assert np.isfinite(scaled).all()
    assert np.allclose(scaled[1, :3], 2)
