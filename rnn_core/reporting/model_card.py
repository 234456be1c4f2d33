"""The card of a model, written from what is stored with it: the items of TRIPOD+AI that a model can answer.

Collins et al., "TRIPOD+AI statement", BMJ 385, 2024, e078378. What was not stored is said to be missing, never made up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rnn_core.contracts.concepts import BY_NAME
from rnn_core.contracts.thresholds import RISK_BANDS
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.metric import METRICS

MISSING = "not stored"


def write_card(meta: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The card as Markdown.

    meta: `meta.json` of the artifact. row: the model's row of forecast.model.
    """
    of_stays = meta["forecaster"] == "stay"
    items = _STAY_ITEMS if of_stays else _UNIT_ITEMS
    lines = [f"# Model card: {row['model_id']}", "", _status(row), ""]
    for title, say in items.items():
        lines += [f"## {title}", "", *say(meta, row), ""]
    return "\n".join(lines).rstrip() + "\n"


def _status(row: Mapping[str, Any]) -> str:
    stage = f"Stage **{row['stage']}**, version {row['version']}, trained {_told(row['trained_at'])}."
    return f"{stage} {row['stage_reason'] or ''}".strip()


Say = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[str]]


def _title(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"Development of a model that forecasts death and the remaining stay of patients of the source `{row['source']}`, "
        "hour by hour, from what was charted so far."
    )


def _participants(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    who = _metrics(row).get("participants")
    if not who:
        yield MISSING
        return
    quartiles = ", ".join(_told(q) for q in who["age_years_quartiles"])
    yield f"{who['stays']:,} stays of {who['patients']:,} patients, admitted {who['first_admission']} to {who['last_admission']}."
    yield ""
    yield f"- Age, quartiles in years: {quartiles}"
    for column in ("sex", "unit_type", "admission_type", "outcome"):
        yield f"- {column.replace('_', ' ')}: " + ", ".join(f"{name} {n:,}" for name, n in who[column].items())


def _data(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    sampling = meta.get("sampling", {})
    cutoff = _told(row["data_cutoff"])
    yield f"Routine data of the source `{row['source']}`, as known at the cut-off {cutoff} (UTC) and not later."
    if sampling.get("delayed_entry_hours"):
        yield f"The source holds only stays of at least {sampling['delayed_entry_hours']:g} hours; the likelihood respects it."
    if sampling.get("data_hours"):
        yield f"Its observations stop {sampling['data_hours']:g} hours after admission; the model says nothing later."


def _preparation(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    window = meta["config"]["window"]
    yield (
        "Rows outside plausible ranges, doubled or unreadable are quarantined before. Values enter an hourly grid in the "
        "hour in which they became available, are scaled by the mean and deviation of the learned stays and cut at four "
        f"deviations. A forecast needs {window['min_observations']} observations, {window['first_hour']} hours in the unit and "
        f"something heard within {window['stale_hours']:g} hours; otherwise the model abstains with a reason."
    )


def _outcome(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"How and when the stay in the {meta.get('ends_at', MISSING)} ends: alive or dead, in "
        f"{len(meta['config']['network']['horizon_edges'])} horizon bins. As charted; nobody assessed it for this purpose. "
        "Open stays are censored where they were last heard of."
    )


def _predictors(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    missing = (_metrics(row).get("participants") or {}).get("stays_without", {})
    yield "Age, sex, height, weight, admission type and unit type; hours in the unit and hour of the day; and the concepts"
    yield ""
    yield from _table(
        ("concept", "unit", "stays without any"),
        (
            (name, BY_NAME[name].unit if name in BY_NAME else MISSING, _share(missing.get(name)))
            for name in meta["config"]["window"]["concepts"]
        ),
    )


def _sample_size(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    stays, deaths = (_metrics(row).get(name) for name in ("n_stays", "n_deaths"))
    if not stays or not deaths:
        yield MISSING
        return
    yield ", ".join(f"{part} {n:,} stays ({deaths[part]:,} deaths)" for part, n in stays.items()) + "."
    yield "All that the source held; no size was calculated before."


def _missing_data(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "The last value is carried forward, with its age and a mark of whether it is new; what was never measured is the "
        "mean, marked as such. Nothing is imputed from other patients."
    )


def _methods(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    network, train = meta["config"]["network"], meta["config"]["train"]
    units = ", ".join(map(str, network["units"]))
    yield (
        f"Discrete-time competing risks by {train['folds']} recurrent networks ({network['cell']}, {units} units), each "
        f"stopped by a fold of patients that it did not learn from; a cross-entropy on death weighs {train['death_weight']:g}. "
        f"Calibration out of fold: {_told(meta.get('calibration'))}. Started from: {row.get('warm_from') or 'random weights'}."
    )
    best = _metrics(row).get("best_epochs")
    yield f"Best epochs: {', '.join(map(str, best)) if best else MISSING}. Seed {train['seed']}."


def _imbalance(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield "Deaths are neither resampled nor weighted; the calibration step sets their level."


def _fairness(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    groups = {k: v for k, v in (_metrics(row).get("groups") or {}).items() if v}
    if not groups:
        yield f"By age, sex and unit type: {MISSING}, or no group was large enough. Ethnicity and language are not read."
        return
    yield "On stays that had no part in the fit. Ethnicity and language are not read."
    yield ""
    names = list(next(iter(next(iter(groups.values())).values())))
    rows = (
        (group, *(METRICS[name].show(Estimate.from_json(metrics[name])) for name in names))
        for found in groups.values()
        for group, metrics in found.items()
    )
    yield from _table(("group", *(METRICS[name].label for name in names)), rows)


def _output(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    cuts = meta.get("risk_thresholds")
    bands = (
        ", ".join(f"{band} from {cut:.3f}" for band, cut in zip(RISK_BANDS[1:], cuts, strict=True)) if cuts else MISSING
    )
    yield (
        "Per stay and hour: probability of death at any time, of a stay over 7 days, of a discharge within 24, 48 and 72 "
        f"hours, and quantiles of the remaining stay, all read off one distribution. Risk bands: {bands}."
    )


def _evaluation(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Judged on the same source only: patients who had no part in the fit, most of them admitted after the cut-off, every "
        "6 hours of their stays. Another hospital is another question."
    )


def _performance(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    found = _metrics(row).get("metrics") or {}
    yield "With 95 % intervals over patients, beside what one would say without a model."
    yield ""
    rows = []
    for metric in METRICS.values():
        if not metric.one_per_stay:
            ours, trivial = (Estimate.from_json(found.get(name)) for name in (metric.name, f"baseline_{metric.name}"))
            n = f"{ours.n:,}" if metric.name in found else MISSING
            rows.append((metric.label, metric.show(ours), metric.show(trivial), n))
    yield from _table(("metric", "model", "without a model", "forecasts"), rows)


def _updating(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield "Trained anew on a schedule; a successor serves only if it is not worse on stays that neither has learned from."


def _limits(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "For planning and review by those who know the patients; no medical device, no alarm, no statement on a person, "
        "nothing causal. docs/intended-use.md says it at length."
    )


def _openness(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in meta.get("versions", {}).items())
    yield f"Code under Apache-2.0, revision {meta.get('git_revision') or MISSING}; {versions or MISSING}."
    yield f"Artifact `{row['artifact']}`, concepts {meta.get('concept_hash') or MISSING}. The data stay with the source."
    yield "Funding, ethics approval, registration and the part that patients had: for the installation to say."


def _of_units(meta: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    report = _metrics(row)
    yield (
        "The next lengths of stay of each unit from its last ones: two LSTM layers with squared error. It speaks of units, "
        "never of a patient."
    )
    yield ""
    errors = {name: report.get(f"{name}_mse") for name in ("test", "linear", "last_value", "median")}
    rows = ((name.replace("_", " "), MISSING if mse is None else f"{mse:.2f}") for name, mse in errors.items())
    yield from _table(("on the newest windows", "mean squared error, days²"), rows)


_STAY_ITEMS: dict[str, Say] = {
    "Title": _title,
    "Intended use and limits": _limits,
    "Source of data": _data,
    "Participants": _participants,
    "Data preparation": _preparation,
    "Outcome": _outcome,
    "Predictors": _predictors,
    "Sample size": _sample_size,
    "Missing data": _missing_data,
    "Analytical methods": _methods,
    "Class imbalance": _imbalance,
    "Fairness": _fairness,
    "Model output": _output,
    "Training versus evaluation": _evaluation,
    "Performance": _performance,
    "Updating": _updating,
    "Openness": _openness,
}
_UNIT_ITEMS: dict[str, Say] = {"Performance": _of_units, "Intended use and limits": _limits, "Openness": _openness}


def _metrics(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row["metrics"] or {}


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    for cells in rows:
        yield "| " + " | ".join(cells) + " |"


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0%}"


def _told(value: Any) -> str:
    return MISSING if value is None else str(value)
