"""Maps a function over shards of a job's work: in this process, in local processes, or on a Dask cluster (`ICU_COMPUTE`)."""

import atexit
import hashlib
import logging
import platform
import queue
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from flows.runtime.databases import open_store
from flows.runtime.log import log
from flows.runtime.settings import load_settings, quiet_environment
from flows.runtime.steps import StepFailed, check_still_open, is_broken_connection, safe_sentence
from rnn_core.contracts.errors import ForecastError
from sql.store.health import identity

if TYPE_CHECKING:
    from distributed import Client, Future

INLINE, LOCAL = "inline", "processes:"
# How often a shard whose worker is lost is run again; as Dask's own default.
RERUNS = 3
# Seconds: between two lines of progress, between two looks at the cluster, without any worker before a map ends, for a
# cluster to answer, and for workers to end the shards of a map that was cancelled.
_REPORT, _LOOK, _NO_WORKER, _ANSWER, _GRACE = 5.0, 5.0, 60.0, 20.0, 5.0
_PACKAGES = ("distributed", "numpy", "pandas", "pyarrow", "keras", "tensorflow", "scikit-learn")
_ROOT = Path(__file__).resolve().parents[2]

S = TypeVar("S")
R = TypeVar("R")


def map_shards(
    store: Engine,
    function: Callable[[Engine, S], R],
    shards: Sequence[S],
    what: str,
    rows: Callable[[R], int] = lambda _: 0,
) -> list[R]:
    """`function(store, shard)` of each shard, in the order of `shards`; a single one is computed in this process.

    function: of a module, since workers import it; it gets our database as the process that runs it knows it, and is run
        again if its worker is lost: it reads, or writes files that it renames into place. what, rows: for the progress
        in the log, how many rows a result stands for.

    The first error of a shard ends the map and cancels the rest. Errors of libraries are replaced by StepFailed. Raises
    ForecastError if the cluster is lost, has another version, or lost the workers of a shard `RERUNS` + 1 times.
    """
    remote = len(shards) > 1 and _has_workers()
    arriving = _on_workers(_client(), store, function, shards) if remote else _inline(store, function, shards)
    results: list[Any] = [None] * len(shards)
    progress = _Progress(what, len(shards))
    with closing(arriving):
        for number, result in arriving:
            results[number] = result
            progress.add(rows(result))
            check_still_open()
    return results


def n_workers() -> int:
    """How many shards are computed at a time. Raises ForecastError if the cluster does not answer or has no worker."""
    return len(_workers(_client())) if _has_workers() else 1


def _has_workers() -> bool:
    """A worker has none of its own: it would wait for itself."""
    return load_settings().compute != INLINE and not _running


def describe() -> str:
    """What computes the shards, for people. Raises ForecastError if it cannot."""
    compute = load_settings().compute
    if compute == INLINE:
        return "in the process of the job (ICU_COMPUTE=inline)"
    _import_distributed()
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    if compute.startswith(LOCAL):
        n = int(compute.removeprefix(LOCAL))
        return f"in {n} local processes of {MEMORY_LIMIT / n / 1e9:.1f} GB each, on {CPU_COUNT} cores"
    client = _client()
    workers = _workers(client)
    for refusal in client.run(_refusal, _expected(open_store())).values():
        if refusal is not None:
            raise refusal
    memory = sum(worker["memory_limit"] for worker in workers.values())
    cores = sum(worker["nthreads"] for worker in workers.values())
    return f"by {len(workers)} workers at {compute} with {cores} threads and {memory / 1e9:.1f} GB, of this version"


def is_open_to_others() -> bool:
    """Whether shards travel unencrypted to another machine."""
    host = load_settings().compute.removeprefix("tcp://").rpartition(":")[0]
    return load_settings().compute.startswith("tcp:") and host not in ("localhost", "127.0.0.1", "[::1]")


def close() -> None:
    """End the local processes, or the connection to the cluster; the next map starts again."""
    with _starting:
        while _clients:
            _, client = _clients.popitem()
            with suppress(Exception):
                client.close(timeout=_GRACE)
            with suppress(Exception):
                if client.cluster is not None:
                    client.cluster.close(timeout=_GRACE)


class _Progress:
    """Writes to the log how many shards are done, at what rate, and how long the rest takes."""

    def __init__(self, what: str, shards: int) -> None:
        self._what, self._shards, self._done, self._rows = what, shards, 0, 0
        self._began = self._reported = time.monotonic()

    def add(self, rows: int) -> None:
        self._done, self._rows, now = self._done + 1, self._rows + rows, time.monotonic()
        is_last = self._done == self._shards
        if self._shards == 1 or (now - self._reported < _REPORT and not is_last):
            return
        self._reported, seconds = now, max(now - self._began, 1e-3)
        rate = f", {self._rows / seconds:,.0f} rows/s" if self._rows else ""
        left = (
            f"took {seconds:.0f} s"
            if is_last
            else f"about {seconds / self._done * (self._shards - self._done):.0f} s left"
        )
        log.info("%s: %d of %d shards done%s, %s", self._what, self._done, self._shards, rate, left)


def _inline(store: Engine, function: Callable[[Engine, S], R], shards: Sequence[S]) -> Iterator[tuple[int, R]]:
    for number, shard in enumerate(shards):
        yield number, function(store, shard)


# ------------------------------------------------------------------------------------------------ the owner of a map


def _on_workers(
    client: "Client", store: Engine, function: Callable[[Engine, S], R], shards: Sequence[S]
) -> Iterator[tuple[int, R]]:
    """Number and result of each shard, as they arrive. Whatever ends it, no worker goes on with a shard of it."""
    name = f"{function.__name__}-{time.time_ns():x}"
    run = partial(_run, _expected(store), name, function)
    arrived: queue.SimpleQueue[tuple[int, Future]] = queue.SimpleQueue()
    waiting: dict[int, Future] = {}
    try:
        for number, shard in enumerate(shards):
            with _scheduler_answers(client):
                waiting[number] = client.submit(run, shard, key=f"{name}-{number}", pure=False)
            waiting[number].add_done_callback(lambda future, number=number: arrived.put((number, future)))
        last_seen = time.monotonic()
        while waiting:
            try:
                number, future = arrived.get(timeout=_LOOK)
            except queue.Empty:
                with _scheduler_answers(client):
                    last_seen = _last_seen(client, last_seen)
                check_still_open()
                continue
            with _scheduler_answers(client):
                result = _result(future, number, len(shards))
            # The worker forgets it.
            waiting.pop(number).release()
            last_seen = time.monotonic()
            yield number, result
    finally:
        if waiting:
            _cancel(client, name, list(waiting.values()))


@contextmanager
def _scheduler_answers(client: "Client") -> Iterator[None]:
    """Errors of Dask itself: the connection to the scheduler is gone. Those of shards are results."""
    try:
        yield
    except ForecastError:
        raise
    except (Exception, CancelledError):
        raise ForecastError(_lost(client)) from None


def _result(future: "Future", number: int, n_shards: int) -> Any:
    from distributed import KilledWorker

    if future.status == "cancelled":
        raise ForecastError(_lost(future.client))
    error = future.exception(timeout=_ANSWER) if future.status == "error" else None
    if isinstance(error, KilledWorker):
        raise ForecastError(
            f"Shard {number + 1} of {n_shards} lost its worker {RERUNS + 1} times; nothing of the run is kept. Most likely a "
            "worker has too little memory (docs/scale.md)."
        )
    if error is not None:
        # Before or after the shard's function, whose own errors are results.
        raise ForecastError(
            f"A worker could not begin or return a shard ({type(error).__name__}): start the workers from the same version "
            "of icu-forecast as the job (docs/scale.md)."
        )
    result = future.result()
    if isinstance(result, _Failure):
        raise result.error
    return result


def _last_seen(client: "Client", before: float) -> float:
    """When the cluster was last seen with a worker. Raises ForecastError if it is lost, or has had none for too long."""
    if client.status != "running":
        raise ForecastError(_lost(client))
    if client.scheduler_info()["workers"]:
        return time.monotonic()
    if time.monotonic() - before > _NO_WORKER:
        raise ForecastError(_no_worker())
    return before


def _lost(client: "Client") -> str:
    return (
        f"The scheduler at {load_settings().compute} was lost, and with it the shards that it had; nothing of the run is kept. "
        "Start the scheduler and its workers again, then the job."
    )


def _no_worker() -> str:
    return f"The cluster at {load_settings().compute} has no worker; start some (docs/scale.md)."


def _cancel(client: "Client", name: str, futures: "list[Future]") -> None:
    """Shards that wait are dropped; workers that do not end theirs in time are started again, local ones are ended."""
    if load_settings().compute.startswith(LOCAL):
        close()
        return
    if client.status != "running":
        return
    with suppress(Exception):
        client.cancel(futures, force=True)
        until = time.monotonic() + _GRACE
        while (busy := _busy(client, name)) and time.monotonic() < until:
            time.sleep(0.2)
        if busy:
            client.restart_workers(busy, timeout=_ANSWER, raise_for_error=False)
            log.warning("%d workers that had not ended a cancelled shard were started again", len(busy))


def _busy(client: "Client", name: str) -> list[str]:
    return [worker for worker, names in client.run(_running_here).items() if name in names]


# ------------------------------------------------------------------------------------------------ its engine

_starting = threading.RLock()
_clients: dict[str, "Client"] = {}
atexit.register(close)


def _client() -> "Client":
    """That of this process, which is kept from map to map: workers have imported their libraries then."""
    compute = load_settings().compute
    with _starting:
        if compute in _clients and _clients[compute].status != "running":
            close()
        if compute not in _clients:
            _import_distributed()
            _clients[compute] = _start_local(compute) if compute.startswith(LOCAL) else _connect(compute)
        return _clients[compute]


def _import_distributed() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ForecastError(
            "ICU_COMPUTE needs the package `distributed`: pip install 'icu-forecast[cluster]', or set ICU_COMPUTE=inline."
        ) from None


def _start_local(compute: str) -> "Client":
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    n = int(compute.removeprefix(LOCAL))
    threads = str(max(CPU_COUNT // n, 1))
    environment = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": "1"}
    options = {
        "distributed.scheduler.allowed-failures": RERUNS,
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.nanny.pre-spawn-environ": environment,
        # Results hold patients' data, which have no place in a temporary folder.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
    }
    with dask.config.set(options):
        cluster = LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            # With certificates of its own: another user of this machine could run code on an open port.
            security=True,
        )
        return Client(cluster, set_as_default=False)


def _connect(address: str) -> "Client":
    from distributed import Client
    from distributed.security import Security

    folder, security = load_settings().compute_tls, None
    if address.startswith("tls:"):
        if folder is None:
            raise ForecastError(
                f"ICU_COMPUTE={address} needs certificates: set ICU_COMPUTE_TLS to a folder with ca.pem, cert.pem and key.pem."
            )
        security = Security(
            require_encryption=True,
            tls_ca_file=str(folder / "ca.pem"),
            tls_client_cert=str(folder / "cert.pem"),
            tls_client_key=str(folder / "key.pem"),
        )
    try:
        with _silent("distributed"):
            return Client(address, security=security, timeout=_ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError, RuntimeError) as error:
        raise ForecastError(
            f"The scheduler at {address} does not answer ({type(error).__name__}); start it (docs/scale.md), or set "
            "ICU_COMPUTE=inline."
        ) from None


@contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Without its warnings: what they are about is raised as a sentence."""
    found = logging.getLogger(logger)
    level = found.level
    found.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        found.setLevel(level)


def _workers(client: "Client") -> dict[str, Any]:
    """What the scheduler knows of each worker by its address. Raises ForecastError without any."""
    try:
        client.wait_for_workers(1, timeout=_ANSWER)
    except TimeoutError:
        raise ForecastError(_no_worker()) from None
    return client.scheduler_info(n_workers=-1)["workers"]


# ------------------------------------------------------------------------------------------------ a worker

_running: set[str] = set()
# TensorFlow's seeds and devices are those of the process.
_one_at_a_time = threading.Lock()


class _Failure(NamedTuple):
    """An error as a result: Dask would write one that is raised to the log, with whatever it quotes."""

    error: ForecastError


def _run(expected: dict[str, str], name: str, function: Callable[[Engine, S], R], shard: S) -> R | _Failure:
    """A shard in a worker, of this or another machine, with the worker's own settings."""
    with _one_at_a_time:
        _running.add(name)
        try:
            quiet_environment(load_settings())
            if refusal := _refusal(expected):
                return _Failure(refusal)
            return function(_own_store(), shard)
        except ForecastError as error:
            return _Failure(error)
        except Exception as error:
            return _Failure(StepFailed(safe_sentence(error), transient=is_broken_connection(error)))
        finally:
            _running.discard(name)


def _running_here() -> list[str]:
    return sorted(_running)


@cache
def _own_store() -> Engine:
    return open_store()


def _expected(store: Engine) -> dict[str, str]:
    """What a worker must have in common with the job: code, packages and our database."""
    return _versions() | {"database": identity(store)}


@cache
def _versions() -> dict[str, str]:
    code = hashlib.sha256()
    for floor in ("flows", "rnn_core", "sql"):
        for path in sorted((_ROOT / floor).rglob("*")):
            if path.suffix in (".py", ".sql", ".yaml", ".csv"):
                code.update(path.relative_to(_ROOT).as_posix().encode() + path.read_bytes())
    found = {"icu-forecast": code.hexdigest()[:12], "python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _refusal(expected: dict[str, str]) -> ForecastError | None:
    """Why this worker may not compute for a job that has `expected`; None if it may."""
    try:
        ours = _expected(_own_store())
    except ForecastError as error:
        return ForecastError(f"A worker cannot work: {error}")
    except DBAPIError as error:
        return StepFailed(safe_sentence(error), transient=is_broken_connection(error))
    apart = [
        f"{name} {ours.get(name, 'none')} (the job: {found})"
        for name, found in expected.items()
        if ours.get(name) != found
    ]
    if not apart:
        return None
    if apart[0].startswith("database"):
        return ForecastError(
            "A worker has another database than the job; give all workers the same ICU_DATABASE_URL (docs/scale.md)."
        )
    return ForecastError(
        f"A worker has another version than the job: {', '.join(apart)}. Start all of them from the same image or lock."
    )
