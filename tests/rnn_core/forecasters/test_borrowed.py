"""Stays of other sources: networks learn from them, and nothing is stopped, calibrated or judged on them."""

from dataclasses import replace

import numpy as np
import pytest
from builders import at, material_of, random_observations, random_stays, small_config, untrained

from rnn_core.contracts.config import Sampling
from rnn_core.contracts.known import Known, borrow
from rnn_core.forecasters.fit_stay import make_forecaster
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.network import training
from rnn_core.network.build import build_network
from rnn_core.network.training import FittedModel
from rnn_core.series.material import Material

CONFIG = small_config()
OWN, OTHER = 24, 30


def known(source: str, n: int, seed: int) -> Known:
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, n).assign(ends_at="unit", source=source)
    stays["patient_id"] = [f"{source} {i}" for i in range(n)]
    return Known(stays, random_observations(rng, stays, 60 * n), at(120))


def joined(swapped: bool = False) -> Known:
    """Own stays, some still open, with those of two other sources; of these the outcomes may be swapped."""
    own, others = known("ward", OWN, 1), [known("b", OTHER - 10, 2), known("a", 11, 3)]
    left_at = own.stays["outtime"].where(own.stays.index < 20)
    own = replace(
        own, stays=own.stays.assign(outtime=left_at, outcome=own.stays["outcome"].where(left_at.notna(), None))
    )
    others[1].stays.loc[0, "patient_id"] = "ward 5"
    if swapped:
        swap = {"alive": "died", "died": "alive"}
        others = [replace(one, stays=one.stays.assign(outcome=one.stays["outcome"].map(swap))) for one in others]
    return borrow(own, others, own.stays["patient_id"])


@pytest.fixture(scope="module")
def material() -> Material:
    return material_of(joined(), CONFIG)


def test_others_come_behind_ones_own_without_patients_of_the_same_id(material):
    stays = material.known.stays
    assert len(stays) == OWN + OTHER and stays["patient_id"].is_unique
    np.testing.assert_array_equal(material.known.borrowed, np.arange(OWN + OTHER) >= OWN)
    np.testing.assert_array_equal(material.folds(3) == -1, material.known.borrowed)
    np.testing.assert_array_equal(material.origin, np.stack([stays["source"] == "a", stays["source"] == "b"], axis=1))


def test_every_member_learns_from_them_and_none_is_stopped_or_calibrated_on_them(material, monkeypatch):
    asked = []

    def fit(windows, labels, train, valid, config, **_):
        asked.append((train, valid))
        sizes = {"n_channels": windows.channels.shape[1], "n_static": windows.static.shape[1]}
        sized = replace(config, network=replace(config.network, n_concepts=len(config.window.concepts), **sizes))
        network = build_network(sized.network)
        rng = np.random.default_rng(len(asked))
        network.set_weights([rng.normal(0, 0.1, weight.shape) for weight in network.get_weights()])
        fits.append(network)
        return FittedModel(network, sized, (), 1)

    fits = []
    monkeypatch.setattr(training, "fit_stay_model", fit)
    fitted = RecurrentEnsemble.fit(material, np.ones(OWN + OTHER, bool), CONFIG)
    assert len(asked) == 2
    for train, valid in asked:
        assert train[OWN:].all() and not valid[OWN:].any() and valid[:OWN].any() and not (train & valid).any()
    row = fitted.row
    np.testing.assert_array_equal(row, material.judged_rows)
    assert len(row) > 20 and (material.stay_of_row[row] < OWN).all()
    # What is served reads no origin, and forecasts one's own stays as the networks that learned with it.
    assert fitted.config.network.n_static == material.windows.static.shape[1] == fits[0].inputs[1].shape[1] - 2
    for served, learned in zip(fitted.forecaster.members(), fits, strict=True):
        with_it = RecurrentEnsemble(Networks.of(learned), CONFIG.network.horizon_edges).forecast(
            material.windows_with_origin, row
        )
        np.testing.assert_allclose(served.forecast(material.windows, row).masses, with_it.masses, atol=1e-5)
    scaler = untrained(material.known, CONFIG).scaler
    other = material_of(joined(swapped=True), CONFIG)
    ours, theirs = (make_forecaster(one, fitted, scaler, Sampling()) for one in (material, other))
    assert ours.calibration == theirs.calibration and ours.risk_thresholds == theirs.risk_thresholds
