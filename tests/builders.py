"""Small stays frames, observations and windows for tests; times are given in hours after `T0`."""

from dataclasses import replace

import numpy as np
import pandas as pd

from rnn_core.contracts.concepts import BY_NAME, INDEX, NAMES
from rnn_core.contracts.config import ModelConfig, Sampling, TreesConfig, WindowConfig
from rnn_core.contracts.frames import STAY_COLUMNS, Observations, Windows
from rnn_core.contracts.known import Known
from rnn_core.series.grid import make_grid
from rnn_core.series.material import Material, make_material, make_served_grid
from rnn_core.series.scaling import STATIC_NAMES, Scaler, fit_scaler, static_features
from rnn_core.series.windows import TIME_CHANNELS, make_windows

T0 = np.datetime64("2024-03-01T00:00:00", "us")
TIME_COLUMNS = ("intime", "outtime", "hospital_intime", "hospital_outtime", "died_at")
NUMBER_COLUMNS = ("end_precision_hours", "age_years", "height_cm", "weight_kg")


def at(hours):
    """Hours after `T0` as datetime64[us]; None and NaN as NaT."""
    hours = np.array(hours, dtype=np.float64)
    times = T0 + np.round(np.nan_to_num(hours) * 3_600_000_000).astype("timedelta64[us]")
    return np.where(np.isnan(hours), np.datetime64("NaT", "us"), times)[()]


def stays_frame(*rows: dict) -> pd.DataFrame:
    """A stays frame; what a row does not name is null, times may be hours after `T0`."""
    defaults = {"source": "test", "unit": "A", "unit_type": "mixed", "intime": 0.0}
    full = [{"stay_id": f"s{i}", "patient_id": f"p{i}"} | defaults | row for i, row in enumerate(rows)]
    frame = pd.DataFrame(
        {column: [row.get(column) for row in full] for column in STAY_COLUMNS}, dtype=None if rows else object
    )
    for column in TIME_COLUMNS:
        values = frame[column].to_list()
        is_time = [isinstance(value, np.datetime64 | pd.Timestamp) for value in values]
        hours = [None if t else value for value, t in zip(values, is_time, strict=True)]
        times = np.array(at(hours), dtype="datetime64[us]")
        times[is_time] = [np.datetime64(value, "us") for value, t in zip(values, is_time, strict=True) if t]
        frame[column] = times
    for column in NUMBER_COLUMNS:
        frame[column] = frame[column].astype("float64")
    return frame


def observed(*rows: tuple) -> Observations:
    """Observations from (stay row, concept name, observed at, available at, value), in the order of their contract."""
    rows = sorted(rows, key=lambda row: (row[3], row[2]))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    return Observations(
        stay=np.array(columns[0], dtype=np.int32),
        concept=np.array([INDEX[name] for name in columns[1]], dtype=np.int16),
        observed_at=np.array(at(columns[2]), dtype="datetime64[us]"),
        available_at=np.array(at(columns[3]), dtype="datetime64[us]"),
        value=np.array(columns[4], dtype=np.float64),
    )


def random_stays(rng: np.random.Generator, n: int, hours: float = 60.0) -> pd.DataFrame:
    """Finished stays with odd minutes, some on the full hour, lengths up to `hours`."""
    intime = np.where(rng.random(n) < 0.3, rng.integers(0, 30, n), rng.random(n) * 30)
    length = np.where(rng.random(n) < 0.3, rng.integers(1, hours, n), 0.1 + rng.random(n) * hours)
    died = rng.random(n) < 0.3
    return stays_frame(
        *(
            {"intime": i, "outtime": i + d, "outcome": "died" if dead else "alive", "age_years": age, "sex": sex}
            for i, d, dead, age, sex in zip(
                intime, length, died, rng.integers(18, 95, n), rng.choice(["female", "male"], n), strict=True
            )
        )
    )


def random_observations(
    rng: np.random.Generator, stays: pd.DataFrame, n: int, names: tuple[str, ...] = NAMES
) -> Observations:
    """Observations from before admission until after discharge: prompt and late results, ties, and corrections."""
    stay = rng.integers(0, len(stays), n)
    start = ((stays["intime"].to_numpy() - T0) / np.timedelta64(1, "h"))[stay]
    end = ((stays["outtime"].to_numpy() - T0) / np.timedelta64(1, "h"))[stay]
    observed_at = start - 3 + rng.random(n) * (end - start + 6)
    observed_at = np.where(rng.random(n) < 0.4, np.round(observed_at), observed_at)
    delay = rng.choice([0.0, 0.25, 1.0, 6.5], n)
    concept = rng.choice(np.array(names), n)
    low, high = (np.array([getattr(BY_NAME[name], end) for name in concept]) for end in ("low", "high"))
    value = low + rng.random(n) * (high - low)
    rows = list(zip(stay, concept, observed_at, observed_at + delay, value, strict=True))
    corrected = [(s, c, o, a + 2.5, v * 0.9 + 0.1) for s, c, o, a, v in rows[:: max(1, n // 20)]]
    return observed(*{(s, c, o, a): (s, c, o, a, v) for s, c, o, a, v in rows + corrected}.values())


def plain_scaler() -> Scaler:
    """Leaves values as they are (after log1p where the concept asks for it), clipped very far out."""
    return Scaler(
        center=np.zeros(len(NAMES), np.float32),
        scale=np.ones(len(NAMES), np.float32),
        static_center=np.zeros(len(STATIC_NAMES), np.float32),
        static_scale=np.ones(len(STATIC_NAMES), np.float32),
        clip=1e6,
    )


def windows_of(
    stays: pd.DataFrame,
    observations: Observations | None = None,
    as_of: np.datetime64 | None = None,
    config: WindowConfig | None = None,
    scaler: Scaler | None = None,
) -> Windows:
    """Windows straight from stays and observations."""
    grid = make_grid(stays, observations if observations is not None else observed(), as_of)
    return make_windows(grid, stays, scaler or plain_scaler(), config or WindowConfig())


def small_config(**training) -> ModelConfig:
    """The recipe of a forecaster that fits in seconds."""
    config = ModelConfig()
    return replace(
        config,
        network=replace(config.network, units=(8,)),
        train=replace(config.train, **({"folds": 2, "epochs": 2, "batch_size": 16} | training)),
        window=replace(config.window, min_observations=3),
        trees=TreesConfig(trees=20, learning_rate=0.1),
    )


def material_of(known: Known, config: ModelConfig) -> Material:
    """What a forecaster of `config` learns from, of these stays."""
    grid = make_served_grid(known, config.window, Sampling())
    return make_material(known, grid, scaler_of(known, config), config, Sampling())


def scaler_of(known: Known, config: ModelConfig) -> Scaler:
    """Fitted to all of these stays."""
    grid = make_served_grid(known, config.window, Sampling())
    return fit_scaler(grid, static_features(known.stays), np.arange(len(known.stays)))


def untrained(known: Known, config: ModelConfig, scaler: Scaler | None = None):
    """A stay forecaster of one network with weights as a training might leave them, made for these stays."""
    from rnn_core.forecasters.networks import Networks
    from rnn_core.forecasters.recurrent import RecurrentEnsemble
    from rnn_core.forecasters.stay import StayForecaster
    from rnn_core.network.build import build_network
    from rnn_core.statistics.calibration import Calibration

    n = len(config.window.concepts)
    sizes = {"n_channels": 3 * n + len(TIME_CHANNELS), "n_concepts": n, "n_static": len(STATIC_NAMES)}
    network = build_network(replace(config.network, **sizes))
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(0, 0.1, weight.shape) for weight in network.get_weights()])
    scaler = scaler or scaler_of(known, config)
    model = RecurrentEnsemble(Networks.of(network), config.network.horizon_edges)
    config = replace(config, network=replace(config.network, **sizes))
    return StayForecaster(model, scaler, config, Calibration(), str(known.stays["ends_at"].iloc[0]))


def ended_pairs(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """Forecasts of stays that ended, two of each patient, by two models in two units and three months."""
    rng = np.random.default_rng(seed)
    remaining = rng.exponential(80, n)
    median = remaining * rng.lognormal(0, 0.7, n)
    died = rng.random(n) < 0.25
    frame = pd.DataFrame(
        {
            "model_id": np.where(np.arange(n) < n // 2, "m1", "m2"),
            "unit": rng.choice(["MICU", "SICU"], n),
            "month": rng.choice(["2031-03", "2031-04", "2031-05"], n),
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "hours_in_stay": rng.integers(4, 160, n).astype(float),
            "age_years": np.where(np.arange(n) % 4 < 2, 40.0, 70.0),
            "sex": None,
            "died": died.astype(object),
            "remaining_hours": remaining,
            "end_precision_hours": 0.0,
            "mortality_risk": np.clip(0.25 + 0.2 * died + rng.normal(0, 0.1, n), 0.01, 0.99),
            "prolonged_stay_risk": rng.uniform(0.1, 0.9, n),
        }
    )
    for share, q in ((0.2, 10), (1.0, 50), (3.0, 90)):
        frame[f"remaining_los_p{q}_hours"] = median * share
    for hours in (24, 48, 72):
        frame[f"discharge_{hours}h_prob"] = 1 - 2 ** (-hours / median)
    return frame
