"""Which stage a newly trained model gets: a verdict only where there are outcomes enough for one, and no service for a
model that is worse than the population's curve."""

from dataclasses import dataclass
from math import isfinite

from rnn_core.contracts.thresholds import MIN_DEATHS, MIN_ENDS
from rnn_core.statistics.bootstrap import MIN_GROUPS, Estimate
from rnn_core.statistics.metric import Metric, curve_metrics, gate_metrics


@dataclass(frozen=True)
class Verdict:
    """A stage of `forecast.model` and the reason in one sentence."""

    stage: str
    reason: str


def judge_first(metrics: dict[str, Estimate], from_curve: dict[str, Estimate], n_deaths: int, n_ends: int) -> Verdict:
    """Verdict on a model while none serves as champion; see `beaten_by_curve` for `from_curve`."""
    if worse := beaten_by_curve(from_curve, n_deaths, n_ends):
        return Verdict("candidate", worse)
    if n_deaths < MIN_DEATHS:
        return Verdict(
            "provisional", f"{n_deaths} deaths among the judged stays are too few for a verdict ({MIN_DEATHS})."
        )
    auroc = metrics["mortality_auroc"]
    brier, trivial = metrics["mortality_brier"].value, metrics["baseline_mortality_brier"].value
    if not (auroc.low > 0.5 and brier < trivial):
        return Verdict(
            "candidate",
            f"Not better than the trivial baseline: AUROC {auroc.show()}, Brier score {brier:.4f} against {trivial:.4f}.",
        )
    return Verdict("champion", f"AUROC {auroc.show()} on {n_deaths} deaths.")


def beaten_by_curve(from_curve: dict[str, Estimate], n_deaths: int, n_ends: int) -> str | None:
    """The sentence that says where a model is worse than the population's curve given the elapsed hours, None if nowhere.

    from_curve: paired differences in the `curve_metrics`. A difference beyond the margin counts where its interval lies
    wholly on the wrong side (`is_clear`), and where there are enough outcomes for the value alone: stays with a known end
    (`n_ends`), for the risk of death deaths. A distance from a target, such as of a share from 0.5, needs enough outcomes:
    chance alone makes it positive.
    """
    worse = []
    for metric in curve_metrics():
        harm = metric.harm(from_curve[metric.name])
        enough = n_deaths >= MIN_DEATHS if "death" in metric.happened else n_ends >= MIN_ENDS
        beyond_chance = metric.target is None and is_clear(metric, harm, n_deaths)
        if harm.value > metric.curve_margin and (enough or beyond_chance):
            worse.append(_show_difference(metric, from_curve[metric.name]))
    if not worse:
        return None
    return f"Worse than the curve of the population given the elapsed hours: {', '.join(worse)}."


def is_clear(metric: Metric, harm: Estimate, n_deaths: int) -> bool:
    """Whether an interval lies wholly on the wrong side. Of a risk it says nothing without deaths: among survivors alone
    the lower risk is always the better one, in every resample."""
    return harm.low > 0 and ("death" not in metric.happened or n_deaths >= MIN_GROUPS)


def _show_difference(metric: Metric, difference: Estimate) -> str:
    shown = metric.show_difference(difference)
    return f"{shown} ({difference.low:+.3f} to {difference.high:+.3f})" if isfinite(difference.low) else shown


def judge_challenger(
    overall: dict[str, Estimate],
    groups: dict[str, dict[str, Estimate]],
    from_curve: dict[str, Estimate],
    n_deaths: int,
    n_ends: int,
    serving: str,
) -> Verdict:
    """Verdict on a model against the one that serves as `serving`, champion or provisional, from paired differences
    (new less serving) in the `gate_metrics` on stays that neither has learned from, over all and by group.

    A champion is replaced where every difference is within its margin, no interval lies wholly on the wrong side, and no
    group of patients is worse beyond the margin of groups; nor does a model serve that is worse than the population's curve
    (`beaten_by_curve`). With too few deaths for that a champion stays; a provisional model gives way to a newer one that is
    better in something measured and clearly worse in nothing.
    """
    if worse := beaten_by_curve(from_curve, n_deaths, n_ends):
        return Verdict("challenger", worse)
    harms = {metric: metric.harm(overall[metric.name]) for metric in gate_metrics()}
    found = ", ".join(metric.show_difference(overall[metric.name]) for metric in harms)
    sentence = f"{found} against the serving model on unseen stays."
    clearly_worse = any(is_clear(metric, harm, n_deaths) for metric, harm in harms.items())
    if n_deaths < MIN_DEATHS:
        few = f"{n_deaths} deaths on unseen stays are too few for a verdict ({MIN_DEATHS})."
        better = [metric.show_difference(overall[metric.name]) for metric, harm in harms.items() if harm.value < 0]
        if serving == "provisional" and better and not clearly_worse:
            return Verdict("provisional", f"{few} Better than the serving provisional model: {', '.join(better)}.")
        return Verdict("challenger", f"{few} {sentence}")
    if clearly_worse or any(not harm.value <= metric.margin.overall for metric, harm in harms.items()):
        return Verdict("challenger", f"Worse than the margin allows: {sentence}")
    if harmed := _harmed_groups(groups):
        return Verdict("challenger", f"Worse for {', '.join(harmed)}, though not over all: {sentence}")
    return Verdict("champion", f"Not worse: {sentence}")


def _harmed_groups(groups: dict[str, dict[str, Estimate]]) -> list[str]:
    harmed = []
    for group, found in groups.items():
        harms = {metric: metric.harm(found[metric.name]) for metric in gate_metrics()}
        names = [m.label for m, harm in harms.items() if harm.low > 0 and harm.value > m.margin.group]
        if names:
            harmed.append(f"{group} ({', '.join(names)})")
    return harmed


def judge_unit(report: dict[str, float], serving_mse: float | None) -> Verdict:
    """Verdict on a unit forecaster: it serves where it beats the last value and the median on the newest windows, and
    is not worse there than the one that serves (`serving_mse`, on the same windows, None without one)."""
    trivial = min(report["last_value_mse"], report["median_mse"])
    sentence = f"Test MSE {report['test_mse']:.2f} days², trivial {trivial:.2f}, linear {report['linear_mse']:.2f}"
    if report["test_mse"] > trivial:
        return Verdict("candidate", f"{sentence}: no better than the trivial forecast.")
    if serving_mse is not None and report["test_mse"] > serving_mse:
        return Verdict(
            "challenger", f"{sentence}: worse than the serving model's {serving_mse:.2f} on the same windows."
        )
    return Verdict("champion", f"{sentence}.")
