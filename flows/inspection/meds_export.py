"""What is known and what was published of a source as files in the form of MEDS, for tools that read it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from flows.inspection.export_folder import complete_folder
from flows.runtime.log import log
from rnn_core.contracts.concepts import CONCEPTS
from rnn_core.contracts.errors import DataTooSmallError
from sql.published import canonical, events
from sql.published.canonical import Shard

MEDS_VERSION = "0.4.1"
# A shard is sorted in the database and streamed from there: its size is that of a file.
_PATIENTS_PER_FILE = 1000
_PREDICTIONS = pa.schema(
    {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "boolean_value": pa.bool_(),
        # No threshold is published; meds-evaluation wants the column all the same.
        "predicted_boolean_value": pa.bool_(),
        "predicted_boolean_probability": pa.float32(),
    }
)


def export_meds(store: Engine, source: str, out: Path, as_of: datetime) -> dict[str, int]:
    """Write the folder `out`: data, metadata, and the predictions of each model. It is complete or not there.

    Returns counts. Raises DataTooSmallError if the source has no stays yet, ForecastError if the folder is not empty or
    cannot be written.
    """
    with complete_folder(out) as folder:
        return _write_data(store, source, folder, as_of) | _write_predictions(store, source, folder, as_of)


def _write_data(store: Engine, source: str, folder: Path, as_of: datetime) -> dict[str, int]:
    n_patients, ingested_by = events.count_patients(store, source, as_of)
    if ingested_by is None or not n_patients:
        raise DataTooSmallError(f"No stay of {source} is known at {as_of:%Y-%m-%dT%H:%M}Z; ingest it first.")
    (folder / "data").mkdir()
    codes: set[str] = set()
    n_events, n_files = 0, -(-n_patients // _PATIENTS_PER_FILE)
    for number in range(n_files):
        with pq.ParquetWriter(folder / "data" / f"{number}.parquet", events.SCHEMA, compression="zstd") as file:
            for rows in events.read_events(store, source, as_of, ingested_by, Shard(number, n_files)):
                file.write_batch(rows)
                codes.update(rows["code"].unique().to_pylist())
                n_events += len(rows)
        log.info("%d of %d files, %s events", number + 1, n_files, f"{n_events:,}")
    _write_metadata(source, folder / "metadata", codes, as_of)
    return {"patients": n_patients, "events": n_events, "codes": len(codes)}


def _write_metadata(source: str, folder: Path, codes: set[str], as_of: datetime) -> None:
    folder.mkdir()
    dataset = {
        "dataset_name": source,
        "dataset_version": f"known at {as_of.isoformat()}",
        "etl_name": "icu-forecast",
        "meds_version": MEDS_VERSION,
        "created_at": datetime.now(UTC).isoformat(),
        "raw_source_id_columns": ["stay_id"],
        "other_extension_columns": ["available_at"],
    }
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=2), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([_describe(code) for code in sorted(codes)], _CODES), folder / "codes.parquet")


_CODES = pa.schema({"code": pa.string(), "description": pa.string(), "parent_codes": pa.list_(pa.string())})
_CONCEPTS = {concept.name: concept for concept in CONCEPTS}


def _describe(code: str) -> dict[str, str | list[str] | None]:
    concept = _CONCEPTS.get(code)
    if concept is None:
        return {"code": code, "description": events.CODES[code.partition("//")[0]], "parent_codes": None}
    parents = [f"LOINC/{concept.loinc}"] if concept.loinc else None
    return {"code": code, "description": f"{code.replace('_', ' ')}, {concept.unit}", "parent_codes": parents}


def _write_predictions(store: Engine, source: str, folder: Path, as_of: datetime) -> dict[str, int]:
    """A file per model and risk, with the rows that the scorecard judges."""
    pairs = canonical.read_outcome_pairs(store, source, as_of)
    n = 0
    for model_id, of_model in pairs.groupby("model_id"):
        for risk, rows in _predictions(of_model):
            (folder / "predictions" / str(model_id)).mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, folder / "predictions" / str(model_id) / f"{risk}.parquet", compression="zstd")
            n += len(rows)
    return {"predictions": n}


def _predictions(pairs: pd.DataFrame) -> Iterator[tuple[str, pa.Table]]:
    """By risk, the predictions of one model whose outcome is known; none of a risk that it does not forecast."""
    from rnn_core.evaluation.scorecard import published_outcomes
    from rnn_core.statistics.metric import METRICS

    happened = published_outcomes(pairs).columns()
    subjects = pairs["patient_id"].map({name: events.subject_id(name) for name in pairs["patient_id"].unique()})
    for metric in METRICS.values():
        risk = metric.name.removesuffix("_auroc")
        if risk == metric.name:
            continue
        (outcome,), (forecast,) = metric.happened, metric.forecast
        rows = pd.DataFrame(
            {
                "subject_id": subjects,
                "prediction_time": pairs["prediction_time"].dt.tz_convert("UTC").dt.tz_localize(None),
                "boolean_value": happened[outcome],
                "predicted_boolean_value": None,
                "predicted_boolean_probability": pairs[forecast],
            }
        ).dropna(subset=["boolean_value", "predicted_boolean_probability"])
        if len(rows):
            rows = rows.astype({"boolean_value": bool}).sort_values(["subject_id", "prediction_time"])
            yield risk, pa.Table.from_pandas(rows, _PREDICTIONS, preserve_index=False).replace_schema_metadata()
