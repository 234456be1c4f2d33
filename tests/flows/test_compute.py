"""Shards of a job: the same results whatever computes them, and what becomes of a map whose worker or scheduler dies."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shard_functions
from shard_functions import Marked
from sqlalchemy import text

from flows.jobs.backfill import backfill
from flows.jobs.forecast import forecast
from flows.jobs.train import train
from flows.runtime import compute
from flows.runtime.compute import map_shards
from flows.runtime.log import log
from flows.runtime.settings import load_settings
from flows.shards import open_stays
from rnn_core.contracts import known
from rnn_core.contracts.errors import ForecastError
from rnn_core.forecasters import drivers
from rnn_core.forecasters.stay import load_stay_forecaster

AT = datetime(2026, 1, 19, tzinfo=UTC)
TESTS = Path(shard_functions.__file__).parent


@pytest.fixture
def use(monkeypatch):
    """A function that sets what computes shards; what it started ends with the test."""

    def choose(engine: str) -> None:
        if engine != "inline":
            pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
        monkeypatch.setenv("ICU_COMPUTE", engine)
        load_settings.cache_clear()

    yield choose
    compute.close()
    load_settings.cache_clear()


@pytest.fixture
def start(tmp_path):
    """A function that starts a scheduler or a worker of Dask by hand, as docs/scale.md says, and returns its process."""
    started = []

    def begin(*words: str, **more: str) -> subprocess.Popen:
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "DASK_TEMPORARY_DIRECTORY": str(tmp_path)} | more
        log_file = (tmp_path / f"{words[0]}-{len(started)}.log").open("wb")
        command = [sys.executable, "-m", "dask", *words]
        started.append(
            subprocess.Popen(command, env=environment, stdout=log_file, stderr=log_file, start_new_session=True)
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start_scheduler(start, folder: Path, *more: str) -> tuple[subprocess.Popen, str]:
    """Its process, and the address at which it answers."""
    file = folder / "scheduler.json"
    process = start(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file), *more
    )
    deadline, written = time.monotonic() + 60, ""
    while not written.endswith("}") and time.monotonic() < deadline:
        time.sleep(0.1)
        written = file.read_text().strip() if file.exists() else ""
    return process, json.loads(written)["address"]


@pytest.fixture
def cluster(start, use, tmp_path):
    """A scheduler and two workers by hand, on loopback; the scheduler's process."""
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    scheduler, address = start_scheduler(start, tmp_path)
    start("worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard")
    use(address)
    (tmp_path / "scheduler").write_text(str(scheduler.pid))
    return scheduler


def make_certificates(folder: Path) -> Path:
    """An authority of its own, and a certificate with its key that it signed for this machine."""
    folder.mkdir()
    openssl = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    keys = {name: ["-keyout", f"{name}-key.pem", "-out", f"{name}.pem"] for name in ("ca", "cert")}
    signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    signed += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*openssl, *keys["ca"], "-subj", "/CN=authority"], cwd=folder, check=True, capture_output=True)
    subprocess.run([*openssl, *keys["cert"], "-subj", "/CN=here", *signed], cwd=folder, check=True, capture_output=True)
    (folder / "cert-key.pem").rename(folder / "key.pem")
    return folder


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_a_cluster_over_tls_computes_for_those_with_a_certificate_of_its_authority_only(
    installation, start, use, tmp_path, monkeypatch
):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    ours, others = (make_certificates(tmp_path / name) for name in ("ours", "others"))
    tls = [
        f"--tls-{name}={ours / file}"
        for name, file in (("ca-file", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem"))
    ]
    _, address = start_scheduler(start, tmp_path, "--protocol", "tls", *tls)
    assert address.startswith("tls://127.0.0.1:")
    start("worker", address, *tls, "--nworkers", "2", "--nthreads", "1", "--no-dashboard")
    monkeypatch.setattr(compute, "_ANSWER", 3.0)
    for engine, folder in ((address, others), (address.replace("tls:", "tcp:"), ours)):
        monkeypatch.setenv("ICU_COMPUTE_TLS", str(folder))
        use(engine)
        with pytest.raises(ForecastError, match=r"The scheduler at .* does not answer"):
            map_shards(installation, shard_functions.square, range(4), "squaring")
    monkeypatch.setattr(compute, "_ANSWER", 60.0)
    monkeypatch.setenv("ICU_COMPUTE_TLS", str(ours))
    use(address)
    results = map_shards(installation, shard_functions.square, range(4), "squaring")
    assert [square for square, _ in results] == [0, 1, 4, 9] and os.getpid() not in {worker for _, worker in results}


def marked(folder: Path, n: int = 4) -> list[Marked]:
    return [Marked(number, folder) for number in range(n)]


@pytest.fixture
def lines():
    """What the log got since the test began."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    handler = Keep()
    log.addHandler(handler)
    yield found
    log.removeHandler(handler)


def test_inline_shards_come_in_their_order_with_progress_and_the_first_error_ends_them(installation, use, lines):
    use("inline")
    results = map_shards(installation, shard_functions.square, range(3), "squaring", rows=lambda _: 1000)
    assert results == [(n**2, os.getpid()) for n in range(3)]
    assert lines[0].startswith("squaring: 3 of 3 shards done, ") and "rows/s" in lines[0]
    with pytest.raises(ValueError):
        map_shards(installation, shard_functions.quote_a_patient, range(3), "failing")
    assert compute.describe() == "in the process of the job (ICU_COMPUTE=inline)"


@pytest.mark.parametrize("engine", ["threads", "processes:0", "tcp://host", "http://host:1", "processes:2 "])
def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(use, monkeypatch, engine):
    monkeypatch.setenv("ICU_COMPUTE", engine)
    load_settings.cache_clear()
    with pytest.raises(ForecastError, match=r"ICU_COMPUTE: .*expected inline, processes:4, tcp://host:8786"):
        load_settings()
    monkeypatch.delenv("ICU_COMPUTE")


def test_a_scheduler_that_is_not_there_is_named_and_tls_needs_certificates(installation, use, monkeypatch):
    monkeypatch.setattr(compute, "_ANSWER", 0.5)
    use("tcp://127.0.0.1:1")
    with pytest.raises(ForecastError, match=r"scheduler at tcp://127\.0\.0\.1:1 does not answer"):
        compute.n_workers()
    use("tls://127.0.0.1:1")
    with pytest.raises(ForecastError, match="set ICU_COMPUTE_TLS to a folder"):
        compute.n_workers()


@pytest.mark.soak
def test_local_processes_share_the_shards_and_an_error_ends_them_without_its_text(installation, use):
    """Two shards in two processes of their own; a single one is computed here."""
    use("processes:2")
    results = map_shards(installation, shard_functions.square, range(4), "squaring")
    assert [square for square, _ in results] == [0, 1, 4, 9]
    workers = {worker for _, worker in results}
    assert len(workers) == 2 and os.getpid() not in workers
    assert map_shards(installation, shard_functions.square, [5], "squaring") == [(25, os.getpid())]
    with pytest.raises(ForecastError, match=r"ValueError in shard_functions.py.*its text is omitted") as refused:
        map_shards(installation, shard_functions.quote_a_patient, range(4), "failing")
    assert "4711" not in str(refused.value)
    deadline = time.monotonic() + 20
    while (left := [worker for worker in workers if is_alive(worker)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.soak
def test_a_lost_worker_costs_its_shard_which_is_run_again_three_times_at_most(installation, use, tmp_path):
    use("processes:2")
    once, always = tmp_path / "once", tmp_path / "always"
    once.mkdir(), always.mkdir()
    assert map_shards(installation, shard_functions.die_once, marked(once), "dying") == [0, 1, 2, 3]
    assert len(list(once.glob("1-*"))) == 2
    with pytest.raises(ForecastError, match="Shard 2 of 2 lost its worker 4 times"):
        map_shards(installation, shard_functions.die_always, marked(always, 2), "dying")
    assert len(list(always.glob("1-*"))) == 4


@pytest.mark.soak
def test_a_failed_map_leaves_no_worker_of_a_cluster_busy_and_the_next_one_works(installation, cluster, tmp_path):
    with pytest.raises(ForecastError, match="ValueError in shard_functions"):
        map_shards(installation, shard_functions.wait_long, marked(tmp_path), "waiting")
    waited = [int(file.read_text()) for file in tmp_path.glob("[1-9]-*")]
    assert waited and not any(is_alive(process) for process in waited)
    assert [square for square, _ in map_shards(installation, shard_functions.square, range(4), "squaring")] == [
        0,
        1,
        4,
        9,
    ]
    assert compute.describe().startswith("by 2 workers at tcp://127.0.0.1:")


@pytest.mark.soak
def test_a_scheduler_that_is_killed_ends_the_map_with_a_sentence(installation, cluster, tmp_path):
    with pytest.raises(ForecastError, match=r"The scheduler at tcp://.* was lost"):
        map_shards(installation, shard_functions.kill_the_scheduler, marked(tmp_path), "killing")
    assert cluster.wait(10) == -signal.SIGKILL


@pytest.mark.soak
def test_workers_of_another_version_or_with_another_database_are_refused(installation, cluster, use, monkeypatch):
    expected = compute._expected(installation)
    monkeypatch.setattr(compute, "_expected", lambda _: expected | {"icu-forecast": "older", "numpy": "1.0"})
    with pytest.raises(
        ForecastError, match=r"another version than the job: icu-forecast \w+ \(the job: older\), numpy"
    ):
        map_shards(installation, shard_functions.square, range(2), "squaring")
    monkeypatch.setattr(compute, "_expected", lambda _: expected | {"database": "1/2"})
    with pytest.raises(ForecastError, match="another database than the job"):
        compute.describe()


# ------------------------------------------------------------------------------------------------ forecasts in shards

PUBLISHED = {
    "forecast.stay_forecast": "prediction_time, stay_id",
    "forecast.stay_forecast_driver": "prediction_time, stay_id, rank",
    "forecast.unit_forecast": "prediction_time, unit, horizon_hours",
}


def published_rows(engine) -> dict[str, pd.DataFrame]:
    with engine.connect() as connection:
        return {
            table: pd.read_sql_query(text(f"select * from {table} order by {order}"), connection).drop(columns="run_id")
            for table, order in PUBLISHED.items()
        }


def assert_same(found: dict[str, pd.DataFrame], whole: dict[str, pd.DataFrame]) -> None:
    """Drivers: of the stays that were explained again."""
    all_drivers = whole["forecast.stay_forecast_driver"]
    again = all_drivers["stay_id"].isin(found["forecast.stay_forecast_driver"]["stay_id"])
    for table, rows in (whole | {"forecast.stay_forecast_driver": all_drivers[again].reset_index(drop=True)}).items():
        pd.testing.assert_frame_equal(found[table], rows, rtol=1e-6, atol=1e-6, obj=table)
    assert len(whole["forecast.stay_forecast"]) > 15 and again.sum() > 5


@pytest.fixture
def small_shards(monkeypatch):
    """As many shards of the demo's stays as tens of thousands have, for both scoring and explaining."""
    monkeypatch.setattr(open_stays, "MOST_STAYS", 8)
    monkeypatch.setattr(open_stays, "FEWEST_EXPLAINED", 2)
    highest = drivers.highest
    monkeypatch.setattr(drivers, "highest", lambda risk, limit=4: highest(risk, min(limit, 4)))
    monkeypatch.setattr(compute, "n_workers", lambda: 2)
    monkeypatch.setattr(open_stays, "n_workers", lambda: 2)


@pytest.mark.all_drivers
def test_shards_publish_what_one_pass_over_all_stays_does(published, small_shards, use, lines):
    whole = published_rows(published)
    use("inline")
    forecast.fn("clif", AT)
    assert_same(published_rows(published), whole)
    done = [line for line in lines if "shards done" in line]
    assert done[0].startswith("scoring: 3 of 3") and done[-1].startswith("explaining: 2 of 2")


@pytest.mark.all_drivers
@pytest.mark.soak
def test_local_processes_publish_what_the_process_of_the_job_does(published, small_shards, use):
    whole = published_rows(published)
    use("processes:2")
    forecast.fn("clif", AT)
    assert_same(published_rows(published), whole)


@pytest.mark.all_drivers
@pytest.mark.soak
def test_a_cluster_publishes_what_the_process_of_the_job_does(published, small_shards, cluster):
    whole = published_rows(published)
    forecast.fn("clif", AT)
    assert_same(published_rows(published), whole)


def when_busy(act, shards: str = "") -> threading.Thread:
    """Calls `act` with the address of a worker once one has a shard, of a function whose name begins so, beside the test."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for client in list(compute._clients.values()):
                for worker, keys in client.processing().items():
                    if any(str(key).startswith(shards) for key in keys):
                        act(client, worker)
                        return
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.all_drivers
@pytest.mark.soak
def test_a_worker_that_is_killed_while_it_scores_loses_and_doubles_nothing(published, small_shards, use):
    whole, killed = published_rows(published), []

    def kill(client, worker: str) -> None:
        killed.extend(client.run(os.getpid, workers=[worker]).values())
        os.kill(killed[0], signal.SIGKILL)

    use("processes:2")
    watching = when_busy(kill)
    forecast.fn("clif", AT)
    watching.join()
    assert len(killed) == 1
    assert_same(published_rows(published), whole)


@pytest.mark.soak
def test_a_forecast_whose_scheduler_is_killed_publishes_nothing_and_its_run_says_why(published, small_shards, cluster):
    whole = published_rows(published)
    watching = when_busy(lambda *_: os.kill(cluster.pid, signal.SIGKILL))
    with pytest.raises(ForecastError, match=r"The scheduler at tcp://.* was lost"):
        forecast.fn("clif", AT)
    watching.join()
    for table, rows in published_rows(published).items():
        pd.testing.assert_frame_equal(rows, whole[table])
    with published.connect() as connection:
        newest = connection.execute(text("select status, error from forecast.run order by run_id desc limit 1")).one()
    assert newest.status == "failed" and newest.error.startswith("The scheduler at tcp://127.0.0.1:")


@pytest.mark.soak
def test_slots_of_a_backfill_that_workers_publish_are_those_of_the_job(trained, use):
    def published_by(engine: str) -> dict[str, pd.DataFrame]:
        use(engine)
        counts = backfill.fn("clif", AT - timedelta(hours=2), AT, again=True)
        assert counts["published now"] == 3
        return published_rows(trained)

    inline, by_workers = published_by("inline"), published_by("processes:2")
    for table in ("forecast.stay_forecast", "forecast.unit_forecast"):
        assert len(inline[table]) > 15
        pd.testing.assert_frame_equal(by_workers[table], inline[table], rtol=1e-6, atol=1e-6)
    with trained.connect() as connection:
        ended = connection.execute(text("select status, count(*) from forecast.run where kind = 'backfill' group by 1"))
        assert [tuple(row) for row in ended] == [("published", 6)]


# ------------------------------------------------------------------------------------------------ members in shards


def train_briefly() -> list[np.ndarray]:
    """Weights and trees of a new model."""
    counts = train.fn("clif", AT, warm=False, epochs=2, members=2)
    folder = load_settings().artifact_folder
    assert not (folder / ".checkpoints" / "clif").exists()
    networks, trees = load_stay_forecaster(folder / counts["model"]).model.parts
    return networks.network.get_weights() + [array for fit in trees.fits for array in fit.to_arrays("").values()]


@pytest.mark.soak
def test_members_fitted_by_workers_have_the_weights_that_the_job_would_give_them(trained, use, lines):
    use("inline")
    inline = train_briefly()
    use("processes:2")
    lines.clear()
    by_workers = train_briefly()
    assert all(np.array_equal(a, b) for a, b in zip(inline, by_workers, strict=True))
    # Trees are logged by what was kept of them, a network by each epoch.
    assert not [line for line in lines if ", epoch 1 of 2:" in line], "the job fits no network again"
    assert any(line.startswith("fitting members: 4 of 4 shards done") for line in lines)


@pytest.mark.soak
@pytest.mark.parametrize("shards", ["_compute", "fit_member"])
def test_a_worker_that_is_killed_while_it_writes_material_or_fits_changes_no_weight(trained, use, shards, monkeypatch):
    monkeypatch.setattr(known, "PART_STAYS", 60)
    killed = []

    def kill(client, worker: str) -> None:
        killed.extend(client.run(os.getpid, workers=[worker]).values())
        os.kill(killed[0], signal.SIGKILL)

    use("inline")
    inline = train_briefly()
    use("processes:2")
    watching = when_busy(kill, shards)
    by_workers = train_briefly()
    watching.join()
    assert len(killed) == 1
    assert all(np.array_equal(a, b) for a, b in zip(inline, by_workers, strict=True))
    with trained.connect() as connection:
        ended = connection.execute(text("select status, count(*) from forecast.run where kind = 'train' group by 1"))
        assert [tuple(row) for row in ended] == [("published", 3)]


@pytest.mark.soak
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root mounts a disk")
def test_a_training_whose_workers_have_a_full_disk_ends_with_a_sentence_and_the_next_one_serves(trained, use, tmp_path):
    use("processes:2")
    folder = tmp_path / "artifacts" / ".checkpoints"
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts no disk in memory")
    try:
        with pytest.raises(ForecastError, match=r"cannot be written.*free space") as refused:
            train_briefly()
        left = [path for path in folder.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert left == []
    with trained.connect() as connection:
        newest = connection.execute(text("select status, error from forecast.run order by run_id desc limit 1")).one()
    assert tuple(newest) == ("failed", str(refused.value))
    assert len(train_briefly()) > 5


@pytest.mark.soak
def test_a_training_whose_scheduler_is_killed_ends_with_its_sentence_and_keeps_no_patients_data(
    trained, cluster, tmp_path
):
    words = [
        "train",
        "clif",
        "--as-of",
        AT.isoformat(),
        "--cold",
        "--members",
        "2",
        "--forecaster",
        "recurrent",
        "--direct",
    ]
    training = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words], env=dict(os.environ), stderr=subprocess.PIPE, text=True
    )
    checkpoints, deadline = tmp_path / "artifacts" / ".checkpoints" / "clif", time.monotonic() + 120
    while not (checkpoints / "members").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(cluster.pid, signal.SIGKILL)
    _, error = training.communicate(timeout=120)
    assert training.returncode == 1
    assert error.splitlines()[-1].startswith("icu-forecast: The scheduler at tcp://127.0.0.1:")
    assert not (checkpoints / "members").exists() and not (checkpoints / "material").exists()
    with trained.connect() as connection:
        newest = connection.execute(text("select status, error from forecast.run order by run_id desc limit 1")).one()
    assert newest.status == "failed" and newest.error.startswith("The scheduler at tcp://127.0.0.1:")
