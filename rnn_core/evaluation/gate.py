"""Which stage a newly trained model gets: a verdict only where there are outcomes enough for one."""

from dataclasses import dataclass

import numpy as np

from rnn_core.contracts.thresholds import MIN_DEATHS
from rnn_core.statistics.bootstrap import Estimate

# A challenger may be worse by so much and still be called not worse: noise between hold-outs of this size is larger.
# `calibration` is the distance of the slope from 1.
MARGINS = {"auroc": 0.01, "auprc": 0.02, "calibration": 0.1, "los_mae_days": 0.1}
# In a group of patients a difference counts when it is beyond this and its interval lies wholly on the wrong side: of a
# dozen groups some are worse by chance.
GROUP_MARGINS = {"auroc": 0.03, "auprc": 0.05, "calibration": 0.25, "los_mae_days": 0.25}
_MORE_IS_BETTER = ("auroc", "auprc")


@dataclass(frozen=True)
class Verdict:
    """A stage of `forecast.model` and the reason in one sentence."""

    stage: str
    reason: str


def judge_first(metrics: dict[str, Estimate], n_deaths: int) -> Verdict:
    """Verdict on a model while none serves as champion."""
    if n_deaths < MIN_DEATHS:
        return Verdict(
            "provisional", f"{n_deaths} deaths among the judged stays are too few for a verdict ({MIN_DEATHS})."
        )
    auroc = metrics["mortality_auroc"]
    brier, trivial = metrics["mortality_brier"].value, metrics["baseline_mortality_brier"].value
    if not (auroc.low > 0.5 and brier < trivial):
        return Verdict(
            "candidate",
            f"Not better than the trivial baseline: AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f}), "
            f"Brier score {brier:.4f} against {trivial:.4f}.",
        )
    return Verdict("champion", f"AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f}) on {n_deaths} deaths.")


def judge_challenger(
    overall: dict[str, Estimate], groups: dict[str, dict[str, Estimate]], n_deaths: int, serving: str
) -> Verdict:
    """Verdict on a model against the one that serves as `serving`, champion or provisional, from paired differences
    (new less serving) in the metrics of `MARGINS` on stays that neither has learned from, over all and by group.

    A champion is replaced where every difference is within its margin, no interval lies wholly on the wrong side, and no
    group of patients is worse beyond `GROUP_MARGINS`. With too few deaths for that a champion stays; a provisional model
    gives way to a newer one unless that is clearly worse, since nothing is known against it and it has seen more.
    """
    worse = {name: _harm(name, difference) for name, difference in overall.items()}
    told = f"{_told(overall)} against the serving model on unseen stays."
    clearly_worse = any(harm.low > 0 for harm in worse.values())
    if n_deaths < MIN_DEATHS:
        few = f"{n_deaths} deaths on unseen stays are too few for a verdict ({MIN_DEATHS})."
        if serving == "provisional" and not clearly_worse:
            return Verdict("provisional", f"{few} So is the serving model, and the newer one takes its place.")
        return Verdict("challenger", f"{few} {told}")
    if clearly_worse or any(np.isnan(harm.value) or harm.value > MARGINS[name] for name, harm in worse.items()):
        return Verdict("challenger", f"Worse than the margin allows: {told}")
    if harmed := _harmed_groups(groups):
        return Verdict("challenger", f"Worse for {', '.join(harmed)}, though not over all: {told}")
    return Verdict("champion", f"Not worse: {told}")


def _harm(name: str, difference: Estimate) -> Estimate:
    """The difference, turned so that above 0 is worse."""
    if name not in _MORE_IS_BETTER:
        return difference
    return Estimate(-difference.value, -difference.high, -difference.low, difference.n)


def _harmed_groups(groups: dict[str, dict[str, Estimate]]) -> list[str]:
    harms = {group: {name: _harm(name, d) for name, d in differences.items()} for group, differences in groups.items()}
    return [
        f"{group} ({', '.join(names)})"
        for group, found in harms.items()
        if (names := [name for name, harm in found.items() if harm.low > 0 and harm.value > GROUP_MARGINS[name]])
    ]


def _told(overall: dict[str, Estimate]) -> str:
    auroc, auprc = overall["auroc"].value, overall["auprc"].value
    calibration, mae = overall["calibration"].value, overall["los_mae_days"].value
    return (
        f"AUROC {auroc:+.3f}, AUPRC {auprc:+.3f}, slope's distance from 1 {calibration:+.2f}, "
        f"length-of-stay error {mae:+.2f} days"
    )


def judge_unit(report: dict[str, float], serving_mse: float | None) -> Verdict:
    """Verdict on a unit forecaster: it serves where it beats the last value and the median on the newest windows, and
    is not worse there than the one that serves (`serving_mse`, on the same windows, None without one)."""
    trivial = min(report["last_value_mse"], report["median_mse"])
    told = f"Test MSE {report['test_mse']:.2f} days², trivial {trivial:.2f}, linear {report['linear_mse']:.2f}"
    if report["test_mse"] > trivial:
        return Verdict("candidate", f"{told}: no better than the trivial forecast.")
    if serving_mse is not None and report["test_mse"] > serving_mse:
        return Verdict("challenger", f"{told}: worse than the serving model's {serving_mse:.2f} on the same windows.")
    return Verdict("champion", f"{told}.")
