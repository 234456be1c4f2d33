"""The windows that a model learns from, as Parquet files with the names of their channels, scaler and labels."""

import json
import os
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine

from flows.inspection.export_folder import complete_folder
from flows.jobs.train import cutoff_of
from flows.runtime.databases import adapter_name
from flows.runtime.log import log
from flows.runtime.settings import load_settings
from flows.shards.stored_stays import read_some
from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.frames import Labels, Windows
from rnn_core.contracts.known import parts_of
from rnn_core.series.mapped import release
from rnn_core.series.material import Material
from rnn_core.series.scaling import STATIC_NAMES, Scaler
from rnn_core.series.splits import patient_folds, split_stays
from rnn_core.series.windows import channel_names
from sql.intake.adapter import load_adapter
from sql.published import registry

if TYPE_CHECKING:
    from rnn_core.forecasters.stay import StayForecaster

# Hours that are in memory at a time, and in a row group of a file.
_BLOCK = 32_768


def export_windows(
    store: Engine, source: str, out: Path, as_of: datetime, model_id: str | None = None
) -> dict[str, Any]:
    """Write the folder `out`: of every 1,000 stays a file each of `stays`, `windows` and `hours`, and `metadata.json`. It is
    complete or not there. Returns counts.

    model_id: windows and scaler are those of this stay model; by default those of a training on what is known at `as_of`.
    Raises DataTooSmallError if the source has no stays yet, ForecastError if the folder is not empty or cannot be written.
    """
    from rnn_core.forecasters.training_material import build_material

    known = read_some(store, source, as_of)
    model = _model(store, model_id) if model_id else None
    # Trees read nothing beside the windows.
    config = replace(model.config if model else ModelConfig(), forecaster="trees")
    cutoff = cutoff_of(known.stays)
    split = split_stays(known.stays, cutoff.to_datetime64())
    learned = split.learned & known.sound
    sampling = load_adapter(adapter_name(source)).sampling
    completed = (lambda _: model.scaler) if model else (lambda fitted: fitted)
    # Workers write there too.
    work = load_settings().artifact_folder / ".windows" / f"{source}-{os.getpid()}"
    try:
        with complete_folder(out) as folder:
            material, scaler = build_material(known, learned, config, sampling, work, completed)
            part = np.select([learned, split.judged & known.sound], ["learned", "judged"], "none")
            n_hours = _write_shards(folder, material, config, part)
            facts = {"source": source, "as_of": as_of.isoformat(), "cutoff": str(cutoff), "model": model_id}
            text = json.dumps(facts | _metadata(config, scaler), indent=2)
            (folder / "metadata.json").write_text(text + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "stays": len(known.stays),
        "learned": int(learned.sum()),
        "windows": len(material.windows),
        "hours": n_hours,
    }


def _model(store: Engine, model_id: str) -> "StayForecaster":
    from rnn_core.forecasters.stay import load_stay_forecaster

    row = registry.read_model(store, model_id)
    if row["name"] != "stay":
        raise ForecastError(
            f"{model_id} reads no windows of stays; a stay model was expected (`icu-forecast models list`)."
        )
    return load_stay_forecaster(load_settings().artifact_folder / row["artifact"])


def _write_shards(folder: Path, material: Material, config: ModelConfig, part: np.ndarray) -> int:
    windows, stays = material.windows, material.known.stays
    for name in ("stays", "windows", "hours"):
        (folder / name).mkdir()
    fold, died, parts = (
        patient_folds(stays["patient_id"], config.train.folds),
        material.settled_death,
        parts_of(len(stays)),
    )
    for number, shard in enumerate(parts):
        file, first, stop = f"{number:05d}.parquet", *windows.offsets[[shard.start, shard.stop]].tolist()
        own = stays[shard].reset_index(drop=True)
        columns = {name: own[name] for name in ("stay_id", "patient_id", "intime", "outtime", "outcome")}
        columns |= {"part": part[shard], "fold": fold[shard], "hours": np.diff(windows.offsets)[shard]}
        columns |= dict(zip(STATIC_NAMES, windows.static[shard].T, strict=True))
        _write(folder / "stays" / file, columns)
        _write(folder / "windows" / file, _windows_of(windows, shard, own["stay_id"].to_numpy(), first))
        _write_hours(folder / "hours" / file, material, config, died, first, stop)
        log.info("%d of %d files, %s hours", number + 1, len(parts), f"{stop:,}")
    return int(windows.offsets[-1])


def _windows_of(windows: Windows, shard: slice, stay_id: np.ndarray, first: int) -> dict[str, Any]:
    """Rows of the hours of the same file, counted from 0."""
    mine = np.flatnonzero((windows.stay >= shard.start) & (windows.stay < shard.stop))
    rows = {name: getattr(windows, name)[mine] - first for name in ("start", "stop", "score_from")}
    return {"stay_id": stay_id[windows.stay[mine] - shard.start], **rows}


def _write_hours(path: Path, material: Material, config: ModelConfig, died: np.ndarray, first: int, stop: int) -> None:
    writer = None
    try:
        for begin in range(first, max(stop, first + 1), _BLOCK):
            rows = slice(begin, min(begin + _BLOCK, stop))
            table = pa.table(_hours(material.windows, material.labels, material, config, died, rows))
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            release(material.windows.channels, material.labels.weights, material.labels.entry)
    finally:
        if writer is not None:
            writer.close()


def _hours(
    windows: Windows, labels: Labels, material: Material, config: ModelConfig, died: np.ndarray, rows: slice
) -> dict[str, Any]:
    number = np.arange(rows.start, rows.stop)
    stay = windows.stay_of(number)
    return {
        "stay_id": pa.array(material.known.stays["stay_id"].to_numpy()[stay], pa.string()),
        "hours_in_stay": windows.prediction_hour[rows],
        **dict(zip(channel_names(config.window), np.array(windows.channels[rows]).T, strict=True)),
        "usable": labels.usable[rows],
        "died": _or_null(died[rows]),
        "remaining_hours": _or_null(labels.remaining_hours[rows]),
        "weights": _lists(labels.weights[rows]),
        "entry": _lists(labels.entry[rows, :, 0]),
    }


def _or_null(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _lists(values: np.ndarray) -> pa.Array:
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.array(values).reshape(-1)), width)


def _write(path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path, compression="zstd")


def _metadata(config: ModelConfig, scaler: Scaler) -> dict[str, Any]:
    return {
        "channels": channel_names(config.window),
        "static": list(STATIC_NAMES),
        "causes": ["alive", "died"],
        "horizon_edges_hours": list(config.network.horizon_edges),
        "window": config.window.to_json(),
        "folds": config.train.folds,
        "scaler": scaler.to_json(),
    }
