"""A model on sources that it was not trained on: how good it is there, and a copy recalibrated to one of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.jobs.start import learned_from, load_stay_model
from flows.runtime.databases import open_store
from flows.runtime.log import log
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.known import Known
from rnn_core.contracts.thresholds import LANDMARK_HOURS as HOURS
from rnn_core.statistics.bootstrap import estimates_to_json
from sql.published import canonical, registry

if TYPE_CHECKING:
    from rnn_core.evaluation.transfer import Transferred


def measure_transfer(
    model_id: str, sources: Sequence[str], as_of: datetime, hours: Sequence[int] = HOURS
) -> list[dict[str, Any]]:
    """A row per source and hour of the stay: first the model's own source, on stays that it did not learn from, then each
    of `sources`, with the loss against its own. Nothing is stored.

    Raises ForecastError if the model is not a stay model or has learned from one of `sources`, or if a source has nothing
    to evaluate it on.
    """
    store = open_store()
    row, forecaster = load_stay_model(store, model_id)
    learned_there = {row["source"], *(one["source"] for one in learned_from(store, row))}
    if learned := set(sources) & learned_there:
        raise ForecastError(
            f"{model_id} has learned from {', '.join(sorted(learned))}, so this is no transfer; its own source is evaluated "
            "on held-out stays in the first rows anyway."
        )
    from rnn_core.evaluation.drift import concepts_elsewhere
    from rnn_core.evaluation.holdout import unseen
    from rnn_core.evaluation.transfer import judge_transfer

    home = canonical.read_known(store, row["source"], as_of)
    judged, _ = unseen(home, canonical.read_known(store, row["source"], row["data_cutoff"]))
    at_home = judge_transfer(forecaster, home.take(judged), hours)
    rows = [_row(f"{row['source']} (held out)", found, None) for found in at_home]
    for source in sources:
        known = _require_stays(canonical.read_known(store, source, as_of), source)
        absent, other_unit = concepts_elsewhere(row["metrics"].get("participants", {}), known)
        log.info("%s has no %s", source, ", ".join(absent) or "concept less than the model learned from")
        if other_unit:
            log.warning("%s: charted in another unit than in training? %s", source, ", ".join(other_unit))
        found = zip(judge_transfer(forecaster, known, hours), at_home, strict=True)
        rows += [_row(source, *pair) | {"missing": len(absent), "other unit": ", ".join(other_unit)} for pair in found]
    return rows


def _require_stays(known: Known, source: str) -> Known:
    if len(known.stays) == 0:
        raise ForecastError(f"No stay of {source} is known; run `icu-forecast ingest {source}` first.")
    return known


def _row(source: str, found: "Transferred", at_home: "Transferred | None") -> dict[str, Any]:
    from rnn_core.evaluation.transfer import drop
    from rnn_core.statistics.metric import METRICS

    shown: dict[str, Any] = {
        "source": source,
        "hour": found.hour,
        "stays": found.n_stays,
        "deaths": found.n_deaths,
        "outcome not known": found.n_open,
    }
    shown |= {_short(name): METRICS[name].show(estimate) for name, estimate in found.as_trained.items()}
    share = found.n_deaths / max(found.n_stays, 1)
    shown["brier without a model"] = round(share * (1 - share), 3)
    for name in ("mortality_brier", "mortality_observed_expected", "mortality_calibration_slope"):
        shown[f"{_short(name)} recalibrated"] = METRICS[name].show(found.recalibrated[name])
    lost = drop(*(part.as_trained["mortality_auroc"] for part in (found, at_home))) if at_home else None
    return shown | {"auroc lost": lost.show() if lost else "", "missing": 0, "other unit": ""}


def _short(name: str) -> str:
    """A metric's column: all of them are of death here."""
    return name.removeprefix("mortality_")


def recalibrate(model_id: str, source: str, as_of: datetime, hours: Sequence[int] = HOURS) -> dict[str, Any]:
    """Register a copy of a model for `source`, its risk of death fitted to the stays that have ended there by `as_of`.

    It is registered as a candidate; `models promote` lets it serve, as provisional if nothing serves yet. Raises
    ArtifactError if the stays of the source have another `ends_at` than the model's, DataTooSmallError without deaths or
    survivors to fit to.
    """
    store = open_store()
    row, forecaster = load_stay_model(store, model_id)
    from rnn_core.evaluation.transfer import judge_transfer, recalibrated
    from rnn_core.forecasters.stay import save_stay_forecaster

    known = _require_stays(canonical.read_known(store, source, as_of), source)
    fitted, n_deaths = recalibrated(forecaster, known, hours)
    judged = judge_transfer(forecaster, known, hours)
    folder = load_settings().artifact_folder
    number = 1 + sum(one["name"] == "stay" for one in registry.list_models(store, source))
    new_id = f"{source}-stay-{as_of:%Y%m%dT%H}-from-{row['source']}-{number}"
    metrics = {
        "recalibrated_from": model_id,
        "learned_from": learned_from(store, row),
        "participants": row["metrics"].get("participants", {}),
        "metrics": estimates_to_json(judged[-1].recalibrated),
        "risk_thresholds": list(forecaster.risk_thresholds),
    }
    cutoff = str(known.as_of)
    meta = {"data_cutoff": cutoff, "as_of": cutoff, "metrics": metrics, "learned_from": metrics["learned_from"]}
    path = save_stay_forecaster(folder, new_id, fitted, meta)
    with store.begin() as connection:
        registry.register(
            connection,
            {
                "model_id": new_id,
                "name": "stay",
                "source": source,
                "ends_at": row["ends_at"],
                "config": row["config"],
                "metrics": metrics,
                "data_cutoff": as_of,
                "artifact": str(path.relative_to(folder)),
                "warm_from": model_id,
            },
        )
    shown = {"model": new_id, "stage": "candidate", "patients who died, fitted to": n_deaths}
    for found in judged:
        before, after = (
            part["mortality_observed_expected"].show(digits=2) for part in (found.as_trained, found.recalibrated)
        )
        shown[f"observed to expected at {found.hour} h"] = f"{before}, recalibrated out of fold {after}"
    return shown
