"""The log of all flows: in a Prefect run it goes to the log of that run, elsewhere to standard error."""

import logging
import sys


class _RunOrTerminal(logging.Handler):
    """Passes a record to the logger of the current Prefect run; without a run, prints it with the time of day."""

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
    # Prefect takes seconds to import. If nothing has imported it yet, there is no run.
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
