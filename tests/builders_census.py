"""Made-up hospitals whose truth is known: begins at a stated rate, lengths of a stated distribution, beds or none."""

from heapq import heappop, heappush

import numpy as np
import pandas as pd

from rnn_core.contracts.census import PARTS_AHEAD, PLAN_COLUMNS, KnownUnits
from rnn_core.contracts.config import ArrivalConfig
from rnn_core.forecasters.arrivals import MOST, ArrivalForecaster, ArrivalReport
from rnn_core.network.scoring import FittedNetwork
from rnn_core.statistics.bootstrap import Estimate

START = np.datetime64("2026-01-05T00:00", "us")
SINCE_EVER = np.datetime64("1000-01-01", "us")
HOUR_OF_DAY = 1 + 0.6 * np.sin(2 * np.pi * (np.arange(24) - 8) / 24)
WEEKDAY = np.array([1.12, 1.12, 1.12, 1.12, 1.12, 0.7, 0.7])


def at(hours: float) -> np.datetime64:
    return START + np.timedelta64(round(hours * 3_600_000_000), "us")


class World:
    """Begins and ends in hours after `START`, a Monday, unit by unit."""

    def __init__(self, rng: np.random.Generator, rates, days: int, *, los=80.0, burst=0.0, beds=None) -> None:
        """rates: begins per hour of each unit, one number or one per hour. burst: companions of each begin, on average, of
        all units or of each. beds: per unit, None for no limit; whoever finds none free goes elsewhere."""
        hour = np.arange(days * 24)
        shape = HOUR_OF_DAY[hour % 24] * WEEKDAY[hour // 24 % 7]
        parts = []
        for row, (rate, more) in enumerate(zip(rates, np.broadcast_to(burst, len(rates)), strict=True)):
            heads = rng.poisson(np.broadcast_to(rate, len(hour)) * shape / (1 + more))
            n = heads + (rng.poisson(more * heads) if more else 0)
            begin = np.sort(np.repeat(hour, n) + rng.random(n.sum()))
            end = begin + rng.lognormal(np.log(los) - 0.4, 0.9, len(begin))
            if beds is not None and beds[row] is not None:
                begin, end = _admitted(begin, end, beds[row])
            parts.append((np.full(len(begin), row), begin, end))
        self.unit, self.begin, self.end = map(np.concatenate, zip(*parts, strict=True))
        self.stay_id = np.array([f"s{i}" for i in range(len(self.unit))])
        self.n_units, self.beds = len(rates), beds

    def with_echo(self, rng: np.random.Generator, share: float, delay: float = 24.0) -> "World":
        """Itself, where each begin is followed with this probability by another of its unit a day later, and so on."""
        parts = [(self.unit, self.begin)]
        while len(parts[-1][0]):
            unit, begin = (
                values[followed] for followed in [rng.random(len(parts[-1][0])) < share] for values in parts[-1]
            )
            parts.append((unit, begin + delay + rng.normal(0, 1, len(begin))))
        self.unit, self.begin = map(np.concatenate, zip(*parts, strict=True))
        self.end = self.begin + rng.lognormal(np.log(80) - 0.4, 0.9, len(self.begin))
        self.stay_id = np.array([f"s{i}" for i in range(len(self.unit))])
        return self

    def plan(self, rng: np.random.Generator, share: float, *, lead=60.0, happens=0.8, done=True) -> pd.DataFrame:
        """Versions of plans: of `share` of the begins of working mornings, known some hours before, and of as many more
        that come to nothing that `happens` of all do. done: whether the source says when a plan was carried out."""
        morning = (self.begin // 1 % 24 >= 6) & (self.begin // 1 % 24 < 12) & (self.begin // 24 % 7 < 5)
        real = np.flatnonzero(morning & (rng.random(len(self.begin)) < share))
        vain = rng.choice(real, round(len(real) * (1 / happens - 1)))
        rows = []
        for number, (stay, comes) in enumerate([(s, True) for s in real] + [(s, False) for s in vain]):
            expected = self.begin[stay] + rng.normal(0, 0.7) + (0 if comes else rng.normal(0, 24))
            plan = f"p{number}", f"U{self.unit[stay]}", "admission", at(expected)
            rows.append((*plan, at(expected - rng.exponential(lead)), happens, "planned", None))
            if done and comes:
                rows.append((*plan, at(self.begin[stay] + 0.01), happens, "done", None))
            elif done and rng.random() < 0.5:
                rows.append((*plan, at(expected + 1), happens, "cancelled", None))
        return pd.DataFrame(rows, columns=list(PLAN_COLUMNS))

    def known(self, hours: float, ends_at: str = "unit", keep=None) -> KnownUnits:
        """What is known after so many hours; keep: bool [stays], only of these."""
        begun = (self.begin <= hours) & (True if keep is None else keep)
        begin, end = (START + (x[begun] * 3_600_000_000).astype("timedelta64[us]") for x in (self.begin, self.end))
        is_open = self.end[begun] > hours
        end[is_open] = np.datetime64("NaT")
        stays = pd.DataFrame(
            {
                "stay_id": self.stay_id[begun],
                "unit": [f"U{u}" for u in self.unit[begun]],
                "intime": begin,
                "outtime": end,
                "outcome": np.where(is_open, None, "alive"),
                "ends_at": ends_at,
                "sound": True,
            }
        )
        beds = pd.DataFrame(
            {
                "unit": [f"U{u}" for u in range(self.n_units)],
                "available_at": np.full(self.n_units, SINCE_EVER),
                "beds": np.nan if self.beds is None else np.array(self.beds, float),
                "staffed_beds": np.nan,
            }
        )
        return KnownUnits(stays, beds, at(hours), at(hours))

    def census(self, hours: float) -> np.ndarray:
        """How many are in each unit, int64 [units]."""
        return np.bincount(self.unit[(self.begin <= hours) & (self.end > hours)], minlength=self.n_units)


def constant_arrival_forecaster(factor: float) -> ArrivalForecaster:
    """It multiplies every rate by this."""
    shapes = {"recurrent_0/kernel": (6, 8), "recurrent_0/recurrent_kernel": (2, 8), "recurrent_0/bias": (8,)}
    weights = {name: np.zeros(shape, np.float32) for name, shape in (shapes | {"head/kernel": (2, 1)}).items()}
    weights["head/bias"] = np.array([np.arctanh(np.log(factor) / np.log(MOST)) * np.log(MOST)], np.float32)
    report = ArrivalReport(Estimate(0.3, 0.1, 0.5, 100), weeks=10, epochs=3, reach=PARTS_AHEAD)
    return ArrivalForecaster(FittedNetwork(("lstm",), 0, (), weights), ArrivalConfig(units=2), report)


def _admitted(begin: np.ndarray, end: np.ndarray, beds: int) -> tuple[np.ndarray, np.ndarray]:
    taken, kept = [], []
    for i, came in enumerate(begin):
        while taken and taken[0] <= came:
            heappop(taken)
        if len(taken) < beds:
            heappush(taken, end[i])
            kept.append(i)
    return begin[kept], end[kept]
