"""Steps of flows, and the record of a run in forecast.run, also when it fails."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from flows.runtime import clock
from flows.runtime.databases import adapter_name
from flows.runtime.flow import flow_run_context
from flows.runtime.log import log
from flows.runtime.naming import step_name
from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError
from sql.published import runs
from sql.store.lasting_lock import lasting_lock

_ROOT = Path(__file__).resolve().parents[2]

# The run that is being recorded, for its steps.
_open_run: ContextVar["Recorded | None"] = ContextVar("open_run", default=None)

P = ParamSpec("P")
R = TypeVar("R")


class Refused(ForecastError):
    """Another run of the same kind and source is running."""


class StepFailed(ForecastError):
    """A step failed on an unexpected error; holds the type and place of that error, never its text."""

    def __init__(self, sentence: str, transient: bool = False) -> None:
        super().__init__(sentence)
        self.transient = transient


def step(name: str, retries: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator that makes a function a step: a Prefect task in a flow run, a plain call anywhere else.

    name: name of the task; source and slot are appended to the name of its run.
    retries: how often to try again after a broken connection. Only for steps that do nothing but read.

    A step of a run that was closed meanwhile does not begin (`check_still_open`).

    Arguments and results stay in memory: Prefect neither stores nor hashes them. Errors of libraries are replaced by
    StepFailed, since Prefect logs errors and a driver's message may quote a row.

    >>> @step("add")
    ... def add(a: int, b: int) -> int:
    ...     return a + b
    >>> add(1, 2)
    3
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                check_still_open()
                return function(*args, **kwargs)
            except ForecastError:
                raise
            except Exception as error:
                raise StepFailed(safe_sentence(error), transient=is_broken_connection(error)) from None

        @cache
        def as_task() -> Any:
            from prefect import task
            from prefect.cache_policies import NO_CACHE

            return task(
                name=name,
                task_run_name=partial(step_name, name),
                retries=retries,
                retry_delay_seconds=10,
                cache_policy=NO_CACHE,
                persist_result=False,
                cache_result_in_memory=False,
                retry_condition_fn=_is_transient if retries else None,
            )(guarded)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return as_task()(*args, **kwargs) if flow_run_context() else guarded(*args, **kwargs)

        return call

    return wrap


def is_broken_connection(error: Exception) -> bool:
    """Whether a database went away, so that the same call may succeed later."""
    return isinstance(error, OperationalError | InterfaceError) or getattr(error, "connection_invalidated", False)


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    return getattr(state.result(raise_on_failure=False), "transient", False)


@dataclass
class Recorded:
    """A run in forecast.run; `counts` holds the figures of its report."""

    engine: Engine
    run_id: int
    source: str
    as_of: datetime
    counts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def alone(engine: Engine, source: str, kind: str, patience: float = 0.0) -> Iterator[None]:
    """Lock out other runs of the same kind and source. Raises Refused if one still runs after `patience` seconds.

    Runs that died are marked as failed first. One that lost its lock is taken for dead too: it can no longer write.
    """
    with lasting_lock(engine, f"icu-forecast {kind} {source}", patience) as free:
        if not free:
            raise Refused(f"Another {kind} of {source} is running; wait for it, or see forecast.run_health.")
        runs.close_dead_runs(engine, source, kind)
        yield


@contextmanager
def attempted(
    engine: Engine, source: str, kind: str, as_of: datetime | None, *, role: str = "champion", dry_run: bool = False
) -> Iterator[datetime]:
    """Yields the slot of an attempt to run a job. If the attempt ends before `recorded` wrote its run, because there is no
    model, say, or another run of its kind is running, it is recorded here: forecast.run has every attempt but dry runs.

    Errors of libraries are replaced by StepFailed. Raises ForecastError for an unknown source.
    """
    if source not in load_settings().sources:
        # A misspelt name is no source whose runs anyone watches.
        adapter_name(source)
    try:
        yield clock.slot(as_of, clock.scheduled_time())
    except BaseException as error:
        if dry_run or getattr(error, "is_recorded", False):
            raise
        status = "refused" if isinstance(error, Refused) else "failed"
        slot = clock.floor_hour(as_of or clock.scheduled_time() or datetime.now(UTC))
        more = {"status": status, "role": role, "flow_run_id": _flow_run_id()}
        write = partial(runs.add_failed_run, engine, source, kind, slot, **more)
        raise _written_down(error, lambda sentence: write(error=sentence)) from None


@contextmanager
def recorded(
    engine: Engine, source: str, kind: str, as_of: datetime, *, role: str = "champion", model_id: str | None = None
) -> Iterator[Recorded]:
    """Record a run in forecast.run: as running now, and as failed, with one safe sentence, if the block raises.

    The caller holds the lock of `alone`, and marks the run as published itself. Errors of libraries are replaced by
    StepFailed, since a driver's message may quote a row.
    """
    run_id = runs.start_run(engine, source, kind, as_of, role=role, flow_run_id=_flow_run_id(), model_id=model_id)
    log.info("%s of %s as of %s: run %d", kind, source, f"{as_of:%Y-%m-%dT%H:%MZ}", run_id)
    run = Recorded(engine, run_id, source, as_of)
    before = _open_run.set(run)
    try:
        yield run
    except BaseException as error:
        raise _written_down(error, partial(runs.fail_run, engine, run_id)) from None
    finally:
        _open_run.reset(before)


def check_still_open() -> None:
    """Raises ForecastError if the run that is recorded here was closed as failed: it lost its lock, and another took over.

    What it computes could not be published. Every step calls it when it begins, a long one also in between. A database
    that does not answer for a moment is no reason to stop.
    """
    if run := _open_run.get():
        with suppress(DBAPIError):
            runs.check_open(run.engine, run.run_id)


@contextmanager
def recorded_alone(engine: Engine, source: str, kind: str, as_of: datetime | None) -> Iterator[Recorded]:
    """A job that is one run: `attempted`, `alone` and `recorded` together."""
    with (
        attempted(engine, source, kind, as_of) as slot,
        alone(engine, source, kind),
        recorded(engine, source, kind, slot) as run,
    ):
        yield run


def _written_down(error: BaseException, write: Callable[[str], None]) -> BaseException:
    """Store why a run failed; returns what to raise: the error, or StepFailed for one of a library."""
    sentence = safe_sentence(error)
    write_down(write, sentence)
    is_ours = isinstance(error, ForecastError) or not isinstance(error, Exception)
    shown = error if is_ours else StepFailed(sentence, transient=False)
    shown.is_recorded = True  # type: ignore[attr-defined]
    return shown


def write_down(write: Callable[[str], None], sentence: str) -> None:
    """Store why something failed; if our database is away, log it, and the next run closes the failed one."""
    try:
        write(sentence)
    except DBAPIError as error:
        log.error("a failure could not be stored (%s): %s", type(error).__name__, sentence)


def safe_sentence(error: BaseException) -> str:
    """The loggable form of an error: the text of a ForecastError, or type and place of any other."""
    if isinstance(error, ForecastError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if Path(frame.filename).parent.is_relative_to(_ROOT) and "site-packages" not in frame.filename
    ]
    where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno} ({ours[-1].name})" if ours else ""
    state = f", SQLSTATE {getattr(error.orig, 'sqlstate', None)}" if isinstance(error, DBAPIError) else ""
    return f"{type(error).__name__}{state}{where}; its text is omitted, since it may quote a patient's row."


def _flow_run_id() -> str | None:
    context = flow_run_context()
    return str(context.flow_run.id) if context and context.flow_run else None
