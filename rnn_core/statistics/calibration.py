"""Makes forecasts agree with what was observed, on held-out stays, without contradicting themselves.

Both steps rescale the masses of the joint distribution and every published column is read from it afterwards. The first
moves the risk of death, the second the time of the end given how it ends; neither touches what the other sets, so they
commute. Few patients move a forecast little: a prior holds each step near the identity. How much a row counts is up to
the caller, and must not depend on what comes after it: counting all rows of a patient as one would hush the long stays.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.saved import Saved
from rnn_core.statistics.calibration_metrics import log_odds
from rnn_core.statistics.distribution import Distribution

# Standard deviations of the normal priors around the identity (slope 1, intercept 0; logarithms of both time powers 0).
# About twenty deaths weigh as much as they do; with a handful most of the forecast stays as it was.
SLOPE_SD, INTERCEPT_SD, POWER_SD = 0.25, 0.5, 0.25
# The same for the change of each with every doubling of the elapsed stay.
SLOPE_CHANGE_SD, INTERCEPT_CHANGE_SD, POWER_CHANGE_SD = 0.1, 0.2, 0.1

# Elapsed hours at which slope and intercept are what they say, and between which they change.
REFERENCE_HOURS = 24.0
_HOURS_BOUNDS = (4.0, 168.0)

# A falling map would turn the order of the patients around; powers beyond these bounds empty whole bins.
SLOPE_BOUNDS = (0.05, 20.0)
POWER_BOUNDS = (0.1, 10.0)

# Hourly rows of one stay are near-copies; more rows than this only take time in the fit of the two powers.
MAX_TIME_ROWS = 20_000


@dataclass(frozen=True)
class PlattCalibration(Saved):
    """logit(calibrated risk of death) = intercept + slope * logit(risk) (Platt 1999), both changing with the elapsed stay.

    slope, intercept: after `REFERENCE_HOURS` in the unit. slope_per_doubling, intercept_per_doubling: added with each
    doubling of the elapsed hours: early forecasts, made on little, are the more overconfident. The slope stays above 0,
    so that patients seen at one hour keep their order.
    """

    slope: float = 1.0
    intercept: float = 0.0
    slope_per_doubling: float = 0.0
    intercept_per_doubling: float = 0.0

    def calibrate(self, risk: ArrayLike, elapsed_hours: ArrayLike = REFERENCE_HOURS) -> np.ndarray:
        """Calibrated risks of the same shape; 0 and 1 stay what they are."""
        doublings = hour_doublings(elapsed_hours)
        slope = np.maximum(self.slope + self.slope_per_doubling * doublings, SLOPE_BOUNDS[0])
        intercept = self.intercept + self.intercept_per_doubling * doublings
        return expit(intercept + slope * logit(np.asarray(risk, dtype=np.float64)))

    def apply(self, forecast: Distribution, elapsed_hours: ArrayLike = REFERENCE_HOURS) -> Distribution:
        """The forecast with its calibrated risk of death; each cause keeps its times."""
        return forecast.with_mortality_risk(self.calibrate(forecast.mortality_risk(), elapsed_hours))

    def stretched(self, factor: float, centre: float) -> "PlattCalibration":
        """The same with calibrated log-odds `factor` times as far from `centre`."""
        return PlattCalibration(
            self.slope * factor,
            self.intercept * factor + (1 - factor) * centre,
            self.slope_per_doubling * factor,
            self.intercept_per_doubling * factor,
        )


def hour_doublings(elapsed_hours: ArrayLike) -> np.ndarray:
    """How often the elapsed stay has doubled since `REFERENCE_HOURS`, between 4 and 168 hours."""
    return np.log2(np.clip(np.asarray(elapsed_hours, dtype=np.float64), *_HOURS_BOUNDS) / REFERENCE_HOURS)


@dataclass(frozen=True)
class TimeCalibration(Saved):
    """Distribution of the time to the end, given how it ends: F becomes 1 - (1 - F^early)^late, for both causes alike.

    The distribution function of Kumaraswamy (1980), a closed-form stand-in for that of the beta distribution. Powers
    below 1 widen the forecast, above 1 narrow it; early < late brings ends nearer, early > late puts them off.

    early, late: after `REFERENCE_HOURS` in the unit. early_per_doubling, late_per_doubling: added to the logarithm of
    each with every doubling of the elapsed hours: a forecast may be too long on the first day and too short on the tenth.
    """

    early: float = 1.0
    late: float = 1.0
    early_per_doubling: float = 0.0
    late_per_doubling: float = 0.0

    def calibrate(self, cdf: np.ndarray, elapsed_hours: ArrayLike = REFERENCE_HOURS) -> np.ndarray:
        """Calibrated values of distribution functions [rows, ...], of the same shape; 0 and 1 stay what they are."""
        doublings = np.broadcast_to(hour_doublings(elapsed_hours), len(cdf)).reshape(-1, *(1,) * (cdf.ndim - 1))
        early = np.clip(self.early * np.exp(self.early_per_doubling * doublings), *POWER_BOUNDS)
        late = np.clip(self.late * np.exp(self.late_per_doubling * doublings), *POWER_BOUNDS)
        # A power below 1 would blow rounding errors at 0 and 1 up into probabilities.
        with np.errstate(divide="ignore"):
            return -np.expm1(late * np.log1p(-(np.round(cdf, 12) ** early)))

    def apply(self, forecast: Distribution, elapsed_hours: ArrayLike = REFERENCE_HOURS) -> Distribution:
        """The forecast with its calibrated times; it keeps its risk of death."""
        return forecast.with_times(self.calibrate(forecast.times_by_cause(), elapsed_hours))


@dataclass(frozen=True)
class Calibration(Saved):
    """Both steps; as built it changes nothing."""

    mortality: PlattCalibration = field(default_factory=PlattCalibration)
    time: TimeCalibration = field(default_factory=TimeCalibration)

    def apply(self, forecast: Distribution, elapsed_hours: ArrayLike = REFERENCE_HOURS) -> Distribution:
        """The calibrated forecast of stays that have lasted so many hours, [rows] or one number."""
        return self.time.apply(self.mortality.apply(forecast, elapsed_hours), elapsed_hours)


def thinned(rows: np.ndarray, most: int, row_weight: float) -> tuple[np.ndarray, float]:
    """At most so many of `rows`, drawn at random and rising, and the weight with which each stands for all."""
    if len(rows) <= most:
        return rows, row_weight
    kept = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    return kept, row_weight * (len(rows) / most)


def fit_calibration(
    forecast: Distribution,
    death: ArrayLike,
    weights: ArrayLike,
    entry: ArrayLike | None = None,
    elapsed_hours: ArrayLike = REFERENCE_HOURS,
    row_weight: float = 1.0,
) -> Calibration:
    """Both steps, fitted on held-out forecasts.

    Arguments as in `fit_mortality_calibration` and `fit_time_calibration`.
    """
    mortality = fit_mortality_calibration(forecast.mortality_risk(), death, elapsed_hours, row_weight)
    calibrated = mortality.apply(forecast, elapsed_hours)
    return Calibration(mortality, fit_time_calibration(calibrated, weights, entry, elapsed_hours, row_weight))


def fit_mortality_calibration(
    mortality_risk: ArrayLike,
    death: ArrayLike,
    elapsed_hours: ArrayLike = REFERENCE_HOURS,
    row_weight: float = 1.0,
) -> PlattCalibration:
    """Slope and intercept of the log-odds of death, and their change with time, by penalised maximum likelihood.

    mortality_risk: forecast, [rows]. death: 1, 0 or NaN where not known (left out), [rows].
    elapsed_hours: length of the stay at each forecast, [rows] or one number.
    row_weight: what each row counts against the prior; rows of one day of a patient are near-copies.

    The penalty is a normal prior, slope ~ N(1, SLOPE_SD²), intercept ~ N(0, INTERCEPT_SD²), changes ~ N(0,
    SLOPE_CHANGE_SD²) and N(0, INTERCEPT_CHANGE_SD²): without any row the result is the identity, and it leaves it as
    patients of both outcomes come in.
    """
    risk, death = np.asarray(mortality_risk, dtype=np.float64), np.asarray(death, dtype=np.float64)
    known = ~(np.isnan(risk) | np.isnan(death))
    x, y = log_odds(risk[known]), death[known]
    doublings = np.broadcast_to(hour_doublings(elapsed_hours), risk.shape)[known]
    design = np.stack([x, np.ones(len(x)), x * doublings, doublings])
    centre = np.array([1.0, 0.0, 0.0, 0.0])
    precision = np.array([SLOPE_SD, INTERCEPT_SD, SLOPE_CHANGE_SD, INTERCEPT_CHANGE_SD]) ** -2.0

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        eta, away = parameters @ design, parameters - centre
        value = row_weight * (np.logaddexp(0, eta) - y * eta).sum() + precision @ away**2 / 2
        return value, row_weight * design @ (expit(eta) - y) + precision * away

    bounds = [SLOPE_BOUNDS, (None, None), (None, None), (None, None)]
    from scipy.optimize import minimize  # half a second that forecasting does without

    fit = minimize(loss, centre, method="L-BFGS-B", jac=True, bounds=bounds)
    return PlattCalibration(*fit.x.tolist())


def fit_time_calibration(
    forecast: Distribution,
    weights: ArrayLike,
    entry: ArrayLike | None = None,
    elapsed_hours: ArrayLike = REFERENCE_HOURS,
    row_weight: float = 1.0,
) -> TimeCalibration:
    """Both powers, and their change with the elapsed stay, by penalised maximum likelihood: ends then fall below each
    quantile as often as it says.

    weights, entry: what is known of the end, as in `frames.Labels`, [rows, bins, 2]: the likelihood of a row is
        (weights . masses) / (entry . masses), which respects intervals, open stays and delayed entry. Rows without any
        weight say nothing and are left out.
    elapsed_hours: length of the stay at each forecast, [rows] or one number.
    row_weight: what each row counts against the prior; rows of one day of a patient are near-copies.

    The penalty is a normal prior on the logarithm of both powers, N(0, POWER_SD²), and on its changes,
    N(0, POWER_CHANGE_SD²).
    """
    shape, weights = forecast.masses.shape, np.asarray(weights)
    entry = np.ones(shape, np.float32) if entry is None else np.asarray(entry)
    if weights.shape != shape or entry.shape != shape:
        raise ContractError(f"Masses, weights and entry have one shape; found {shape}, {weights.shape}, {entry.shape}.")
    informative = (weights.max(axis=(1, 2), initial=0.0) > 0) & (entry.max(axis=(1, 2), initial=0.0) > 0)
    rows = np.flatnonzero(informative)
    rows, row_weight = thinned(rows, MAX_TIME_ROWS, row_weight)
    forecast, weights, entry = forecast.take(rows), weights[rows], entry[rows]
    elapsed = np.broadcast_to(np.asarray(elapsed_hours, dtype=np.float64), shape[0])[rows]
    times = forecast.times_by_cause()
    precision = np.repeat([POWER_SD, POWER_CHANGE_SD], 2) ** -2.0

    def loss(parameters: np.ndarray) -> float:
        calibration = TimeCalibration(*np.exp(parameters[:2]), *parameters[2:])
        calibrated = forecast.with_times(calibration.calibrate(times, elapsed)).masses
        # A row that the forecast held impossible stays so under any power; the floor keeps it from hiding the others.
        likelihood, condition = (np.einsum("rbc,rbc->r", w, calibrated) for w in (weights, entry))
        penalty = precision @ parameters**2 / 2
        return penalty - row_weight * np.log(np.maximum(likelihood, 1e-12) / np.maximum(condition, 1e-12)).sum()

    bounds = [*[tuple(np.log(POWER_BOUNDS))] * 2, (None, None), (None, None)]
    from scipy.optimize import minimize  # half a second that forecasting does without

    fit = minimize(loss, np.zeros(4), method="L-BFGS-B", bounds=bounds)
    return TimeCalibration(*np.exp(fit.x[:2]).tolist(), *fit.x[2:].tolist())
