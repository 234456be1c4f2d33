"""Which stage a newly trained model gets: a verdict only where there are outcomes enough for one."""

from dataclasses import dataclass

import numpy as np

from rnn_core.metrics import Estimate

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


def judge_challenger(differences: dict[str, Estimate], n_deaths: int) -> Verdict:
    """Verdict on a model against the champion, from paired differences (challenger less champion) on a hold-out newer
    than both cut-offs: `auroc` and `los_mae_days`."""
    if n_deaths < MIN_DEATHS:
        return Verdict(
            "challenger", f"{n_deaths} deaths newer than both cut-offs are too few for a verdict ({MIN_DEATHS})."
        )
    auroc, mae = differences["auroc"].value, differences["los_mae_days"].value
    told = f"AUROC {auroc:+.3f}, length-of-stay error {mae:+.2f} days against the champion on newer stays."
    if np.isnan(auroc) or auroc < -MARGIN_AUROC or (not np.isnan(mae) and mae > MARGIN_MAE_DAYS):
        return Verdict("challenger", f"Worse than the margin allows: {told}")
    return Verdict("champion", f"Not worse: {told}")
