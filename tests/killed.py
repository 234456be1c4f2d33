"""Runs a job that kills its own process with SIGKILL, or its disk, right after the step named on the command line."""

import multiprocessing
import os
import resource
import signal
from datetime import datetime

from flows.jobs import forecast, ingest, train
from sql.intake import landing, quality
from sql.published import results

AFTER = {
    "land": (landing, "land"),
    "cast_and_map": (landing, "cast_and_map"),
    "check": (landing, "check"),
    # Inside the one transaction: at its first step, and when all is written but not committed.
    "quarantine": (quality, "quarantine"),
    "finish": (landing, "_finish"),
    "score": (forecast, "score"),
    # Inside the publishing transaction: the rows of the stays are exchanged, the run is not marked.
    "replace_slot": (results, "_replace_slot"),
    "fit": (train, "fit"),
}
JOBS = {"ingest": ingest.ingest, "forecast": forecast.forecast, "train": train.train}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    """No file of this process may grow beyond 10 kB from here on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def main(job: str, stage: str, as_of: str, fault: str = "die", *options: str) -> None:
    module, name = AFTER[stage]
    step = getattr(module, name)

    def step_then_fault(*args, **kwargs):
        outcome = step(*args, **kwargs)
        {"die": die, "fill_the_disk": fill_the_disk}[fault]()
        return outcome

    setattr(module, name, step_then_fault)
    more = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    JOBS[job].fn("clif", datetime.fromisoformat(as_of), **more)


def _in_environment(environment: dict[str, str], *words: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    main(*words)


def run(*words: str) -> int | None:
    """Exit code of `main(*words)` in a fork of a process that has imported what a job needs: a new process would take
    seconds to import it. None if it has not ended after four minutes."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["killed", "great_expectations", "keras"])
    process = forks.Process(target=_in_environment, args=(dict(os.environ), *words))
    process.start()
    process.join(240)
    return process.exitcode
