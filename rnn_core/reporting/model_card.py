"""The card of a model, written from what is stored with it: the items of TRIPOD+AI that a model can answer.

Collins et al., "TRIPOD+AI statement", BMJ 385, 2024, e078378. The text is in `templates/model_card.md.j2`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rnn_core.contracts.concepts import BY_NAME
from rnn_core.contracts.thresholds import RISK_BANDS
from rnn_core.reporting.markdown import MISSING, render

_METRICS = {
    "mortality_auroc": "AUROC of death",
    "mortality_auprc": "AUPRC of death",
    "mortality_brier": "Brier score of death",
    "mortality_calibration_slope": "calibration slope",
    "mortality_calibration_intercept": "calibration intercept",
    "mortality_observed_expected": "deaths observed over expected",
    "prolonged_stay_auroc": "AUROC of a stay over 7 days",
    "discharge_24h_auroc": "AUROC of a discharge within 24 h",
    "los_mean_absolute_error_days": "mean absolute error of the remaining stay, days",
    "los_crps_days": "CRPS of the remaining stay, days",
    "los_concordance": "concordance of the remaining stay",
    "los_interval_coverage": "ends inside the 80 % interval",
}


def write_card(meta: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The card as Markdown; what was not stored reads "not stored".

    meta: `meta.json` of the artifact. row: the model's row of forecast.model.
    """
    report = row["metrics"] or {}
    groups = [found for found in (report.get("groups") or {}).values() if found]
    names = list(next(iter(groups[0].values()))) if groups else []
    return render(
        "model_card",
        meta=meta,
        row=row,
        concepts=_concepts(meta, report),
        performance=_performance(report.get("metrics") or {}),
        group_columns=["group", *names],
        groups=[
            [name, *(_interval(metrics[metric]) for metric in names)]
            for found in groups
            for name, metrics in found.items()
        ],
        bands=_bands(meta.get("risk_thresholds")),
        unit_errors=[
            [name.replace("_", " "), _decimals(report.get(f"{name}_mse"), ".2f")]
            for name in ("test", "linear", "last_value", "median")
        ],
    )


def _concepts(meta: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    without = (report.get("participants") or {}).get("stays_without", {})
    for name in meta["config"]["window"]["concepts"]:
        yield name, BY_NAME[name].unit if name in BY_NAME else MISSING, _decimals(without.get(name), ".0%")


def _performance(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, title in _METRICS.items():
        ours = found.get(name)
        trivial = found.get(f"baseline_{name}")
        yield title, _interval(ours), _interval(trivial), _decimals(ours and ours["n"], ",")


def _bands(cuts: list[float] | None) -> str:
    if not cuts:
        return MISSING
    return ", ".join(f"{band} from {cut:.3f}" for band, cut in zip(RISK_BANDS[1:], cuts, strict=True))


def _decimals(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if not estimate or estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
