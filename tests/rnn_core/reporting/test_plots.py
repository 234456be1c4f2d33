"""Plots: what is drawn is read back from the SVG and compared with the numbers; a word where there is nothing to draw."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.metrics import precision_recall_curve, roc_curve

from rnn_core.reporting import plots
from rnn_core.statistics.bootstrap import Estimate

RNG = np.random.default_rng(0)
RISK = RNG.beta(1, 4, 300)
Y = (RNG.random(300) < RISK).astype(float)
LEVELS = np.array([0.2, 0.5, 0.8])
DAYS = np.arange("2026-01-01", "2026-01-05", dtype="datetime64[D]")
HISTORY = [{"epoch": e, "train_loss": 3 - e / 5, "valid_loss": 3 + abs(e - 2)} for e in range(1, 5)]
NAME = "ours & <theirs>"
PAST = np.arange(-24.0, 1), np.arange(25) % 7
FAN_HOURS = np.array([0, 4, 12, 24])
FAN = {q: 3 + np.array([0, 1, 2, 2]) * (q - 40) // 20 for q in (5, 25, 50, 75, 95)}
FAN_DAYS = [-24, 0, 24], ["-24", "0", "24"]
DRAWN = {
    "roc": lambda: plots.roc_plot(Y, {NAME: RISK}),
    "precision": lambda: plots.precision_recall_plot(Y, {NAME: RISK}),
    "calibration": lambda: plots.calibration_plot(Y, {NAME: RISK}),
    "decision": lambda: plots.decision_curve_plot(LEVELS, {NAME: LEVELS / 10}),
    "coverage": lambda: plots.coverage_plot(LEVELS, {NAME: LEVELS}),
    "learning": lambda: plots.learning_curves_plot({NAME: HISTORY}),
    "interval": lambda: plots.interval_plot({NAME: Estimate(0.8, 0.7, 0.9, 10)}, "AUROC", 0.5),
    "heat": lambda: plots.heat_plot(np.eye(2), [NAME, "b"], ["c", "d"], 1.0),
    "day": lambda: plots.day_plot({NAME: np.arange(4)}, DAYS, "count"),
    "fan": lambda: plots.fan_plot(PAST, FAN, FAN_HOURS, FAN_DAYS, (NAME, 12.0)),
    "bar": lambda: plots.bar_plot({NAME: 2.0}, "count"),
    "parallel": lambda: plots.parallel_plot({NAME: [1, 2]}, np.array([0.1, 0.2]), 1),
}
EMPTY = {
    "one class": lambda: plots.roc_plot(np.zeros(5), {"a": np.zeros(5)}),
    "one class, precision": lambda: plots.precision_recall_plot(np.ones(5), {"a": np.zeros(5)}),
    "no rows": lambda: plots.calibration_plot(np.empty(0), {"a": np.empty(0)}),
    "no decision": lambda: plots.decision_curve_plot(LEVELS, {}),
    "no curves": lambda: plots.coverage_plot(LEVELS, {}),
    "no epochs": lambda: plots.learning_curves_plot({"a": []}),
    "not defined": lambda: plots.interval_plot({"a": Estimate(np.nan, np.nan, np.nan, 0)}, "x"),
    "no cells": lambda: plots.heat_plot(np.empty((0, 3)), [], ["a", "b", "c"], 1.0),
    "no days": lambda: plots.day_plot({}, DAYS[:0], "count"),
    "no forecast": lambda: plots.fan_plot(PAST, {}, FAN_HOURS[:0], FAN_DAYS),
    "no trials": lambda: plots.parallel_plot({}, np.empty(0), 5),
    "no bars": lambda: plots.bar_plot({"a": np.nan}, "count"),
}


class Drawing:
    """An SVG of matplotlib read back: what was drawn inside the axes, in the units of their ticks."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(re.sub(r' xmlns(:xlink)?="[^"]*"| xlink:', r" ", svg))
        self.texts = [(t.text, *(float(t.get(a, "nan")) for a in "xy"), t.get("style")) for t in self.root.iter("text")]

    def ticks(self, axis: str) -> dict[str, float]:
        """Label → place in the drawing."""
        found = [g for g in self.root.iter("g") if re.fullmatch(rf"{axis}tick_\d+", g.get("id", ""))]
        return {g.find(".//text").text.replace("\N{MINUS SIGN}", "-"): float(g.find(".//use").get(axis)) for g in found}

    def value(self, axis: str, place):
        """Places in the drawing as values of an axis of numbers."""
        ticks = self.ticks(axis)
        return np.polyval(np.polyfit(list(ticks.values()), [float(label) for label in ticks], 1), place)

    def lines(self, colour: str, dashed: bool = False) -> list[np.ndarray]:
        """Lines of a colour, each as places [points, 2]; those of the legend are not clipped by the axes, and left out."""
        paths = [
            p for p in self.root.iter("path") if p.get("clip-path") and f"stroke: {colour.lower()}" in p.get("style")
        ]
        return [_points(p) for p in paths if ("dasharray" in p.get("style")) == dashed]

    def marks(self) -> np.ndarray:
        """Places of the markers, [marks, 2]."""
        inside = [use for g in self.root.iter("g") if g.get("clip-path") for use in g.iter("use")]
        return np.array([[float(use.get("x")), float(use.get("y"))] for use in inside])

    def bars(self, colour: str) -> list[np.ndarray]:
        """Corners of filled shapes, each [corners, 2]."""
        paths = [
            p for p in self.root.iter("path") if p.get("clip-path") and f"fill: {colour.lower()}" in p.get("style")
        ]
        return [_points(p) for p in paths]

    def values(self, places: np.ndarray) -> np.ndarray:
        return np.stack([self.value("x", places[:, 0]), self.value("y", places[:, 1])], axis=1)

    def labels(self) -> list[str]:
        return [text for text, *_ in self.texts]


def _points(path: ElementTree.Element) -> np.ndarray:
    return np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), dtype=float)


def assert_line(found, x, y):
    np.testing.assert_allclose(found, np.stack([x, y], axis=1), atol=2e-4)


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_whole_svg_that_names_its_lines_and_is_the_same_twice(name):
    svg = DRAWN[name]()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "ours &amp; &lt;theirs&gt;" in svg and "no data" not in svg
    assert svg == DRAWN[name]()


def test_the_fan_shows_the_past_the_median_both_bands_and_the_limit():
    drawn = Drawing(DRAWN["fan"]())
    assert_line(drawn.values(drawn.marks()), FAN_HOURS, FAN[50])
    (limit,) = drawn.lines(plots.COLOURS[1], dashed=True)
    assert_line(drawn.values(limit), [0, 24], [12, 12])
    bands = drawn.values(np.concatenate(drawn.bars(plots.COLOURS[5])))
    for q in (5, 25, 75, 95):
        assert all(
            np.isclose(bands, point, atol=2e-3).all(axis=1).any() for point in zip(FAN_HOURS, FAN[q], strict=True)
        )
    past = drawn.values(drawn.lines("var(--ink, #1b1f24)")[0])
    assert all(np.isclose(past, point, atol=2e-3).all(axis=1).any() for point in zip(*PAST, strict=True))


@pytest.mark.parametrize("name", EMPTY)
def test_where_there_is_nothing_to_draw_the_plot_says_so(name):
    drawing = Drawing(EMPTY[name]())
    assert drawing.labels() == ["no data"] and not len(drawing.marks())


def test_the_roc_plot_draws_one_curve_per_name_and_the_diagonal():
    drawing = Drawing(plots.roc_plot(Y, {"ours": RISK, "theirs": 1 - RISK}))
    for colour, risk in zip(plots.COLOURS, (RISK, 1 - RISK), strict=False):
        assert_line(drawing.values(*drawing.lines(colour)), *roc_curve(Y, risk)[:2])
    assert_line(drawing.values(*drawing.lines("#777777", dashed=True)), [0, 1], [0, 1])
    assert {"1 - specificity", "sensitivity", "ours", "theirs"} <= set(drawing.labels())


def test_the_precision_recall_plot_draws_the_curve_and_the_share_of_events():
    drawing = Drawing(plots.precision_recall_plot(Y, {"ours": RISK}))
    precision, recall, _ = precision_recall_curve(Y, RISK, drop_intermediate=True)
    assert_line(drawing.values(*drawing.lines(plots.COLOURS[0])), recall, precision)
    dotted = drawing.values(*drawing.lines("#777777", dashed=True))
    np.testing.assert_allclose(dotted[:, 1], Y.mean(), atol=2e-4)


@pytest.mark.parametrize(
    ("deaths", "n", "interval"), [(0, 10, (0.0, 0.2775)), (12, 40, (0.1807, 0.4543)), (10, 10, (0.7225, 1.0))]
)
def test_the_calibration_plot_shows_the_share_of_each_tenth_with_its_wilson_interval(deaths, n, interval):
    """Intervals from Brown, Cai and DasGupta's formula, worked out by hand."""
    risk = np.repeat(np.arange(1, 11) / 10, n)
    y = np.tile(np.arange(n) < deaths, 10).astype(float)
    y[-1] = 1 - y[-1]  # of one class alone there is no plot; the last tenth is not looked at
    drawing = Drawing(plots.calibration_plot(y, {"ours": risk}))
    *intervals, line = drawing.lines(plots.COLOURS[0])
    assert len(intervals) == len(drawing.marks()) == 10
    assert_line(drawing.values(line)[:9], np.arange(1, 10) / 10, np.full(9, deaths / n))
    assert_line(drawing.values(drawing.marks())[:9], np.arange(1, 10) / 10, np.full(9, deaths / n))
    for place, bar in enumerate(intervals[:9]):
        assert_line(drawing.values(bar), np.full(2, (place + 1) / 10), interval)


def test_the_calibration_plot_of_a_handful_of_forecasts_has_one_mark_for_each():
    assert len(Drawing(plots.calibration_plot(np.array([0.0, 1, 0]), {"a": np.array([0.1, 0.9, 0.2])})).marks()) == 3


def test_the_decision_curve_is_per_hundred_patients():
    drawing = Drawing(plots.decision_curve_plot(LEVELS, {"ours": np.array([0.04, 0.02, 0.01])}))
    assert_line(drawing.values(*drawing.lines(plots.COLOURS[0])), LEVELS, [4, 2, 1])


def test_the_coverage_plot_marks_each_level():
    drawing = Drawing(plots.coverage_plot(LEVELS, {"ours": np.array([0.25, 0.45, 0.85])}))
    assert_line(drawing.values(*drawing.lines(plots.COLOURS[0])), LEVELS, [0.25, 0.45, 0.85])
    assert_line(drawing.values(drawing.marks()), LEVELS, [0.25, 0.45, 0.85])
    assert_line(drawing.values(*drawing.lines("#777777", dashed=True)), [0, 1], [0, 1])


def test_learning_curves_are_dashed_in_training_solid_in_validation_and_marked_at_the_best_epoch():
    drawing = Drawing(plots.learning_curves_plot({"ours": HISTORY}))
    epochs = [1, 2, 3, 4]
    colour = plots.COLOURS[0]
    assert_line(drawing.values(*drawing.lines(colour, dashed=True)), epochs, [r["train_loss"] for r in HISTORY])
    assert_line(drawing.values(*drawing.lines(colour)), epochs, [r["valid_loss"] for r in HISTORY])
    assert_line(drawing.values(drawing.marks()), [2], [3])


def test_the_interval_plot_has_one_row_per_name_from_the_top():
    estimates = {
        "a": Estimate(0.8, 0.7, 0.9, 10),
        "b": Estimate(0.6, np.nan, np.nan, 3),
        "c": Estimate(np.nan, 0, 1, 0),
    }
    drawing = Drawing(plots.interval_plot(estimates, "AUROC", 0.5))
    rows = drawing.ticks("y")
    assert list(rows) == ["a", "b"] and rows["a"] < rows["b"]
    np.testing.assert_allclose(drawing.marks()[:, 1], list(rows.values()), atol=1e-3)
    np.testing.assert_allclose(drawing.value("x", drawing.marks()[:, 0]), [0.8, 0.6], atol=2e-4)
    (interval,) = drawing.lines(plots.COLOURS[0])
    np.testing.assert_allclose(drawing.value("x", interval[:, 0]), [0.7, 0.9], atol=2e-4)
    np.testing.assert_allclose(interval[:, 1], rows["a"], atol=1e-3)
    (reference,) = drawing.lines("#777777", dashed=True)
    np.testing.assert_allclose(drawing.value("x", reference[:, 0]), 0.5, atol=2e-4)


def test_the_heat_plot_writes_each_number_in_its_cell_on_a_colour_that_follows_it():
    values = np.array([[0.0, np.nan, 0.1], [0.5, 0.25, 0.9]])
    drawing = Drawing(plots.heat_plot(values, ["r1", "r2"], ["c1", "c2", "c3"], limit=0.5))
    rows, columns = drawing.ticks("y"), drawing.ticks("x")
    assert list(rows) == ["r1", "r2"] and list(columns) == ["c1", "c2", "c3"] and rows["r1"] < rows["r2"]
    written = {text: (x, y, style) for text, x, y, style in drawing.texts if text not in rows | columns}
    cells = {
        "0.00": ("r1", "c1"),
        "0.10": ("r1", "c3"),
        "0.50": ("r2", "c1"),
        "0.25": ("r2", "c2"),
        "0.90": ("r2", "c3"),
    }
    assert set(written) == set(cells)
    for number, (row, column) in cells.items():
        x, y, style = written[number]
        assert x == pytest.approx(columns[column], abs=0.1) and y == pytest.approx(rows[row], abs=4)
        assert ("fill: #ffffff" in style) == (number in ("0.50", "0.90")), "white on dark cells"
    image = next(drawing.root.iter("image"))
    assert "scale(1 -1)" in image.get("transform"), "the lowest row comes first"
    pixels = imread(io.BytesIO(base64.b64decode(image.get("href").split("base64,")[1])))[::-1]
    height, width = len(pixels) // 2, pixels.shape[1] // 3
    centres = pixels[height // 2 :: height, width // 2 :: width][:2, :3]
    brightness = np.where(centres[..., 3] > 0, centres[..., :3].sum(axis=-1), np.nan)
    assert np.isnan(brightness[0, 1]) and np.isfinite(brightness).sum() == 5
    assert any("fill: #eeeeee" in path.get("style", "") for path in drawing.root.iter("path")), "grey shows through"
    assert brightness[0, 0] > brightness[0, 2] > brightness[1, 1] > brightness[1, 0] == brightness[1, 2]


def test_the_day_plot_steps_from_count_to_count_half_way_between_the_days():
    drawing = Drawing(plots.day_plot({"a": np.array([1, 4, 2, 0]), "b": np.array([0, 0, 0, 3])}, DAYS, "stays"))
    for colour, counts in zip(plots.COLOURS, ([1, 4, 2, 0], [0, 0, 0, 3]), strict=False):
        (line,) = drawing.lines(colour)
        np.testing.assert_allclose(drawing.value("y", line[:, 1]), np.repeat(counts, 2), atol=2e-3)
        hours = (line[:, 0] - line[0, 0]) / (line[-1, 0] - line[0, 0]) * 72
        np.testing.assert_allclose(hours, [0, 12, 12, 36, 36, 60, 60, 72], atol=0.01)
    assert {"stays", "a", "b"} <= set(drawing.labels())


def test_the_bar_plot_has_a_bar_of_each_known_value_with_its_number():
    drawing = Drawing(plots.bar_plot({"a": 1.0, "unknown": np.nan, "c": 3.26}, "per day"))
    rows, bars = drawing.ticks("y"), drawing.bars(plots.COLOURS[0])
    assert list(rows) == ["a", "c"] and rows["a"] < rows["c"] and len(bars) == 2
    for bar, place, value in zip(bars, rows.values(), (1.0, 3.26), strict=True):
        np.testing.assert_allclose(drawing.value("x", [bar[:, 0].min(), bar[:, 0].max()]), [0, value], atol=2e-3)
        assert bar[:, 1].min() < place < bar[:, 1].max()
    assert {"1.0", "3.3", "per day"} <= set(drawing.labels())


def test_parallel_coordinates_have_an_axis_per_setting_and_colour_the_best():
    settings = {"rate": [0.001, 0.1, 0.01], "cell": ["gru", "lstm", "gru"], "same": [2, 2, 2]}
    drawing = Drawing(plots.parallel_plot(settings, np.array([1.0, 2.0, 4.0]), best=1))
    places = drawing.ticks("x")
    assert list(places) == ["rate", "cell", "same", "loss"]
    (best,) = drawing.lines(plots.COLOURS[0])
    others = [line for line in drawing.lines("#777777") if len(line) == 4]
    np.testing.assert_allclose(best[:, 0], list(places.values()), atol=1e-3)
    heights = [line[:, 1] for line in (best, *reversed(others))]
    low, high = heights[0][0], heights[1][0]
    np.testing.assert_allclose(heights[2][0], (low + high) / 2, atol=1e-3, err_msg="a wide span is on a log scale")
    assert heights[0][1] == heights[2][1] != heights[1][1] and len({height[2] for height in heights}) == 1
    assert {"0.001", "0.1", "gru", "lstm", "1", "4"} <= set(drawing.labels())
