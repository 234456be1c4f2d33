"""What a source holds that looks like a concept by its name and is not taken: a misspelt label, another unit, another table."""

import re
from collections.abc import Iterator
from typing import Any

from flows.inspection.source_profile import Profile
from rnn_core.contracts.concepts import BY_NAME

# Fewer rows are a test or a mistake. A share of the stays that have the concept.
FEW_ROWS = 20
MISSED_SHARE = 0.5
_NAMES_SHOWN = 3
LOOKS_LIKE = "and what looks like it is not"

_INVASIVE, _CUFF = r"(?:art\w*|abp|(?<!non)(?<!non[- ])invasive).*", r"(?:nbp|nibp|cuff|non[- ]?invasive).*"
# Words by which people call a concept; a name matches if they are words of it too.
_WORDS = {
    "heart_rate": r"heart ?rate|(?<!/)hr|pulse(?! ?ox)",
    "respiratory_rate": r"resp\w* rate|rr",
    "spo2": r"spo2|sao2|o2 sat\w*|oxygen sat\w*|pulse ?ox\w*",
    "temperature": r"temp\w*",
    "sbp_invasive": rf"{_INVASIVE}sys\w*",
    "dbp_invasive": rf"{_INVASIVE}dia\w*",
    "map_invasive": rf"{_INVASIVE}(?:mean|map)",
    "sbp_noninvasive": rf"{_CUFF}sys\w*",
    "dbp_noninvasive": rf"{_CUFF}dia\w*",
    "map_noninvasive": rf"{_CUFF}(?:mean|map)",
    "gcs_total": r"gcs(?: total)?|glasgow\w*",
    "gcs_eye": r"gcs.*eyes?|eye opening",
    "gcs_motor": r"gcs.*motor|motor response",
    "gcs_verbal": r"gcs.*verbal|verbal response",
    "rass": r"rass|richmond\w*",
    "braden_total": r"braden\w*",
    "mechanical_ventilation": r"ventilat(?:or|ion mode)|vent (?:rate|mode|on/off)|mech\w* vent\w*|intubat\w*|imv",
    "fio2": r"fio2|inspired (?:o2|oxygen)|o2 fraction",
    "oxygen_flow": r"lpm o2|(?:o2|oxygen) flow",
    "peep": r"peep",
    "tidal_volume": r"tidal vol\w*|exhaled (?:tv|vt)",
    "minute_ventilation": r"minute vent\w*|minute vol\w*|exhaled mv",
    "peak_inspiratory_pressure": r"peak insp\w*|peak press\w*|pip",
    "plateau_pressure": r"plateau",
    "urine": r"urin\w*|foley|void\w*",
    "weight": r"weight|wt",
    "height": r"height(?! of bed)|ht",
    "ph_arterial": r"ph",
    "pco2_arterial": r"pa?co2",
    "po2_arterial": r"pa?o2",
    "lactate": r"lactate|lactic acid",
    "sodium": r"sodium(?! (?:chloride|bicarb))",
    "potassium": r"potassium(?! (?:chloride|phos))",
    "chloride": r"(?<!sodium )(?<!potassium )chloride",
    "bicarbonate": r"bicarb\w*|hco3|total co2",
    "bun": r"bun|urea(?: nitrogen)?",
    "creatinine": r"creat\w*",
    "glucose": r"glucose|finger ?stick\w*|blood sugar",
    "calcium_total": r"calcium",
    "calcium_ionized": r"ioni[sz]ed calcium|calcium, ioni[sz]ed|free calcium",
    "magnesium": r"magnesium",
    "phosphate": r"phosph(?:ate|orus)",
    "cholesterol": r"cholesterol(?!.*(?:hdl|ldl|ratio))",
    "hematocrit": r"ha?ematocrit|hct",
    "hemoglobin": r"ha?emoglobin|hgb|hb",
    "wbc": r"wbc|leu[ck]ocytes|white blood cells?",
    "platelets": r"platelets?|plt",
    "inr": r"inr",
    "pt": r"prothrombin time|protime",
    "ptt": r"a?ptt|partial thromboplastin\w*",
    "albumin": r"albumin",
    "alt": r"sgpt|alanine\w*",
    "ast": r"sgot|aspart?ate\w*",
    "alkaline_phosphatase": r"alkaline phos\w*",
    "bilirubin_total": r"total bili\w*|bilirubin(?:, total)?",
    "ldh": r"ldh|lactate dehydrogenase",
    "troponin_i": r"troponin.*i",
    "troponin_t": r"troponin.*t",
    "crp": r"crp|c-? ?reactive\w*",
    "ferritin": r"ferritin",
    "norepinephrine": r"norepi\w*|levophed|noradrenalin\w*",
    "epinephrine": r"epi|epinep\w*|adrenalin\w*",
    "phenylephrine": r"phenyleph\w*|neo-?synephrine",
    "vasopressin": r"vasopressin|pitressin",
    "dopamine": r"dopamine",
    "dobutamine": r"dobutamine",
    "milrinone": r"milrinone|primacor",
}
_PATTERNS = {name: re.compile(rf"(?<![a-z])(?:{words})(?![a-z])") for name, words in _WORDS.items()}
# Limits of alarms and other settings of a device, and what was not measured in the blood.
_OTHER = re.compile(
    r"alarm|limit|goal|ideal|ibw|humidif|circuit|backup|urin|csf|cerebrospinal|pleural|ascit|fluid|stool|joint|gastric"
    r"|dialys|crrt|donor|apnea"
)
_OUTPUT = re.compile(
    r"alarm|goal|^lab|irrigant|incontinen|count|color|clarity|source|appear|cathet\w* (?:care|size|type)"
)
_INTENSIVE = re.compile(r"(?<![a-z])(?:\w*icu|ccu|itu|icr|intensive|critical care|coronary care)(?![a-z])")


def looks_like(name: str) -> list[str]:
    """The concepts that a name of a source looks like.

    >>> looks_like("infusiondrug.Levophed (ml/hr)")
    ['norepinephrine']
    """
    name = name.lower()
    return [
        concept
        for concept, pattern in _PATTERNS.items()
        if pattern.search(name) and not (_OUTPUT if concept == "urine" else _OTHER).search(name)
    ]


def missed(found: Profile, not_taken: list[dict[str, Any]]) -> Iterator[str]:
    """A sentence per concept that many more stays may have than those it is taken of, and for stays that are not read.

    not_taken: rows as `read_not_taken` returns them. The stays of several names are not told apart: the most of one counts.
    """
    candidates: dict[str, list[tuple[int, int, str]]] = {}
    for row in not_taken:
        if row["kind"] == "stay":
            if _INTENSIVE.search(row["name"].lower()):
                yield f"{row['rows']:,} rows of stays named {row['name']!r} look like intensive care and are not read"
            continue
        for concept in looks_like(row["name"]) if row["kind"] == "row" and row["rows"] >= FEW_ROWS else ():
            candidates.setdefault(concept, []).append((row["stays"], row["rows"], row["name"]))
    for variable, (concept, seen) in found.unused_units.items():
        if seen.rows >= FEW_ROWS:
            candidates.setdefault(concept, []).append((int(seen.stays.sum()), seen.rows, f"{variable} in other units"))
    for concept in (name for name in BY_NAME if name in candidates):
        own = found.concepts.get(concept)
        taken = int(own.stays.sum()) if own else 0
        names = sorted(candidates[concept], reverse=True)
        # Stays that could have the concept and do not.
        gain = min(names[0][0], found.n_stays - taken)
        if gain and gain >= MISSED_SHARE * taken:
            shown = "; ".join(
                f"{rows:,} rows of {stays:,} stays: {name!r}" for stays, rows, name in names[:_NAMES_SHOWN]
            )
            yield f"{concept} is taken of {taken:,} stays, {LOOKS_LIKE} ({shown})"
