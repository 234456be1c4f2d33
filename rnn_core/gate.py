"""Which stage a newly trained model gets: a verdict only where there are outcomes enough for one."""

from dataclasses import dataclass

import numpy as np

from rnn_core.bootstrap import Estimate

# Below so many deaths among the judged stays the interval of an AUROC is wider than any difference worth acting on.
MIN_DEATHS = 30
# A challenger may be worse by so much and still be called not worse: noise between hold-outs of this size is larger.
MARGIN_AUROC = 0.01
MARGIN_MAE_DAYS = 0.1


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


def judge_challenger(differences: dict[str, Estimate], n_deaths: int, serving: str) -> Verdict:
    """Verdict on a model against the one that serves as `serving`, champion or provisional, from paired differences
    (new less serving) on stays that neither has learned from: `auroc` and `los_mae_days`.

    A champion is replaced where the difference is within the margins and no interval lies wholly on the wrong side.
    With too few deaths for that a champion stays; a provisional model gives way to a newer one unless that is clearly
    worse, since nothing is known against it and it has seen more.
    """
    auroc, mae = differences["auroc"], differences["los_mae_days"]
    told = f"AUROC {auroc.value:+.3f}, length-of-stay error {mae.value:+.2f} days against the serving model on unseen stays."
    clearly_worse = auroc.high < 0 or mae.low > 0
    if n_deaths < MIN_DEATHS:
        few = f"{n_deaths} deaths on unseen stays are too few for a verdict ({MIN_DEATHS})."
        if serving == "provisional" and not clearly_worse:
            return Verdict("provisional", few)
        return Verdict("challenger", f"{few} {told}")
    if clearly_worse or np.isnan(auroc.value) or auroc.value < -MARGIN_AUROC or mae.value > MARGIN_MAE_DAYS:
        return Verdict("challenger", f"Worse than the margin allows: {told}")
    return Verdict("champion", f"Not worse: {told}")


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
