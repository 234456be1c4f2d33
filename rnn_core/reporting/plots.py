"""Plots of forecasts as SVG text: the same numbers give the same text, and no plot shows a single patient.

Risks and outcomes are arrays [rows]; a plot without data is the words "no data". Text and axes have the colour of the page's
CSS variable --ink, so that they can be read on a light and on a dark page.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from rnn_core.statistics.bootstrap import Estimate

# Okabe and Ito, "Color universal design", 2008: distinct with any kind of colour vision.
_INK = "#1b1f24"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", _INK, "#8C6D31")
_GREY = "#777777"
_DECILES = 10
_WIDTH = 4.6
_STYLE = {
    "svg.hashsalt": "icu-forecast",
    "svg.fonttype": "none",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.titlesize": 9,
}


def roc_plot(y: np.ndarray, risks: Mapping[str, np.ndarray]) -> str:
    """Receiver operating characteristic: sensitivity against false alarms, one line per name."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        for colour, (name, risk) in _coloured(risks):
            axes.plot(*roc_curve(y, risk, drop_intermediate=True)[:2], color=colour, label=name, linewidth=1.2)
        _label(axes, "1 - specificity", "sensitivity")

    return _figure(draw, empty=not _both_classes(y))


def precision_recall_plot(y: np.ndarray, risks: Mapping[str, np.ndarray]) -> str:
    """Positive predictivity against sensitivity; dotted: the share of events, which guessing reaches."""

    def draw(axes: Axes) -> None:
        axes.axhline(y.mean(), color=_GREY, linewidth=0.8, linestyle=":")
        for colour, (name, risk) in _coloured(risks):
            precision, recall, _ = precision_recall_curve(y, risk, drop_intermediate=True)
            axes.plot(recall, precision, color=colour, label=name, linewidth=1.2)
        axes.set_ylim(0, 1)
        _label(axes, "sensitivity", "positive predictivity")

    return _figure(draw, empty=not _both_classes(y))


def calibration_plot(y: np.ndarray, risks: Mapping[str, np.ndarray], event: str = "death") -> str:
    """Observed share in each tenth of the forecasts, with its 95 % Wilson interval, against their mean risk."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        top = 0.0
        for colour, (name, risk) in _coloured(risks):
            tenths = np.array_split(np.argsort(risk, kind="stable"), _DECILES)
            groups = [rows for rows in tenths if len(rows)]
            forecast, seen = (np.array([values[group].mean() for group in groups]) for values in (risk, y))
            counts = [binomtest(int(y[group].sum()), len(group)) for group in groups]
            low, high = np.array([count.proportion_ci(method="wilson") for count in counts]).T
            bars = np.maximum([seen - low, high - seen], 0)
            style = {"color": colour, "label": name, "marker": "o", "markersize": 3, "linewidth": 1, "elinewidth": 0.8}
            axes.errorbar(forecast, seen, bars, **style)
            top = max(top, forecast.max(), high.max())
        axes.set_xlim(0, min(1, top * 1.03))
        axes.set_ylim(0, min(1, top * 1.03))
        _label(axes, f"forecast probability of {event}", "observed share")

    return _figure(draw, empty=not _both_classes(y))


def decision_curve_plot(thresholds: np.ndarray, curves: Mapping[str, np.ndarray]) -> str:
    """Net benefit per 100 patients against the risk at which one would act."""

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=_GREY, linewidth=0.8, linestyle=":")
        for colour, (name, curve) in _coloured(curves):
            axes.plot(thresholds, 100 * curve, color=colour, label=name, linewidth=1.2)
        axes.set_ylim(bottom=-1)
        _label(axes, "risk at which one acts", "net benefit per 100 patients")

    return _figure(draw, empty=not curves)


def coverage_plot(levels: np.ndarray, observed: Mapping[str, np.ndarray]) -> str:
    """Share of ends inside the central interval of each level; on the dotted line the forecast is calibrated."""
    return _level_plot(levels, observed, "level of the interval", "share of ends inside")


def reliability_plot(levels: np.ndarray, observed: Mapping[str, np.ndarray]) -> str:
    """Share of ends below the forecast quantile of each level; on the dotted line the quantiles are calibrated."""
    return _level_plot(levels, observed, "level of the quantile", "share of ends below it")


def _level_plot(levels: np.ndarray, observed: Mapping[str, np.ndarray], x: str, y: str) -> str:
    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        for colour, (name, shares) in _coloured(observed):
            axes.plot(levels, shares, color=colour, label=name, marker="o", markersize=3, linewidth=1.2)
        _label(axes, x, y)

    return _figure(draw, empty=not observed)


def pit_plot(
    shares: Mapping[str, np.ndarray], x: str = "share of the forecast before the end", y: str = "% of ends"
) -> str:
    """Histogram in tenths of where actual ends lie in their forecast distributions, in percent; flat where calibrated.

    x, y: labels of the axes, where something else than the end of a stay is forecast.
    """

    def draw(axes: Axes) -> None:
        axes.axhline(10, color=_GREY, linewidth=0.8, linestyle=":")
        edges = np.linspace(0, 1, _DECILES + 1)
        for colour, (name, values) in _coloured(shares):
            counts = np.histogram(values, edges)[0] / max(len(values), 1)
            axes.stairs(100 * counts, edges, color=colour, label=name, linewidth=1.2)
        axes.set_ylim(bottom=0)
        _label(axes, x, y)

    return _figure(draw, empty=not shares)


def learning_curves_plot(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Loss per epoch: dashed on the training stays, solid on the validation stays, a dot at the minimum."""

    def draw(axes: Axes) -> None:
        for colour, (name, history) in _coloured(histories):
            epochs = [record["epoch"] for record in history]
            valid = np.array([record["valid_loss"] for record in history], dtype=float)
            axes.plot(epochs, [r["train_loss"] for r in history], color=colour, linestyle="--", linewidth=0.9)
            axes.plot(epochs, valid, color=colour, label=name, linewidth=1.2)
            if np.isfinite(valid).any():
                best = int(np.nanargmin(valid))
                axes.plot(epochs[best], valid[best], "o", color=colour, markersize=4)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _label(axes, "epoch", "loss")

    return _figure(draw, empty=not any(len(history) for history in histories.values()))


def parallel_plot(columns: Mapping[str, Sequence[object]], losses: np.ndarray, best: int) -> str:
    """Parallel coordinates: an axis per name of `columns`, values [n] each, and one for `losses` [n], ascending; the first
    `best` are coloured. Numbers that span more than a factor of ten are on a log scale."""

    def draw(axes: Axes) -> None:
        found = [_position(values) for values in [*columns.values(), losses]]
        places = np.arange(len(found))
        heights = np.stack([heights for heights, _ in found])
        for number in reversed(range(len(losses))):
            style = (
                {"color": COLOURS[number], "linewidth": 1.4} if number < best else {"color": _GREY, "linewidth": 0.6}
            )
            axes.plot(places, heights[:, number], alpha=1 if number < best else 0.5, **style)
        for place, (_, ticks) in zip(places, found, strict=True):
            axes.axvline(place, color=_INK, linewidth=0.6)
            for height, label in ticks.items():
                axes.annotate(label, (place, height), (2, 2), textcoords="offset points", fontsize=8)
        axes.set_xticks(places, [*columns, "loss"], rotation=30, ha="right")
        axes.set_yticks([])
        axes.set_ylim(-0.05, 1.1)

    return _figure(draw, empty=len(losses) == 0, legend=False)


def _position(values: Sequence[object] | np.ndarray) -> tuple[np.ndarray, dict[float, str]]:
    """Heights in [0, 1] of values [n] on their axis, and the labels of some heights."""
    if not all(isinstance(value, int | float | np.number) for value in values):
        names = sorted(set(map(str, values)))
        at = {name: (number + 0.5) / len(names) for number, name in enumerate(names)}
        return np.array([at[str(value)] for value in values]), {height: name for name, height in at.items()}
    numbers = np.array(values, dtype=float)
    low, high = float(numbers.min()), float(numbers.max())
    if low > 0 and high > 10 * low:
        numbers = np.log(numbers)
    span = numbers.max() - numbers.min()
    heights = (numbers - numbers.min()) / span if span > 0 else np.full(len(numbers), 0.5)
    return heights, {0.0: f"{low:.3g}", 1.0: f"{high:.3g}"} if span > 0 else {0.5: f"{low:.3g}"}


def interval_plot(estimates: Mapping[str, Estimate], label: str, reference: float | None = None) -> str:
    """One value with its interval per name, top to bottom."""
    known = {name: estimate for name, estimate in estimates.items() if np.isfinite(estimate.value)}

    def draw(axes: Axes) -> None:
        if reference is not None:
            axes.axvline(reference, color=_GREY, linewidth=0.8, linestyle=":")
        for place, e in enumerate(known.values()):
            axes.plot(e.value, place, "o", color=COLOURS[0], markersize=4)
            if np.isfinite(e.low):
                axes.plot([e.low, e.high], [place, place], color=COLOURS[0], linewidth=1.2)
        axes.set_yticks(range(len(known)), list(known))
        axes.invert_yaxis()
        axes.set_xlabel(label)

    # Room for the longest name, which would otherwise leave none for the values.
    width = _WIDTH + 0.06 * max(max(map(len, known), default=0) - 20, 0)
    return _figure(draw, empty=not known, legend=False, width=width, height=0.5 + 0.24 * max(len(known), 4))


def heat_plot(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], limit: float) -> str:
    """A matrix [rows, columns] as colours from 0 (white) to `limit` and beyond, with its numbers; NaN is left grey."""

    def draw(axes: Axes) -> None:
        axes.set_facecolor("#eeeeee")
        axes.imshow(np.ma.masked_invalid(values), cmap="Oranges", vmin=0, vmax=limit, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if value > 0.7 * limit else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_xticks(range(len(columns)), list(columns))

    return _figure(draw, empty=values.size == 0, legend=False, height=0.6 + 0.2 * max(len(rows), 4))


def day_plot(counts: Mapping[str, np.ndarray], days: np.ndarray, label: str) -> str:
    """One stepped line per name over `days`, datetime64[D] [n]; counts [n] each."""

    def draw(axes: Axes) -> None:
        for colour, (name, values) in _coloured(counts):
            axes.step(days, values, where="mid", color=colour, label=name, linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", rotation=30)
        _label(axes, "", label)

    return _figure(draw, empty=len(days) == 0)


def fan_plot(
    past: tuple[np.ndarray, np.ndarray],
    quantiles: Mapping[int, np.ndarray],
    hours: np.ndarray,
    days: tuple[np.ndarray, Sequence[str]],
    limit: tuple[str, float] | None = None,
) -> str:
    """Counts of the past as steps, and their forecast as a fan: the 90 % and the 50 % band, and the median with a dot per time.

    past: hours before now, at most 0 and ascending, and the count since each. hours: of the forecast, ascending, at least 0.
    quantiles: 5, 25, 50, 75 and 95 percent, [hours]. days: where a day begins in hours from now, and its label, "" for none.
    limit: a label and a count, drawn as a line over the forecast.
    """

    def draw(axes: Axes) -> None:
        axes.axvline(0, color=_GREY, linewidth=0.8, linestyle=":")
        axes.step(*past, where="post", color=_INK, linewidth=1.2, label="past week")
        for low, high, opacity in ((5, 95, 0.25), (25, 75, 0.45)):
            there_and_back = np.r_[hours, hours[::-1]], np.r_[quantiles[low], quantiles[high][::-1]]
            axes.fill(*there_and_back, color=COLOURS[5], alpha=opacity, linewidth=0, label=f"{high - low} %")
        median = {"color": _INK, "marker": "o", "markersize": 3, "linewidth": 1.2, "label": "median"}
        axes.plot(hours, quantiles[50], **median)
        if limit is not None:
            axes.hlines(limit[1], 0, hours[-1], COLOURS[1], "--", linewidth=1.4, label=limit[0])
        axes.set_xticks(*days)
        axes.set_xlim(past[0][0], hours[-1])
        top = max(past[1].max(), quantiles[95].max(), 0 if limit is None else limit[1])
        axes.set_ylim(0, max(1.08 * top, 1))
        axes.yaxis.get_major_locator().set_params(integer=True)
        _label(axes, "", "patients")

    return _figure(draw, empty=len(hours) == 0, height=3.0)


def bar_plot(values: Mapping[str, float], label: str) -> str:
    """One horizontal bar per name, top to bottom, with its number."""
    known = {name: value for name, value in values.items() if np.isfinite(value)}

    def draw(axes: Axes) -> None:
        bars = axes.barh(range(len(known)), list(known.values()), color=COLOURS[0])
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
        axes.set_yticks(range(len(known)), list(known))
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlabel(label)

    return _figure(draw, empty=not known, legend=False, height=0.5 + 0.2 * max(len(known), 4))


def _coloured(lines: Mapping[str, object]):
    return zip((COLOURS * 3)[: len(lines)], lines.items(), strict=True)


def _both_classes(y: np.ndarray) -> bool:
    return len(np.unique(y)) == 2


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _figure(draw, *, empty: bool, legend: bool = True, width: float = _WIDTH, height: float = 3.4) -> str:
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        if empty:
            axes.text(0.5, 0.5, "no data", ha="center", va="center", color=_GREY)
            axes.set_axis_off()
        else:
            draw(axes)
            if legend:
                figure.legend(loc="outside lower center", ncols=3)
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue().replace(_INK, f"var(--ink, {_INK})")
    return text[text.index("<svg") :]
