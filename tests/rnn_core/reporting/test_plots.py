"""Plots: whole SVG, the same twice, and a word instead of a plot where there is nothing to draw."""

from xml.etree import ElementTree

import numpy as np
import pytest

from rnn_core.reporting import plots
from rnn_core.statistics.bootstrap import Estimate

RNG = np.random.default_rng(0)
RISK = RNG.beta(1, 4, 300)
Y = (RNG.random(300) < RISK).astype(float)
LEVELS = np.array([0.2, 0.5, 0.8])
HISTORY = [{"epoch": e, "train_loss": 3 - e / 5, "valid_loss": 3 + abs(e - 2)} for e in range(1, 5)]
DRAWN = {
    "roc": lambda: plots.roc_plot(Y, {"ours & <theirs>": RISK}),
    "precision": lambda: plots.precision_recall_plot(Y, {"ours & <theirs>": RISK}),
    "calibration": lambda: plots.calibration_plot(Y, {"ours & <theirs>": RISK}),
    "decision": lambda: plots.decision_curve_plot(LEVELS, {"ours & <theirs>": LEVELS / 10}),
    "coverage": lambda: plots.coverage_plot(LEVELS, {"ours & <theirs>": LEVELS}),
    "learning": lambda: plots.learning_curves_plot({"ours & <theirs>": HISTORY}),
    "interval": lambda: plots.interval_plot({"ours & <theirs>": Estimate(0.8, 0.7, 0.9, 10)}, "AUROC", 0.5),
}
EMPTY = {
    "one class": lambda: plots.roc_plot(np.zeros(5), {"a": np.zeros(5)}),
    "no rows": lambda: plots.calibration_plot(np.empty(0), {"a": np.empty(0)}),
    "no curves": lambda: plots.coverage_plot(LEVELS, {}),
    "no epochs": lambda: plots.learning_curves_plot({"a": []}),
    "not defined": lambda: plots.interval_plot({"a": Estimate(np.nan, np.nan, np.nan, 0)}, "x"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_whole_svg_that_names_its_lines_and_is_the_same_twice(name):
    svg = DRAWN[name]()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "ours &amp; &lt;theirs&gt;" in svg and "no data" not in svg
    assert svg == DRAWN[name]()


@pytest.mark.parametrize("name", EMPTY)
def test_where_there_is_nothing_to_draw_the_plot_says_so(name):
    assert "no data" in EMPTY[name]()


def test_the_intervals_of_a_calibration_plot_are_those_of_wilson():
    low, high = plots._wilson(np.array([0.0, 0.3]), np.array([10, 40]))
    np.testing.assert_allclose(low, [0.0, 0.1807], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.4543], atol=1e-4)
