"""Our SQL from files, with shared parts included and thresholds filled in."""

import re
from pathlib import Path

from rnn_core.contracts import thresholds
from rnn_core.contracts.concepts import STATIC_RANGES

ROOT = Path(__file__).resolve().parents[1]
_INCLUDE = re.compile(r"^ *-- include (\S+)\n", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HIGH = thresholds.RISK_BANDS.index("high")

# Values of `{name}` in our SQL, in hours or the units of the concepts.
VALUES: dict[str, str] = {
    "prolonged_hours": f"{thresholds.PROLONGED_HOURS:g}",
    "charting_delay_hours": f"{thresholds.CHARTING_DELAY_HOURS:g}",
    "early_value_days": f"{thresholds.EARLY_VALUE_DAYS:g}",
    "early_admission_hours": f"{thresholds.EARLY_ADMISSION_HOURS:g}",
    "morning_hour": f"{thresholds.MORNING_HOUR:g}",
    "risk_change": f"{thresholds.RISK_CHANGE:g}",
    "ranked_risk_bands": ", ".join(f"('{band}', {rank})" for rank, band in enumerate(thresholds.RISK_BANDS, start=1)),
    "high_risk_bands": ", ".join(f"'{band}'" for band in thresholds.RISK_BANDS[_HIGH:]),
    **{f"{name}_low": f"{low:g}" for name, (low, _) in STATIC_RANGES.items()},
    **{f"{name}_high": f"{high:g}" for name, (_, high) in STATIC_RANGES.items()},
}


def read_statement(path: str) -> str:
    """The text of `sql/<path>`, filled in.

    A line `-- include parts/<name>.sql` is replaced by that file of `sql/views/`, so that two statements share what must
    not differ; `{prolonged_hours}` is replaced by the threshold of that name in VALUES. Other braces are kept.
    """
    text = _INCLUDE.sub(lambda line: (ROOT / "views" / line[1]).read_text(), (ROOT / path).read_text())
    return _PLACEHOLDER.sub(lambda found: VALUES.get(found[1], found[0]), text)
