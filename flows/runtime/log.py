"""The one log of the flows: in a Prefect run it goes to that run's log, elsewhere to standard error."""

import logging
import os
import sys


class _RunOrTerminal(logging.Handler):
    """Hands a record to the current Prefect run, which keeps it; without one, prints it with the time of day."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        run = _run_logger()
        if run is not None:
            run.log(record.levelno, record.getMessage())
        else:
            print(self.format(record), file=sys.stderr, flush=True)


def _run_logger() -> logging.LoggerAdapter | logging.Logger | None:
    # Prefect takes seconds to import; where nobody has, there is no run.
    if "prefect.context" not in sys.modules:
        return None
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.logging import get_run_logger

    return get_run_logger() if FlowRunContext.get() or TaskRunContext.get() else None


log = logging.getLogger("icu_forecast")
log.setLevel(logging.INFO)
log.propagate = False
if not log.handlers:
    log.addHandler(_RunOrTerminal())


def import_tensorflow() -> None:
    """Import TensorFlow without the lines its C++ parts print before any setting could silence them.

    Keras would import matplotlib where it finds it, which takes seconds and which no job needs.
    """
    if "tensorflow" in sys.modules:
        return
    hidden = "matplotlib" not in sys.modules
    if hidden:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow  # noqa: F401

        # It warns of functions compiled again and again, which every member of an ensemble is on purpose.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    finally:
        if hidden:
            del sys.modules["matplotlib"]
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
