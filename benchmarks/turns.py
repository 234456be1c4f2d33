"""Contenders in processes of their own that take turns, so that a change of the machine's speed meets all of them."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from traceback import format_exc
from typing import Any

import numpy as np

# What NumPy, PyTorch and TensorFlow go by when they are imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")

# Called in the process of a contender: what it found, to compare with others, and what it does in a turn.
Prepare = Callable[[], tuple[Any, Callable[[], object]]]


@dataclass(frozen=True)
class Turns:
    """found: what `Prepare` returned. seconds, cpu_seconds: float64 [rounds]. peak_gb: of the process, imports included."""

    found: Any
    seconds: np.ndarray
    cpu_seconds: np.ndarray
    peak_gb: float

    def times_as_fast(self, other: "Turns") -> str:
        """The median over rounds with the least and the most, of wall time; and the median of CPU time."""
        wall, cpu = other.seconds / self.seconds, other.cpu_seconds / self.cpu_seconds
        return f"{np.median(wall):.2f} ({wall.min():.2f}-{wall.max():.2f}); CPU {np.median(cpu):.2f}"


def take_turns(contenders: Mapping[str, Prepare], rounds: int, threads: int = 1) -> dict[str, Turns]:
    """Each contender once per round, after a turn that is not counted. Contenders must be picklable.

    threads: of each contender. With several, beside other work, one waits for another that does not run.
    Raises RuntimeError with what a contender raised.
    """
    context, running = get_context("spawn"), {}
    try:
        with with_threads(threads):
            for name, prepare in contenders.items():
                mine, theirs = context.Pipe()
                process = context.Process(target=_contend, args=(prepare, theirs), daemon=True)
                process.start()
                theirs.close()  # or the end of the process would not end the wait for its answer
                running[name] = (process, mine)
                _answer(name, mine)  # one after another: preparing beside each other would double the memory
        took = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, (_, mine) in running.items():
                mine.send(True)
                took[name].append(_answer(name, mine))
        ended = {}
        for name, (_, mine) in running.items():
            mine.send(False)
            found, peak_gb = _answer(name, mine)
            ended[name] = Turns(found, *np.array(took[name]).T, peak_gb)
        return ended
    finally:
        for process, _ in running.values():
            process.join(5)
            process.kill()


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Processes that are started meanwhile have so many threads for their products of matrices."""
    environment = dict(os.environ)
    os.environ |= dict.fromkeys(_THREADS, str(threads))
    try:
        yield
    finally:
        for name in _THREADS:
            os.environ.pop(name)
        os.environ |= environment


def has_torch() -> bool:
    """Whether PyTorch is there to compare with; says so where it is not."""
    if find_spec("torch"):
        return True
    print(
        "... without PyTorch, which is not installed: `pip install torch` into this environment to compare with it",
        file=sys.stderr,
    )
    return False


def _answer(name: str, connection: Connection) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process ended without an answer; what it printed says why.") from None
    if isinstance(answer, str):
        raise RuntimeError(f"{name}: {answer}")
    return answer


def _contend(prepare: Prepare, connection: Connection) -> None:
    try:
        found, turn = prepare()
        turn()
        connection.send(None)
        while connection.recv():
            begun, cpu_begun = perf_counter(), process_time()
            turn()
            connection.send((perf_counter() - begun, process_time() - cpu_begun))
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
        connection.send((found, int(peak) / 2**20))
    except Exception:
        connection.send(format_exc())
