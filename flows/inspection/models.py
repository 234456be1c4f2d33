"""The registered models for people: a list, the differences between two, a card."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.runtime.databases import open_store
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from sql.published import registry


def list_models(source: str | None) -> list[dict[str, Any]]:
    """One row per model with its main properties."""
    return [
        {
            "model_id": row["model_id"],
            "source": row["source"],
            "name": row["name"],
            "forecaster": _kind(row),
            "members": _members(row),
            "version": row["version"],
            "stage": row["stage"],
            "data_cutoff": row["data_cutoff"],
            "trained_at": row["trained_at"],
            **_main_metrics(row["metrics"]),
            "reason": row["stage_reason"],
        }
        for row in registry.list_models(open_store(), source)
    ]


def _kind(row: Mapping[str, Any]) -> str | None:
    """Kind of a stay forecaster, and of a blend its parts; version 0.1.0 wrote none and had one."""
    if row["name"] != "stay":
        return None
    kind = row["config"].get("forecaster", "recurrent")
    if kind != "blend":
        return kind
    *others, last = row["config"]["blend"]
    return f"blend of {', '.join(others)} and {last}"


def _members(row: Mapping[str, Any]) -> int | None:
    """Members of each kind, one per fold of the patients."""
    return row["config"]["train"]["folds"] if row["name"] == "stay" else None


def diff_models(first: str, second: str) -> list[dict[str, Any]]:
    """One row per difference between two models: origin, settings, metrics."""
    store = open_store()
    a, b = (_flat(registry.read_model(store, model_id)) for model_id in (first, second))
    names = [*a, *(name for name in b if name not in a)]
    differing = [name for name in names if a.get(name) != b.get(name)]
    return [{"what": name, first: _short(a.get(name)), second: _short(b.get(name))} for name in differing]


def _short(value: Any) -> Any:
    """A value that fits into a cell; for a list, such as a learning curve, its length."""
    return f"({len(value)} values)" if isinstance(value, Sequence) and not isinstance(value, str) else value


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; for an estimate its value only."""
    flat: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping) and "value" not in part:
            flat |= _flat(part, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = part["value"] if isinstance(part, Mapping) else part
    return flat


def model_card(model_id: str) -> str:
    """The card of a model as Markdown. Raises ForecastError if there is no such model or its artifact is damaged."""
    from rnn_core.forecasters.artifact import read_meta
    from rnn_core.reporting.model_card import write_card

    rows = [row for row in registry.list_models(open_store(), None) if row["model_id"] == model_id]
    if not rows:
        raise ForecastError(f"There is no model {model_id}; see `icu-forecast models list`.")
    return write_card(read_meta(load_settings().artifact_folder / rows[0]["artifact"]), rows[0])


def _main_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    judged = metrics.get("metrics", {})
    of_stays = {name: judged.get(name, {}).get("value") for name in ("mortality_auroc", "los_mae_days")}
    return of_stays | {"test_mse": metrics.get("test_mse")}
