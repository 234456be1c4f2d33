"""What is suspicious about the finished stays of a source: one outcome, or hardly any patients or begins."""

from dataclasses import dataclass
from typing import Self

import pandas as pd

# Fewer stays may share an outcome by chance.
LEAST = 20
# Fewer distinct values than this share of the stays are no ids of patients and no times of admission.
_DISTINCT_SHARE = 0.05


@dataclass(frozen=True)
class FinishedStays:
    """Counts over the stays whose end or outcome is known.

    outcomes: those with an outcome; died: of these. patients: distinct ids. begins: distinct minutes of `intime`.
    """

    stays: int
    outcomes: int
    died: int
    patients: int
    begins: int

    @classmethod
    def of(cls, stays: pd.DataFrame) -> Self:
        """Of the newest version of each stay; reads patient_id, intime, outtime and outcome."""
        finished = stays[stays["outtime"].notna() | stays["outcome"].notna()]
        return cls(
            len(finished),
            int(finished["outcome"].notna().sum()),
            int(finished["outcome"].eq("died").sum()),
            int(finished["patient_id"].nunique()),
            int(finished["intime"].dt.floor("min").nunique()),
        )

    def doubts(self) -> dict[str, str]:
        """Column of `stays.sql` → the sentence that says why it may not be mapped; empty without doubts.

        >>> FinishedStays(stays=116, outcomes=116, died=0, patients=100, begins=116).doubts()["outcome"][:36]
        'None of the 116 finished stays died:'
        """
        found = {}
        if self.outcomes >= LEAST and self.died in (0, self.outcomes):
            share = "None" if self.died == 0 else "All"
            found["outcome"] = (
                f"{share} of the {self.outcomes} finished stays died: `outcome` in stays.sql may not be mapped. No risk of "
                "death is forecast from such stays."
            )
        if self._are_few(self.patients):
            found["patient_id"] = (
                f"Only {self.patients} distinct patient_id among {self.stays} finished stays: check in stays.sql that it is "
                "the id of a person."
            )
        if self._are_few(self.begins):
            found["intime"] = (
                f"Only {self.begins} distinct intime (to the minute) among {self.stays} finished stays: check in stays.sql "
                "that it is when each stay began, with the time of day."
            )
        return found

    def _are_few(self, distinct: int) -> bool:
        return self.stays >= LEAST and distinct < max(2, _DISTINCT_SHARE * self.stays)
