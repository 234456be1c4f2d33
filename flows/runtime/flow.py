"""Makes a job a flow of Prefect, which takes two seconds to import: a process that runs jobs directly does without."""

import sys
from collections.abc import Callable
from typing import Any

_directly = False


def run_directly() -> None:
    """Jobs imported from here on are run by their steps alone (`job.fn`)."""
    global _directly
    _directly = True


class _Job:
    """A job that nobody has run through Prefect yet."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.fn, self.options = function, options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from prefect import flow as as_flow

        return as_flow(**self.options)(self.fn)(*args, **kwargs)


def flow(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: `prefect.flow`, whose objects deployments need, unless this process runs jobs directly."""
    if _directly:
        return lambda function: _Job(function, **options)
    from prefect import flow as as_flow

    return as_flow(**options)


def flow_run_context() -> Any | None:
    """The context of Prefect's current flow run; None outside of one."""
    # Whoever runs a flow has imported it.
    if "prefect.context" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    return FlowRunContext.get()
