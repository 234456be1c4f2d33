"""What a census forecast takes and gives: horizons, columns, and what is known of units at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from rnn_core.contracts.thresholds import MORNING_HOUR

# Hours ahead for which the number of patients in a unit is forecast.
CENSUS_HORIZONS: tuple[int, ...] = (4, 8, 12, 24, 36, 48, 72, 96, 120, 168)
CENSUS_QUANTILES: tuple[int, ...] = (5, 10, 25, 50, 75, 90, 95)
# How far back begins and lengths of stay are read.
CENSUS_HISTORY_DAYS = 400
# A census in which each patient is forecast by the curve of the unit alone: what the patients' own forecasts are compared with.
CURVES = "curves"
# The whole hospital among the units.
HOSPITAL = "*"
# A recurrent model of arrivals counts begins in parts of so many hours: two weeks before a time, and the week after it.
ARRIVAL_PART_HOURS = 8
PARTS_BEFORE, PARTS_AHEAD = 42, 21

# Columns of a census frame, those of `forecast.unit_forecast` without what a publication adds.
CENSUS_COLUMNS: tuple[str, ...] = (
    "unit",
    "horizon_hours",
    "status",
    "status_reason",
    "n_present",
    "expected_census",
    *(f"census_p{q:02d}" for q in CENSUS_QUANTILES),
    "expected_arrivals",
    "expected_discharges",
    "expected_deaths",
    "beds",
    "staffed_beds",
    "prob_full",
    "prob_free_1",
    "prob_free_2",
    "prob_free_3",
    "census_probabilities",
    "curves_probabilities",
)


# Columns of plans, versions of `icu.planned`.
PLAN_COLUMNS: tuple[str, ...] = (
    "planned_id",
    "unit",
    "kind",
    "expected_at",
    "available_at",
    "probability",
    "status",
    "stay_id",
)


@dataclass(frozen=True)
class Calendar:
    """The clock of a hospital, and the days on which as many come as on a Sunday.

    holidays: dates on that clock, past ones too: without them a past holiday is an ordinary day on which few came.
    """

    timezone: str = "UTC"
    holidays: frozenset[date] = frozenset()

    def local(self, times: np.ndarray) -> pd.DatetimeIndex:
        """Times in UTC, datetime64 [times], on the hospital's clock."""
        return pd.DatetimeIndex(times.astype("datetime64[us]"), tz="UTC").tz_convert(self.timezone)

    def weekday(self, local: pd.DatetimeIndex) -> np.ndarray:
        """0 is Monday, 6 is Sunday or a holiday, int64 [times].

        >>> christmas = Calendar(holidays=frozenset({date(2026, 12, 25)}))
        >>> christmas.weekday(christmas.local(np.array(["2026-12-24T12", "2026-12-25T12"], "datetime64[us]"))).tolist()
        [3, 6]
        """
        days = local.tz_localize(None).normalize()
        is_holiday = days.isin(pd.DatetimeIndex(sorted(self.holidays), dtype=days.dtype))
        return np.where(is_holiday, 6, local.dayofweek)


def horizons_at(as_of: np.datetime64, timezone: str) -> tuple[int, ...]:
    """`CENSUS_HORIZONS` and the hours to tomorrow morning on the hospital's clock, rising; to the hour before, where the clock
    is off by half an hour.

    >>> horizons_at(np.datetime64("2026-05-10T14", "us"), "UTC")
    (4, 8, 12, 18, 24, 36, 48, 72, 96, 120, 168)
    """
    slot = pd.Timestamp(as_of).tz_localize("UTC")
    tomorrow = slot.tz_convert(timezone).normalize().tz_localize(None) + pd.Timedelta(days=1, hours=MORNING_HOUR)
    ahead = tomorrow.tz_localize(timezone, nonexistent="shift_forward", ambiguous=True) - slot
    return tuple(sorted({*CENSUS_HORIZONS, int(ahead // pd.Timedelta(hours=1))}))


def no_plans() -> pd.DataFrame:
    times = dict.fromkeys(("expected_at", "available_at"), "datetime64[us]")
    return pd.DataFrame(columns=list(PLAN_COLUMNS)).astype({"probability": "float64"} | times)


@dataclass(frozen=True)
class KnownUnits:
    """Who came to which unit, which beds there were and what was planned, as known at `as_of`, a whole hour; nothing later is
    in it.

    stays: a row per stay with stay_id, unit (None where not known), intime, outtime (NaT unless it ended), outcome, ends_at
        and sound. Open stays, and all that began within the history that is read.
    beds: a row per version with unit, available_at (ascending within a unit), beds and staffed_beds (NaN where not known).
    newest: when anything of the source last became available, NaT if nothing did.
    plans: a row per version of a plan with `PLAN_COLUMNS`; stay_id None where not known.

    Times are datetime64[us] in UTC.
    """

    stays: pd.DataFrame
    beds: pd.DataFrame
    as_of: np.datetime64
    newest: np.datetime64
    plans: pd.DataFrame = field(default_factory=no_plans)


@dataclass(frozen=True)
class PublishedCensus:
    """Published forecasts of units whose time has come, and the stays that say what came.

    forecasts: a row per forecast with model_id, unit, prediction_time (datetime64[us], UTC, a whole hour), horizon_hours,
        usable_beds (NaN where not known), census_probabilities (float64 array) and curves_probabilities (likewise; None where
        the forecast was published without).
    stays: a row per stay with unit (None where not known), intime, outtime (NaT unless it ended) and outcome.
    since: from when on all stays that were in are known, datetime64[us]; earlier ones may be purged or were not read.
    """

    forecasts: pd.DataFrame
    stays: pd.DataFrame
    since: np.datetime64


@dataclass(frozen=True)
class ArrivalWindows:
    """Begins of a unit in the two weeks before a time and in the week after it, in parts of 8 hours, and those that the rates
    which were known at that time let expect in them; a row per unit and time.

    came, expected: float64 [rows, parts]; came is NaN where it is not known yet. came_anywhere, expected_anywhere: the same of
    all units together. week: int64 [rows], number of the week of the time. Hours in which nobody could come count in neither.
    """

    came: np.ndarray
    expected: np.ndarray
    came_anywhere: np.ndarray
    expected_anywhere: np.ndarray
    week: np.ndarray

    def __len__(self) -> int:
        return len(self.week)


# From what came, a factor on the rates of each part ahead, float64 [rows, `PARTS_AHEAD`].
RateFactors = Callable[[ArrivalWindows], np.ndarray]
