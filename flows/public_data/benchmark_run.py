"""What every benchmark on published data shares: its own installation, the settings of the fits, and the files it writes."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from flows.pages.page import write_text
from flows.runtime.databases import open_source, open_store
from flows.runtime.log import log
from flows.runtime.settings import load_settings, own_home
from rnn_core.contracts.config import ModelConfig, Sampling


@dataclass(frozen=True)
class Installation:
    """Source database, its schema, store, and how the source is sampled."""

    source: Engine
    schema: str
    store: Engine
    sampling: Sampling


@contextmanager
def temporary_installation(source: str) -> Iterator[Installation]:
    """An installation that exists only during the run."""
    from sql.store import embedded

    with tempfile.TemporaryDirectory(prefix="icu-benchmark-") as folder, own_home(Path(folder)):
        adapter, engine = open_source(source, writable=True)
        try:
            yield Installation(engine, adapter.schemas["schema"], open_store(), adapter.sampling)
        finally:
            embedded.stop(load_settings().cluster_folder)


def configure(seed: int, epochs: int | None, members: int | None) -> ModelConfig:
    """The default model, with the seed and, if given, the bounds of a quick look."""
    config = ModelConfig()
    fit = replace(config.train, seed=seed, epochs=epochs or config.train.epochs, folds=members or config.train.folds)
    return replace(config, train=fit)


def write_files(outcome: Any, json_file: Path | None, report: Path | None, build_page: Callable[[Any], str]) -> None:
    """Write the figures (`outcome.to_json()`) and the page, if requested."""
    if json_file is not None:
        write_text(json_file, json.dumps(outcome.to_json(), indent=1, allow_nan=False) + "\n")
        log.info("figures written to %s", json_file)
    if report is not None:
        write_text(report, build_page(outcome))
        log.info("page written to %s", report)
