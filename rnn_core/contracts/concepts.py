"""Every clinical variable, declared once: feature order, plausible ranges, scaling bounds and data dictionary follow from it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Category(StrEnum):
    VITAL = "vital sign"
    NEURO = "neurology"
    RESPIRATORY = "respiratory support"
    OUTPUT = "output and body size"
    BLOOD_GAS = "blood gas"
    CHEMISTRY = "chemistry"
    HAEMATOLOGY = "haematology"
    LIVER = "liver"
    CARDIAC = "cardiac marker"
    INFLAMMATION = "inflammation"
    VASOACTIVE = "vasoactive drug"


@dataclass(frozen=True)
class Concept:
    """One clinical variable with one unit.

    low, high: plausible bounds in `unit`, inclusive; a value outside is quarantined, never clipped into the model.
    log_scale: the model sees log1p of the value (long right tail).
    carry_hours: how long a value is carried forward; None carries it to the end of the stay.
    """

    name: str
    unit: str
    low: float
    high: float
    category: Category
    loinc: str | None
    log_scale: bool = False
    carry_hours: float | None = None

    @property
    def definition(self) -> str:
        """All that a model relies on, in one line: name, unit, range, transform and how long a value is carried."""
        return f"{self.name}|{self.unit}|{self.low}|{self.high}|{self.log_scale}|{self.carry_hours}"


def _c(name, unit, low, high, category, loinc, **options) -> Concept:
    return Concept(name, unit, float(low), float(high), category, loinc, **options)


# Plausible ranges are wide: they exclude impossible values (a pH of 735), not unusual patients. They follow the outlier
# bounds published by MIT-LCP/mimic-code and the CLIF consortium, widened to the extremes seen in survivors.
CONCEPTS: tuple[Concept, ...] = (
    _c("heart_rate", "/min", 10, 300, Category.VITAL, "8867-4"),
    _c("respiratory_rate", "/min", 1, 80, Category.VITAL, "9279-1"),
    _c("spo2", "%", 30, 100, Category.VITAL, "59408-5"),
    _c("temperature", "degC", 25, 45, Category.VITAL, "8310-5"),
    _c("sbp_invasive", "mmHg", 20, 300, Category.VITAL, "76215-3"),
    _c("dbp_invasive", "mmHg", 5, 220, Category.VITAL, "76213-8"),
    _c("map_invasive", "mmHg", 10, 250, Category.VITAL, "76214-6"),
    _c("sbp_noninvasive", "mmHg", 20, 300, Category.VITAL, "76534-7"),
    _c("dbp_noninvasive", "mmHg", 5, 220, Category.VITAL, "76535-4"),
    _c("map_noninvasive", "mmHg", 10, 250, Category.VITAL, "76536-2"),
    _c("gcs_total", "score", 3, 15, Category.NEURO, "9269-2"),
    _c("gcs_eye", "score", 1, 4, Category.NEURO, "9267-6"),
    _c("gcs_motor", "score", 1, 6, Category.NEURO, "9268-4"),
    _c("gcs_verbal", "score", 0, 5, Category.NEURO, "9270-0"),
    _c("rass", "score", -5, 4, Category.NEURO, "54632-5"),
    _c("braden_total", "score", 6, 23, Category.NEURO, "38227-5"),
    _c("mechanical_ventilation", "0/1", 0, 1, Category.RESPIRATORY, None, carry_hours=12),
    _c("fio2", "fraction", 0.15, 1, Category.RESPIRATORY, "3150-6", carry_hours=24),
    _c("oxygen_flow", "L/min", 0, 100, Category.RESPIRATORY, "3151-8", log_scale=True, carry_hours=24),
    _c("peep", "cmH2O", 0, 50, Category.RESPIRATORY, "20077-4", carry_hours=24),
    _c("tidal_volume", "mL", 0, 2000, Category.RESPIRATORY, "76222-9", carry_hours=24),
    _c("minute_ventilation", "L/min", 0, 50, Category.RESPIRATORY, "76008-2", carry_hours=24),
    _c("peak_inspiratory_pressure", "cmH2O", 0, 100, Category.RESPIRATORY, "76531-3", carry_hours=24),
    _c("plateau_pressure", "cmH2O", 0, 100, Category.RESPIRATORY, "76259-1", carry_hours=24),
    _c("urine", "mL", 0, 5000, Category.OUTPUT, "9187-6", log_scale=True, carry_hours=12),
    _c("weight", "kg", 15, 400, Category.OUTPUT, "29463-7"),
    _c("height", "cm", 100, 230, Category.OUTPUT, "8302-2"),
    _c("ph_arterial", "pH", 6.3, 8.0, Category.BLOOD_GAS, "2744-1"),
    _c("pco2_arterial", "mmHg", 5, 250, Category.BLOOD_GAS, "2019-8"),
    _c("po2_arterial", "mmHg", 10, 800, Category.BLOOD_GAS, "2703-7", log_scale=True),
    _c("so2_arterial", "%", 10, 100, Category.BLOOD_GAS, "2708-6"),
    _c("ph_venous", "pH", 6.3, 8.0, Category.BLOOD_GAS, "2746-6"),
    _c("pco2_venous", "mmHg", 5, 250, Category.BLOOD_GAS, "2021-4"),
    _c("so2_mixed_venous", "%", 10, 100, Category.BLOOD_GAS, "19224-5"),
    _c("lactate", "mmol/L", 0.05, 40, Category.BLOOD_GAS, "2524-7", log_scale=True),
    _c("sodium", "mmol/L", 80, 200, Category.CHEMISTRY, "2951-2"),
    _c("potassium", "mmol/L", 1, 15, Category.CHEMISTRY, "2823-3"),
    _c("chloride", "mmol/L", 50, 175, Category.CHEMISTRY, "2075-0"),
    _c("bicarbonate", "mmol/L", 1, 65, Category.CHEMISTRY, "1963-8"),
    _c("bun", "mg/dL", 0, 300, Category.CHEMISTRY, "3094-0", log_scale=True),
    _c("creatinine", "mg/dL", 0.05, 50, Category.CHEMISTRY, "2160-0", log_scale=True),
    _c("glucose", "mg/dL", 5, 2000, Category.CHEMISTRY, "2345-7", log_scale=True),
    _c("calcium_total", "mg/dL", 2, 25, Category.CHEMISTRY, "17861-6"),
    _c("calcium_ionized", "mmol/L", 0.2, 5, Category.CHEMISTRY, "1995-0"),
    _c("magnesium", "mg/dL", 0.2, 20, Category.CHEMISTRY, "19123-9"),
    _c("phosphate", "mg/dL", 0.1, 30, Category.CHEMISTRY, "2777-1"),
    _c("cholesterol", "mg/dL", 10, 1000, Category.CHEMISTRY, "2093-3"),
    _c("hematocrit", "%", 5, 75, Category.HAEMATOLOGY, "4544-3"),
    _c("hemoglobin", "g/dL", 1, 25, Category.HAEMATOLOGY, "718-7"),
    _c("wbc", "10^9/L", 0, 500, Category.HAEMATOLOGY, "6690-2", log_scale=True),
    _c("neutrophils_percent", "%", 0, 100, Category.HAEMATOLOGY, "770-8"),
    _c("lymphocytes_percent", "%", 0, 100, Category.HAEMATOLOGY, "736-9"),
    _c("platelets", "10^9/L", 1, 2500, Category.HAEMATOLOGY, "777-3", log_scale=True),
    _c("inr", "ratio", 0.3, 30, Category.HAEMATOLOGY, "6301-6", log_scale=True),
    _c("pt", "s", 5, 200, Category.HAEMATOLOGY, "5902-2", log_scale=True),
    _c("ptt", "s", 10, 250, Category.HAEMATOLOGY, "3173-2", log_scale=True),
    _c("albumin", "g/dL", 0.3, 8, Category.LIVER, "1751-7"),
    _c("alt", "U/L", 0, 30000, Category.LIVER, "1742-6", log_scale=True),
    _c("ast", "U/L", 0, 40000, Category.LIVER, "1920-8", log_scale=True),
    _c("alkaline_phosphatase", "U/L", 1, 5000, Category.LIVER, "6768-6", log_scale=True),
    _c("bilirubin_total", "mg/dL", 0.05, 100, Category.LIVER, "1975-2", log_scale=True),
    _c("bilirubin_conjugated", "mg/dL", 0, 100, Category.LIVER, "1968-7", log_scale=True),
    _c("ldh", "U/L", 10, 50000, Category.LIVER, "2532-0", log_scale=True),
    _c("troponin_i", "ng/mL", 0, 1000, Category.CARDIAC, "10839-9", log_scale=True),
    _c("troponin_t", "ng/mL", 0, 100, Category.CARDIAC, "6598-7", log_scale=True),
    _c("crp", "mg/L", 0, 1000, Category.INFLAMMATION, "1988-5", log_scale=True),
    _c("ferritin", "ng/mL", 0, 150000, Category.INFLAMMATION, "2276-4", log_scale=True),
    # An infusion runs until its next charted rate (0 at the stop), so the rate is carried without limit.
    _c("norepinephrine", "ug/kg/min", 0, 10, Category.VASOACTIVE, None, log_scale=True),
    _c("epinephrine", "ug/kg/min", 0, 10, Category.VASOACTIVE, None, log_scale=True),
    _c("phenylephrine", "ug/kg/min", 0, 50, Category.VASOACTIVE, None, log_scale=True),
    _c("vasopressin", "units/h", 0, 20, Category.VASOACTIVE, None, log_scale=True),
    _c("dopamine", "ug/kg/min", 0, 100, Category.VASOACTIVE, None, log_scale=True),
    _c("dobutamine", "ug/kg/min", 0, 100, Category.VASOACTIVE, None, log_scale=True),
    _c("milrinone", "ug/kg/min", 0, 5, Category.VASOACTIVE, None, log_scale=True),
)

NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS)
BY_NAME: dict[str, Concept] = {concept.name: concept for concept in CONCEPTS}
INDEX: dict[str, int] = {name: position for position, name in enumerate(NAMES)}

# Plausible ranges of a stay's own numbers; values outside count as missing.
STATIC_RANGES: dict[str, tuple[float, float]] = {
    "age_years": (0.0, 120.0),
    "height_cm": (BY_NAME["height"].low, BY_NAME["height"].high),
    "weight_kg": (BY_NAME["weight"].low, BY_NAME["weight"].high),
}


def bounds() -> tuple[np.ndarray, np.ndarray]:
    """Plausible low and high of every concept in feature order, two float64 arrays of shape [concepts]."""
    return np.array([c.low for c in CONCEPTS]), np.array([c.high for c in CONCEPTS])


def concept_hash(names: Sequence[str] = NAMES) -> str:
    """Fingerprint of concepts in their order, by `Concept.definition`."""
    text = "\n".join(BY_NAME[name].definition for name in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
