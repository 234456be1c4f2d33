"""The model card says what is stored and names what is not."""

import pytest

from rnn_core.contracts.config import ClassicConfig, ModelConfig
from rnn_core.reporting.model_card import MISSING, write_card

META = {
    "forecaster": "stay",
    "config": ModelConfig().to_json(),
    "ends_at": "unit",
    "risk_thresholds": [0.1, 0.2, 0.5],
    "sampling": {"delayed_entry_hours": 48.0, "data_hours": None},
    "versions": {"keras": "3.1"},
    "git_revision": "abc123",
    "concept_hash": "fedc",
    "calibration": {"mortality": {"slope": 0.9}},
}
AUROC = {"value": 0.81234, "low": 0.75, "high": 0.86, "n": 1234}
ROW = {
    "model_id": "m1",
    "source": "ward",
    "stage": "champion",
    "stage_reason": "Good.",
    "version": 3,
    "artifact": "m1",
    "trained_at": "2026-01-01",
    "data_cutoff": "2025-12-01",
    "warm_from": None,
    "metrics": {
        "n_stays": {"learned": 900, "judged": 100},
        "n_deaths": {"learned": 90, "judged": 11},
        "best_epochs": [3, 4],
        "metrics": {"mortality_auroc": AUROC, "baseline_mortality_auroc": AUROC | {"value": 0.5, "low": None}},
        "participants": {
            "stays": 900,
            "patients": 850,
            "observations": 5,
            "first_admission": "2024-01-01",
            "last_admission": "2025-11-30",
            "age_years_quartiles": [50.0, 63.0, None],
            "sex": {"female": 400},
            "unit_type": {},
            "admission_type": {},
            "outcome": {"died": 90},
            "stays_without": {"lactate": 0.42},
        },
        "groups": {"sex": {"female": {"mortality_auroc": AUROC}}, "age": {}},
    },
}
ITEMS = (
    "Title",
    "Source of data",
    "Participants",
    "Data preparation",
    "Outcome",
    "Predictors",
    "Sample size",
    "Missing data",
    "Analytical methods",
    "Class imbalance",
    "Fairness",
    "Model output",
    "Training versus evaluation",
    "Performance",
    "Updating",
    "Intended use and limits",
    "Openness",
)


@pytest.mark.parametrize("item", ITEMS)
def test_every_item_has_a_section_that_says_something(item):
    section = write_card(META, ROW).split(f"\n## {item}\n")[1].split("\n## ")[0]
    assert len(section.strip()) > 20


def test_numbers_come_from_what_is_stored_with_their_intervals():
    card = write_card(META, ROW)
    assert "| AUROC of death | 0.812 (0.750 to 0.860) | 0.500 | 1,234 |" in card
    assert "learned 900 stays (90 deaths), judged 100 stays (11 deaths)" in card
    assert "| lactate | mmol/L | 42% |" in card and "medium from 0.100" in card
    assert "2025-12-01" in card and "abc123" in card and "Stage **champion**" in card


def test_what_is_not_stored_is_said_to_be_missing():
    bare = {"forecaster": "stay", "config": ModelConfig().to_json()}
    card = write_card(bare, ROW | {"metrics": {}})
    assert card.count(MISSING) > 70 and "None" not in card


def test_a_unit_forecaster_has_a_shorter_card():
    meta = {"forecaster": "unit", "config": ClassicConfig().to_json()}
    card = write_card(meta, ROW | {"metrics": {"test_mse": 4.0, "median_mse": 5.5}})
    assert "| test | 4.00 |" in card and "| median | 5.50 |" in card and f"| linear | {MISSING} |" in card
