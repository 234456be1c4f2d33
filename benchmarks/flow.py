"""The whole forecast flow over 4,000 open stays in a process of its own: wall time and peak memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.stage import AS_OF, SOURCE, Row, Stage
from rnn_core.contracts.concepts import NAMES, concept_hash
from rnn_core.contracts.config import ModelConfig, NetworkConfig
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.stay import StayForecaster, save_stay_forecaster
from rnn_core.network.build import build_ensemble, build_network
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import make_windows
from rnn_core.statistics.calibration import Calibration
from sql.published import canonical, registry

# Not getrusage: after an exec its peak still holds that of the parent.
SCRIPT = """
import json, re
from datetime import datetime
from time import perf_counter, process_time
import great_expectations
from flows.jobs.forecast import forecast
begun, start_up = perf_counter(), process_time()
counts = forecast.fn({source!r}, datetime.fromisoformat({as_of!r}))
print(json.dumps({{"seconds": perf_counter() - begun, "cpu": process_time() - start_up, "start_up": start_up,
                  "stays": counts["stays_scored"],
                  "peak_kib": int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])}}))
"""


def run(stage: Stage) -> Iterator[Row]:
    register_untrained(stage)
    script = SCRIPT.format(source=SOURCE, as_of=AS_OF.isoformat())
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env={**os.environ}
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    yield Row(
        f"forecast flow, {found['stays']:,} stays scored and published",
        f"{found['seconds']:.1f} s, CPU {found['cpu']:.1f} s, after a start-up of CPU {found['start_up']:.1f} s (imports); "
        f"peak {found['peak_kib'] / 2**20:.2f} GB",
        "",
        "",
        "8 s, 2 GB",
    )


def register_untrained(stage: Stage) -> None:
    """Weights do not matter for the time: an ensemble of the default size serves untrained."""
    known = canonical.read_known(stage.store, SOURCE, AS_OF, only_open=True)
    stays, grid = known.stays, make_grid(known.stays, known.observations, known.as_of)
    scaler = fit_scaler(grid, static_features(stays), np.arange(len(stays)))
    windows = make_windows(grid, stays, scaler, ModelConfig().window)
    network = NetworkConfig(
        n_channels=windows.channels.shape[1], n_concepts=len(NAMES), n_static=windows.static.shape[1]
    )
    config = ModelConfig(network=network)
    model = build_ensemble([build_network(network) for _ in range(config.train.folds)])
    ensemble = RecurrentEnsemble(Networks.of(model), network.horizon_edges)
    forecaster = StayForecaster(ensemble, scaler, config, Calibration(), "hospital")
    folder = save_stay_forecaster(stage.home / "artifacts", "untrained", forecaster, {})
    row = {
        "model_id": "untrained",
        "name": "stay",
        "source": SOURCE,
        "artifact": folder.name,
        "config": config.to_json(),
        "metrics": {},
        "data_cutoff": pd.Timestamp(AS_OF).to_pydatetime(),
        "concept_hash": concept_hash(),
    }
    with stage.store.begin() as connection:
        registry.register(connection, row)
    registry.set_stage(stage.store, "untrained", "champion", "benchmark")
