"""Imports TensorFlow without the lines that its C++ libraries print to standard error while they load."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def import_tensorflow() -> None:
    """Import TensorFlow once, quietly. Raises ImportError if it is not installed."""
    if "tensorflow" in sys.modules:
        return
    with _discarded_stderr():
        import tensorflow  # noqa: F401
    # TensorFlow warns about functions that are compiled repeatedly; every member of an ensemble does so on purpose.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextmanager
def _discarded_stderr() -> Iterator[None]:
    """Send file descriptor 2 to the null device.

    The libraries log before absl's logging is initialised; until then no setting, TF_CPP_MIN_LOG_LEVEL included, is
    read, and the lines go to the descriptor itself, past `sys.stderr`.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
