"""A folder of exported patient data that is complete or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnn_core.contracts.errors import ForecastError


@contextmanager
def complete_folder(out: Path) -> Iterator[Path]:
    """A hidden folder to write into, which becomes `out` if nothing fails, and is removed otherwise.

    Raises ForecastError if `out` is not new or empty, or cannot be written.
    """
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ForecastError(f"{out} exists already; give a folder that is new or empty.")
    out = out.absolute()
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        # Patients are in it.
        partial.mkdir(parents=True, mode=0o700)
        yield partial
        partial.rename(out)
    except OSError as error:
        raise ForecastError(
            f"{out} cannot be written ({error.strerror or type(error).__name__}); choose a writable folder with free space."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
