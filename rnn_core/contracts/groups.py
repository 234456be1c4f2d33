"""Patient groups in which a model is evaluated separately: by age, sex and type of unit."""

import numpy as np
import pandas as pd

AGE_EDGES = (0, 50, 65, 80, 200)
AGE_NAMES = ("under 50", "50 to 64", "65 to 79", "80 and over")


def age_groups(age_years: pd.Series) -> pd.Series:
    """The name of each age's group, null if the age is not known."""
    age = pd.to_numeric(age_years).astype(float)
    return pd.cut(age, AGE_EDGES, right=False, labels=AGE_NAMES).astype(object)


def patient_groups(stays: pd.DataFrame, least: int) -> dict[str, dict[str, np.ndarray]]:
    """Kind → group → bool [stays]; groups of fewer than `least` stays are left out as too small."""
    kinds = {"age": age_groups(stays["age_years"]), "sex": stays["sex"], "unit_type": stays["unit_type"]}
    groups = {
        kind: {str(name): column.eq(name).fillna(False).to_numpy(bool) for name in sorted(column.dropna().unique())}
        for kind, column in kinds.items()
    }
    return {kind: {name: rows for name, rows in found.items() if rows.sum() >= least} for kind, found in groups.items()}
