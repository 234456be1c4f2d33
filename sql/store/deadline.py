"""Calls that may hang: made in a thread that is left behind at a deadline, since a driver in C cannot be interrupted."""

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_END = object()
_CLOSE_SECONDS = 10.0


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises. Raises TimeoutError if it has done neither after so many seconds."""
    for result in fetch_ahead((call() for _ in range(1)), seconds):
        return result
    raise AssertionError


def fetch_ahead(items: Iterator[T], seconds: float) -> Iterator[T]:
    """The same items, each fetched while the one before is used. Raises TimeoutError once `seconds` have passed since the
    first was requested and one is still to come.

    `items` runs in one thread from beginning to end, as SQLite demands, and is closed there.
    """
    wanted: SimpleQueue[bool] = SimpleQueue()
    found: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()

    def fetch() -> None:
        while wanted.get():
            try:
                found.put((next(items, _END), None))
            except BaseException as error:
                found.put((_END, error))
        items.close()

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    until, hangs = time.monotonic() + seconds, False
    wanted.put(True)
    try:
        while True:
            try:
                item, error = found.get(timeout=max(until - time.monotonic(), 0.001))
            except Empty:
                hangs = True
                raise TimeoutError from None
            if error is not None:
                raise error
            if item is _END:
                return
            wanted.put(True)
            yield item
    finally:
        wanted.put(False)
        if not hangs:
            # So that its connection is closed before the caller goes on.
            thread.join(_CLOSE_SECONDS)
