"""The model card says what is stored and names what is not."""

import pytest

from rnn_core.contracts.config import ModelConfig, UnitConfig
from rnn_core.reporting.markdown import MISSING, render_table
from rnn_core.reporting.model_card import write_card

META = {
    "forecaster": "stay",
    "config": ModelConfig().to_json(),
    "ends_at": "unit",
    "risk_thresholds": [0.1, 0.2, 0.5],
    "sampling": {"delayed_entry_hours": 48.0, "data_hours": None},
    "versions": {"keras": "3.1"},
    "git_revision": "abc123",
    "concept_hash": "fedc",
    "calibration": {"mortality": {"slope": 0.9, "slope_per_doubling": -0.05}},
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
            "sex": {"female": 1400, "nan": 3},
            "unit_type": {"mixed": 900},
            "admission_type": {"urgent": 900},
            "outcome": {"died": 90},
            "stays_without": {"lactate": 0.42},
        },
        "groups": {"sex": {"female": {"mortality_auroc": AUROC}}, "age": {}},
    },
}
# What each section says of `META` and `ROW`, beside its standing words.
SAYS = {
    "Title": ["of the source `ward`, hour by hour"],
    "Intended use and limits": ["not a medical device", "docs/intended-use.md"],
    "Source of data": ["cut-off 2025-12-01 (UTC)", "only stays of at least 48 hours"],
    "Participants": [
        "900 stays of 850 patients, admitted 2024-01-01 to 2025-11-30.",
        "\n- Age, quartiles in years: 50.0, 63.0, not stored\n- sex: female 1,400, not known 3\n- unit type: mixed 900\n",
        "\n- admission type: urgent 900\n- outcome: died 90",
    ],
    "Data preparation": ["needs 10 observations, 4 hours in the unit", "within the last 24 hours"],
    "Outcome": ["the stay in the unit ends: alive or dead, in 19 horizon bins"],
    "Predictors": [
        "\n| concept | unit | stays without any |\n|---|---|---|\n| heart_rate | /min |",
        "| lactate | mmol/L | 42% |",
    ],
    "Sample size": ["learned 900 stays (90 deaths), judged 100 stays (11 deaths)."],
    "Missing data": ["carried forward", "Nothing is imputed from other patients."],
    "Analytical methods": [
        "by 5 recurrent networks (lstm, 64 units)",
        "has the weight 2. Started from: random weights.",
        "\nCalibration, out of fold: mortality slope 0.9, mortality slope per doubling -0.05.",
        "\nBest epochs: 3, 4. Seed 0.",
    ],
    "Class imbalance": ["neither resampled nor weighted"],
    "Fairness": ["| group | AUROC of death |\n|---|---|\n| female | 0.812 (0.750 to 0.860) |"],
    "Model output": ["Risk bands: medium from 0.100, high from 0.200, very high from 0.500."],
    "Training versus evaluation": ["patients who had no part in the fit"],
    "Performance": [
        "| metric | model | without a model | forecasts |\n|---|---|---|---|\n",
        "\n| AUROC of death | 0.812 (0.750 to 0.860) | 0.500 | 1,234 |\n",
        "\n| Brier score of death | - | - | not stored |\n",
    ],
    "Updating": ["serves only if it is not worse"],
    "Openness": ["revision abc123; keras 3.1.", "Artifact `m1`, concepts fedc."],
}


def sections(card):
    """Title → text of each section, in order."""
    return dict(section.split("\n", 1) for section in card.split("\n## ")[1:])


@pytest.mark.parametrize("item", SAYS)
def test_every_item_says_what_is_stored(item):
    section = sections(write_card(META, ROW))[item]
    for words in SAYS[item]:
        assert words in section


def test_the_card_of_trees_describes_trees():
    config = {**META["config"], "forecaster": "trees"}
    methods = sections(write_card({**META, "config": config}, ROW))["Analytical methods"]
    assert "by 5 pairs of gradient-boosted trees" in methods and "the learning rate is 0.08." in methods
    assert "Trees for the end of stay: 3, 4. Seed 0." in methods and "networks" not in methods


def test_the_card_of_regressions_describes_regressions():
    config = {**META["config"], "forecaster": "logistic"}
    methods = sections(write_card({**META, "config": config}, ROW))["Analytical methods"]
    assert "by 5 pairs of logistic regressions" in methods and "networks" not in methods and "epochs" not in methods


def test_the_card_of_a_blend_describes_all_its_parts():
    config = {**META["config"], "forecaster": "blend", "blend": ["recurrent", "trees", "logistic"]}
    methods = sections(write_card({**META, "config": config}, ROW))["Analytical methods"]
    assert "A blend of 3 kinds of model" in methods and "by 5 pairs of logistic regressions" in methods
    assert "by 5 pairs of gradient-boosted trees" in methods and "by 5 recurrent networks" in methods
    assert "Best epochs: 3, 4. Seed 0." in methods


def test_the_card_has_its_items_in_order_each_after_an_empty_line_and_none_twice():
    card = write_card(META, ROW)
    assert list(sections(card)) == list(SAYS)
    assert card.startswith(
        "# Model card: m1\n\nStage **champion**, version 3, trained 2026-01-01. Good.\n\n## Title\n\n"
    )
    assert card.count("\n\n## ") == len(SAYS) and "\n\n\n" not in card and card.endswith(".\n")


def test_what_is_not_stored_is_said_to_be_missing():
    bare = {"forecaster": "stay", "config": ModelConfig().to_json()}
    card = write_card(bare, ROW | {"metrics": {}})
    concepts = len(ModelConfig().window.concepts)
    assert sections(card)["Predictors"].count(f" | {MISSING} |") == concepts
    for item in ("Participants", "Sample size"):
        assert sections(card)[item].strip() == MISSING
    for words in (
        f"out of fold: {MISSING}",
        f"Best epochs: {MISSING}",
        f"Risk bands: {MISSING}",
        f"revision {MISSING};",
    ):
        assert words in card
    assert "stop" not in sections(card)["Source of data"]
    assert "None" not in card and "Undefined" not in card


def test_a_source_whose_observations_stop_says_when():
    card = write_card(META | {"sampling": {"delayed_entry_hours": 0.0, "data_hours": 48.0}}, ROW)
    assert "stop 48 hours after admission" in card and "only stays of at least" not in card


def test_a_unit_forecaster_has_a_shorter_card():
    meta = {"forecaster": "unit", "config": UnitConfig().to_json()}
    card = write_card(meta, ROW | {"metrics": {"test_mse": 4.0, "median_mse": 5.5}})
    assert list(sections(card)) == ["Performance", "Intended use and limits", "Openness"] and "\n\n\n" not in card
    assert "| test | 4.00 |" in card and "| median | 5.50 |" in card and f"| linear | {MISSING} |" in card


def test_a_table_has_one_line_per_row():
    assert render_table(["model", "AUROC"], [["lstm", "0.9"], ["trees", ""]]) == (
        "| model | AUROC |\n|---|---|\n| lstm | 0.9 |\n| trees |  |\n"
    )
