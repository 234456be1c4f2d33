"""The card of a model, written from what is stored with it: the items of TRIPOD+AI that a model can answer.

Collins et al., "TRIPOD+AI statement", BMJ 385, 2024, e078378. The text is in `templates/model_card.md.j2`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rnn_core.contracts.concepts import BY_NAME
from rnn_core.contracts.thresholds import RISK_BANDS
from rnn_core.reporting.markdown import MISSING, render
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import METRICS


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
        group_columns=["group", *(METRICS[name].label for name in names)],
        groups=[
            [group, *(_shown(name, metrics) for name in names)] for found in groups for group, metrics in found.items()
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
    for name, metric in METRICS.items():
        if not metric.one_per_stay:
            n = _decimals(found[name]["n"] if name in found else None, ",")
            yield metric.label, _shown(name, found), _shown(name, found, "baseline_"), n


def _shown(name: str, found: Mapping[str, Any], prefix: str = "") -> str:
    return METRICS[name].show(Estimate.from_json(found.get(prefix + name)))


def _bands(cuts: list[float] | None) -> str:
    if not cuts:
        return MISSING
    return ", ".join(f"{band} from {cut:.3f}" for band, cut in zip(RISK_BANDS[1:], cuts, strict=True))


def _decimals(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)
