"""Limits shared by computations, SQL and pages, each named once: durations in hours, shares and ratios as numbers."""

from typing import NamedTuple


class Range(NamedTuple):
    """What is acceptable, both ends included."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the value is acceptable; NaN never is."""
        return bool(self.low <= value <= self.high)


# ---- stays

# A stay of more than a week is prolonged.
PROLONGED_HOURS = 168.0
# Horizons of the published discharge probabilities.
DISCHARGE_HOURS: tuple[int, ...] = (24, 48, 72)
# Hours of a stay at which people ask; whether a stay reaches one is known when it does.
LANDMARK_HOURS: tuple[int, ...] = (6, 12, 24, 48, 96)
# A charted end this long after the death or the hospital discharge is a charting delay.
CHARTING_DELAY_HOURS = 36
# A stay may begin this long before the charted hospital admission.
EARLY_ADMISSION_HOURS = 24
# A value from longer before the stay is another stay's, or its clock was reset: sources read at most a day back.
EARLY_VALUE_DAYS = 30

# A risk that moved by more than this within a day is shown as a change.
RISK_CHANGE = 0.10
# Hour of the hospital's clock at which tomorrow's beds are asked for.
MORNING_HOUR = 8
# From this probability on, what may happen to a patient is called likely.
LIKELY = 0.5

# ---- how good a model has to be

# With fewer deaths among the evaluated stays, the interval of an AUROC is wider than any difference worth acting on.
MIN_DEATHS = 30
# With fewer ends among them, whether a length of stay beats the population's curve is a matter of chance.
MIN_ENDS = 100
# Below this a list sorted by risk is useless; the lower end of the interval must be well above chance.
MIN_AUROC, MIN_AUROC_LOW = 0.7, 0.6
# Beyond these limits, observed-to-expected deaths or the calibration slope mislead a reader.
OBSERVED_EXPECTED = Range(0.8, 1.25)
CALIBRATION_SLOPE = Range(0.75, 1.35)
# Quantile in percent → how far the share of stays that last longer may be from the right one, half and a tenth.
SHARE_BEYOND_MARGINS: dict[int, float] = {50: 0.04, 90: 0.03}
# With fewer hours published in time, readers would see outdated lists.
MIN_PUBLISHED = 0.95

# ---- risk bands

RISK_BANDS: tuple[str, ...] = ("low", "medium", "high", "very high")
# A band starts at its threshold. Mortality of general ICUs is 10-15 %: low is well below it, high begins at its upper
# end, very high at about three times of it. For display only: nothing is decided by a band.
RISK_THRESHOLDS: tuple[float, ...] = (0.05, 0.15, 0.40)
