"""Census forecasts judged beside each other: CRPS, errors, coverage and the probability of a full unit, by horizon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from rnn_core.census.simple_answers import Answer
from rnn_core.evaluation.census_figures import BLOCK_DAYS, FIGURES, census_figures
from rnn_core.statistics.bootstrap import Estimate, RatioOfSums, Statistic, bootstrap_interval, mean
from rnn_core.statistics.calibration_metrics import skill

_RATIO = Statistic(RatioOfSums)


@dataclass(frozen=True)
class Setting:
    """What is judged: units (the last one the hospital) at slots and horizons.

    observed: int64 [units, slots, horizons]. beds: int64 [units]. full_before: float64 [units], share of the hours before
    the first slot in which the unit was full: the probability that one would say without a forecast.
    slots: int64 [slots], hours since the beginning. periods: name → bool [slots].
    """

    units: tuple[str, ...]
    observed: np.ndarray
    beds: np.ndarray
    full_before: np.ndarray
    slots: np.ndarray
    horizons: tuple[int, ...]
    periods: dict[str, np.ndarray]

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Each unit, the units together, and the hospital: rows of the units."""
        alone = {name: np.array([row]) for row, name in enumerate(self.units)}
        return {"units": np.arange(len(self.units) - 1)} | alone

    @property
    def is_full(self) -> np.ndarray:
        return self.observed >= self.beds[:, None, None]


@dataclass(frozen=True)
class CensusJudgement:
    """scores: one row per contender, group, period and horizon, with an `Estimate` for each of `FIGURES`, and
    `skill_full`. ratios: CRPS of a contender over that of another, on the same resamples, likewise. pits, full: contender →
    float64 [units, slots, horizons], randomised PIT and probability of a full unit. protocol: how it was judged."""

    setting: Setting
    scores: pd.DataFrame
    ratios: pd.DataFrame
    pits: dict[str, np.ndarray]
    full: dict[str, np.ndarray]
    protocol: dict[str, Any]

    @property
    def contenders(self) -> list[str]:
        return list(self.pits)

    def figure(self, contender: str, figure: str, horizon: int, group: str = "units", period: str = "all") -> Estimate:
        return self._scores.at[(contender, group, period, horizon), figure]

    def ratio(self, contender: str, other: str, horizon: int, group: str = "units", period: str = "all") -> Estimate:
        return self._ratios.at[(contender, other, group, period, horizon), "ratio"]

    @cached_property
    def _scores(self) -> pd.DataFrame:
        return self.scores.set_index(["contender", "group", "period", "horizon"])

    @cached_property
    def _ratios(self) -> pd.DataFrame:
        return self.ratios.set_index(["contender", "other", "group", "period", "horizon"])

    def to_json(self) -> dict[str, Any]:
        def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
            rows = frame.to_dict("records")
            return [{k: v.to_json() if isinstance(v, Estimate) else v for k, v in row.items()} for row in rows]

        return {"protocol": self.protocol, "scores": plain(self.scores), "crps_ratios": plain(self.ratios)}


def judge(
    answers: Mapping[str, Answer],
    setting: Setting,
    protocol: dict[str, Any],
    pairs: Sequence[tuple[str, str]],
    draws: Mapping[str, int],
    n: int = 500,
) -> CensusJudgement:
    """Judge the answers on the same rows.

    pairs: contenders whose CRPS is set in relation. draws: of contenders whose distribution is a sample, its size; their CRPS
    is corrected to that of the distribution they were drawn from (Ferro, Q. J. R. Meteorol. Soc. 140, 2014).
    """
    figures = {name: _figures(answer, setting, draws.get(name)) for name, answer in answers.items()}
    week = setting.slots // (24 * BLOCK_DAYS)
    scores, ratios = [], []
    for group, units in setting.groups.items():
        for period, chosen in setting.periods.items():
            for column, horizon in enumerate(setting.horizons):
                where = np.ix_(units, np.flatnonzero(chosen), [column])
                weeks = np.broadcast_to(week[None, :, None], setting.observed.shape)[where].ravel()
                columns = {name: {k: v[where].ravel() for k, v in of.items()} for name, of in figures.items()}
                place = {"group": group, "period": period, "horizon": horizon}
                for name, of in columns.items():
                    row = {k: bootstrap_interval(mean, [of[k]], weeks, n) for k in FIGURES}
                    row["skill_full"] = bootstrap_interval(skill, [of["brier_before"], of["brier_full"]], weeks, n)
                    scores.append({"contender": name} | place | row)
                for one, other in pairs:
                    ratio = bootstrap_interval(_RATIO, [columns[one]["crps"], columns[other]["crps"]], weeks, n)
                    ratios.append({"contender": one, "other": other} | place | {"ratio": ratio})
    pits, full = ({name: found[kept] for name, found in figures.items()} for kept in ("pit", "prob_full"))
    return CensusJudgement(setting, pd.DataFrame(scores), pd.DataFrame(ratios), pits, full, protocol)


def _figures(answer: Answer, setting: Setting, draws: int | None) -> dict[str, np.ndarray]:
    """Each figure of each forecast, float64 [units, slots, horizons]."""
    shape = setting.observed.shape
    beds, before = (np.repeat(of_unit, shape[1] * shape[2]) for of_unit in (setting.beds, setting.full_before))
    found = census_figures(answer.census, answer.point.ravel(), setting.observed.ravel(), beds, before, draws)
    return {name: values.reshape(shape) for name, values in found.items()}
