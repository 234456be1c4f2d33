"""The metrics that forecasts are judged by, each declared once: `METRICS` is the only place to add one."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from numpy.typing import ArrayLike

from rnn_core.contracts.thresholds import DISCHARGE_HOURS, SHARE_BEYOND_MARGINS
from rnn_core.statistics.bootstrap import Estimate, Statistic, bootstrap_interval, mean, paired_difference
from rnn_core.statistics.calibration_metrics import (
    brier,
    calibration_intercept,
    calibration_slope,
    observed_expected,
    skill,
)
from rnn_core.statistics.decision_metrics import event1, event2
from rnn_core.statistics.discrimination import auprc, auroc, concordance
from rnn_core.statistics.length_of_stay import (
    bucket_kappa,
    interval_coverage,
    interval_width_days,
    mean_absolute_error_days,
    mean_squared_log_error,
    median_absolute_error_days,
    quantile_score_days,
    share_beyond,
)


class Margin(NamedTuple):
    """By how much a new model may be worse and still be called not worse.

    overall: on all stays; noise between hold-outs of a few hundred stays is larger.
    group: in a group of patients, where a difference counts beyond this and with its interval wholly on the wrong side:
        of a dozen groups some are worse by chance.
    """

    overall: float
    group: float


@dataclass(frozen=True)
class Metric:
    """One figure of a set of forecasts: what it is computed from, which way is better, and how it is shown.

    name: under which it is stored. label: what people read.
    statistic: called with the columns `happened`, then `forecast`; see `Outcomes.columns` and `FORECAST_COLUMNS`.
    better: `higher`, `lower`, or the value that is best, such as 1 for a calibration slope.
    digits: decimals that are shown. chance: what a forecast without skill reaches.
    margin: of the gate, when it compares two models; it looks at metrics with a margin only.
    curve_margin: by how much a model may be worse than the population's curve and still serve; None: not compared.
    main: belongs to the few that are shown where there is no room for all.
    one_per_stay: means something for one forecast of each stay only, not for every hour of it.
    """

    name: str
    label: str
    statistic: Statistic
    happened: tuple[str, ...]
    forecast: tuple[str, ...]
    better: Literal["higher", "lower"] | float
    digits: int = 3
    chance: float | None = None
    margin: Margin | None = None
    curve_margin: float | None = None
    main: bool = False
    one_per_stay: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns that it is computed from."""
        return self.happened + self.forecast

    @property
    def target(self) -> float | None:
        """The best value, None where only more or only less is better."""
        return None if isinstance(self.better, str) else self.better

    @property
    def reference(self) -> float | None:
        """A value to compare with: the best one, else that of chance."""
        return self.chance if self.target is None else self.target

    def estimate(self, columns: Mapping[str, ArrayLike], groups: ArrayLike | None, n: int, seed: int = 0) -> Estimate:
        """Its value on `columns` [rows], with an interval from n resamples of `groups` [rows]."""
        return bootstrap_interval(self.statistic, [columns[name] for name in self.needs], groups, n, seed)

    def difference(
        self,
        happened: Mapping[str, ArrayLike],
        ours: Mapping[str, ArrayLike],
        theirs: Mapping[str, ArrayLike],
        groups: ArrayLike | None,
        n: int,
    ) -> Estimate:
        """Ours less theirs on the same resamples; with a best value, how much farther from it ours is than theirs."""
        statistic = self.statistic if self.target is None else self.statistic.distance_from(self.target)
        happened, *forecasts = (
            tuple(columns[name] for name in names)
            for columns, names in ((happened, self.happened), (ours, self.forecast), (theirs, self.forecast))
        )
        return paired_difference(statistic, happened, *forecasts, groups, n)

    def harm(self, difference: Estimate) -> Estimate:
        """A `difference`, turned so that above 0 is worse."""
        if self.better != "higher":
            return difference
        return Estimate(-difference.value, -difference.high, -difference.low, difference.n)

    def show(self, found: Estimate | float) -> str:
        """An estimate, or a value without an interval, for people."""
        estimate = found if isinstance(found, Estimate) else Estimate(found, math.nan, math.nan, 0)
        return estimate.show(self.digits)

    def show_difference(self, difference: Estimate) -> str:
        """Value and label of a `difference`, e.g. `AUROC of death +0.012`."""
        what = self.label if self.target is None else f"distance of the {self.label} from {self.target:g}"
        return f"{what} {difference.value:+.{self.digits}f}"


_DEATH, _RISK = ("death",), ("mortality_risk",)
_END, _MEDIAN = ("remaining_hours",), ("remaining_los_p50_hours",)
_INTERVAL = ("remaining_los_p10_hours", "remaining_los_p90_hours")

# Other risks than that of death: prefix, what they are of, column of what happened, column of the forecast.
_RISKS = (
    ("prolonged", "a stay over 7 days", "prolonged", "prolonged_stay_risk"),
    *(
        (f"discharge_{hours}h", f"a discharge within {hours} h", f"discharged_{hours}h", f"discharge_{hours}h_prob")
        for hours in DISCHARGE_HOURS
    ),
)

_CENSUS_LEVELS = (50, 80, 90)

_COMPARED_WITH_CURVE = ("discharge_24h_brier", "discharge_48h_brier")

_TABLE = (
    Metric(
        "mortality_auroc",
        "AUROC of death",
        auroc,
        _DEATH,
        _RISK,
        better="higher",
        chance=0.5,
        margin=Margin(0.01, 0.03),
        main=True,
    ),
    Metric("mortality_auprc", "AUPRC of death", auprc, _DEATH, _RISK, "higher", margin=Margin(0.02, 0.05), main=True),
    Metric("mortality_brier", "Brier score of death", brier, _DEATH, _RISK, "lower", curve_margin=0.0, main=True),
    Metric(
        "mortality_observed_expected",
        "observed to expected deaths",
        observed_expected,
        _DEATH,
        _RISK,
        better=1.0,
        digits=2,
        main=True,
    ),
    Metric(
        "mortality_calibration_slope",
        "calibration slope",
        calibration_slope,
        _DEATH,
        _RISK,
        better=1.0,
        digits=2,
        margin=Margin(0.1, 0.25),
        main=True,
    ),
    Metric("mortality_calibration_intercept", "calibration intercept", calibration_intercept, _DEATH, _RISK, 0.0, 2),
    Metric("mortality_event1", "Event 1", event1, _DEATH, (*_RISK, "threshold"), "higher", one_per_stay=True),
    Metric("mortality_event2", "Event 2", event2, _DEATH, _RISK, "lower", digits=1, one_per_stay=True),
    *(
        Metric(
            f"{prefix}_{name}",
            f"{label} of {what}",
            statistic,
            (happened,),
            (forecast,),
            better,
            chance=chance,
            curve_margin=0.0 if f"{prefix}_{name}" in _COMPARED_WITH_CURVE else None,
        )
        for name, label, statistic, better, chance in (
            ("auroc", "AUROC", auroc, "higher", 0.5),
            ("brier", "Brier score", brier, "lower", None),
        )
        for prefix, what, happened, forecast in _RISKS
    ),
    Metric(
        "los_mae_days",
        "mean absolute error of the remaining stay in days",
        mean_absolute_error_days,
        _END,
        _MEDIAN,
        better="lower",
        digits=2,
        margin=Margin(0.1, 0.25),
        main=True,
    ),
    Metric(
        "los_medae_days",
        "median absolute error of the remaining stay in days",
        median_absolute_error_days,
        _END,
        _MEDIAN,
        better="lower",
        digits=2,
    ),
    Metric(
        "los_crps_days",
        "CRPS of the remaining stay in days",
        mean,
        (),
        ("crps_days",),
        better="lower",
        digits=2,
        curve_margin=0.0,
        main=True,
    ),
    Metric(
        "los_quantile_score_days",
        "quantile score of the remaining stay in days",
        quantile_score_days,
        ("stayed_hours", "known_hours"),
        tuple(f"remaining_los_p{q}_hours" for q in (10, 50, 90)),
        better="lower",
        digits=2,
    ),
    Metric(
        "los_msle",
        "squared log error of the length of stay",
        mean_squared_log_error,
        ("los_days",),
        ("forecast_los_days",),
        better="lower",
        one_per_stay=True,
    ),
    Metric(
        "los_kappa",
        "kappa of the length of stay in ten buckets",
        bucket_kappa,
        ("los_bucket",),
        ("forecast_los_bucket",),
        better="higher",
        chance=0.0,
        one_per_stay=True,
    ),
    Metric(
        "los_concordance",
        "concordance of the remaining stay",
        concordance,
        ("stayed_hours", "ended"),
        _MEDIAN,
        better="higher",
        chance=0.5,
        main=True,
    ),
    Metric(
        "los_interval_coverage",
        "80 % interval covers",
        interval_coverage,
        (*_END, "precision_hours"),
        _INTERVAL,
        better=0.8,
        main=True,
    ),
    *(
        Metric(
            f"los_beyond_p{q}",
            f"stays beyond the {q}th percentile",
            share_beyond,
            ("stayed_hours", "precision_hours", "known_hours"),
            (f"remaining_los_p{q}_hours",),
            better=(100 - q) / 100,
            curve_margin=SHARE_BEYOND_MARGINS.get(q),
            main=q != 10,
        )
        for q in (10, 50, 90)
    ),
    Metric(
        "los_interval_width_days",
        "width of the 80 % interval in days",
        interval_width_days,
        (),
        _INTERVAL,
        better="lower",
        digits=2,
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}

# Of forecasts of a unit's census, each at one horizon; `census_metric_name` has the name under which it is stored.
_CENSUS = (
    Metric("crps", "CRPS in patients", mean, (), ("crps",), "lower", 2),
    Metric("mae", "mean absolute error of the median in patients", mean, (), ("mae",), "lower", 2),
    Metric("bias", "expected less actual patients", mean, (), ("bias",), 0.0, 2),
    *(Metric(f"coverage_{x}", f"{x} % range covers", mean, (), (f"coverage_{x}",), x / 100, 2) for x in _CENSUS_LEVELS),
    *(
        Metric(f"pit_coverage_{x}", f"{x} % range covers (PIT)", mean, (), (f"pit_coverage_{x}",), x / 100, 2)
        for x in _CENSUS_LEVELS
    ),
    Metric("brier_full", "Brier score of a full unit", mean, (), ("brier_full",), "lower"),
    Metric("skill_full", "skill of a full unit", skill, ("brier_before",), ("brier_full",), "higher", 2, chance=0.0),
)
CENSUS_METRICS: dict[str, Metric] = {metric.name: metric for metric in _CENSUS}


def census_metric_name(horizon_hours: int, name: str) -> str:
    """Name under which one of `CENSUS_METRICS` at a horizon is stored.

    >>> census_metric_name(24, "crps")
    'census_24h_crps'
    """
    return f"census_{horizon_hours}h_{name}"


def main_metrics() -> list[Metric]:
    """The few that are shown where there is no room for all."""
    return [metric for metric in METRICS.values() if metric.main]


def gate_metrics() -> list[Metric]:
    """Those that decide whether a new model serves."""
    return [metric for metric in METRICS.values() if metric.margin is not None]


def curve_metrics() -> list[Metric]:
    """Those in which a model must not be worse than the population's curve, or it does not serve."""
    return [metric for metric in METRICS.values() if metric.curve_margin is not None]


def score(
    columns: Mapping[str, ArrayLike],
    metrics: Iterable[Metric],
    groups: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Name → estimate of those `metrics` whose columns are there; `columns` and `groups` are [rows] each."""
    return {
        metric.name: metric.estimate(columns, groups, n, seed)
        for metric in metrics
        if columns.keys() >= set(metric.needs)
    }
