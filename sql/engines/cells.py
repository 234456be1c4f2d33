"""Cells of a source made fit for our database: text that is no text is marked, a time that is no time becomes `NO_TIME`.

Marked cells cost their row (the checks `unreadable_text` and `unreadable_time`), never the batch.
"""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A code point that Unicode reserves for use inside a program, so no source has it: this text was changed here.
MARK = "\ufdd0"
# Ids and units are keys, and an index of PostgreSQL holds no more than 2,704 bytes.
LONGEST = 500
# What stands for a time outside of these bounds: infinite, before Christ, or too far ahead to compute with.
NO_TIME = datetime(1, 1, 1, tzinfo=UTC)
FIRST_TIME, LAST_TIME = datetime(1000, 1, 1, tzinfo=UTC), datetime(2900, 1, 1, tzinfo=UTC)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 86_400_000_000
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def readable_text(said: bytes, codec: str = "utf-8") -> str:
    """The text of a cell; marked if it has bytes that are no text, NUL, or more than `LONGEST` characters.

    >>> readable_text("Süd".encode("latin-1"), "latin-1")
    'Süd'
    >>> readable_text(b"S\\xfcd").rstrip(MARK)
    'S\\\\xfcd'
    """
    try:
        text, intact = said.decode(codec), True
    except UnicodeDecodeError:
        text, intact = said.decode(codec, "backslashreplace"), False
    if intact and "\0" not in text and len(text) <= LONGEST:
        return text
    return text.replace("\0", r"\x00")[:LONGEST] + MARK


def readable_texts(column: pa.Array, codec: str = "utf-8") -> pa.Array:
    """The same column with each text as `readable_text` gives it, bytes as text; a column of another type as it is."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not any(is_text(column.type) for is_text in _TEXTS):
        return column
    said = column.cast(pa.large_binary())
    if _is_plain(said):
        return column.cast(pa.string())
    return pa.array([None if cell is None else readable_text(cell, codec) for cell in said.to_pylist()], pa.string())


_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)


def _is_plain(said: pa.LargeBinaryArray) -> bool:
    """Whether all cells are short ASCII without NUL, which is the same text in every encoding."""
    if (pc.max(pc.binary_length(said)).as_py() or 0) > LONGEST:
        return False
    _, offsets, data = said.buffers()
    if data is None or not len(said):
        return True
    first, last = np.frombuffer(offsets, np.int64)[[said.offset, said.offset + len(said)]]
    used = np.frombuffer(data, np.uint8)[first:last]
    return not len(used) or bool(used.min() > 0 and used.max() < 128)


def readable_times(column: pa.Array, zone: str, shift_days: int = 0) -> pa.Array:
    """A column of timestamps or dates as timestamp[us, UTC], moved by `shift_days`; null stays null.

    zone: the clock of times without a zone. An hour that occurs twice in autumn is the second one, an hour skipped in
    spring is its end: nothing counts as known too early, and the order of times is kept.
    """
    usable = _are_usable(column)
    times = pc.if_else(usable, column, pa.scalar(None, column.type))
    times = times.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
    if shift_days:
        times = pc.add(times, pa.scalar(shift_days * _DAY_US, pa.duration("us")))
    if times.type.tz is None:
        times = pc.assume_timezone(times, zone, ambiguous="latest", nonexistent="latest")
    times = times.cast(pa.timestamp("us", "UTC"))
    return pc.if_else(usable, times, pa.scalar(NO_TIME, times.type))


def _are_usable(column: pa.Array) -> pa.Array:
    """Which cells lie within FIRST_TIME and LAST_TIME, compared as the integers that they are."""
    if pa.types.is_timestamp(column.type):
        numbers, per_second = column.cast(pa.int64()), _PER_SECOND[column.type.unit]
    elif pa.types.is_date32(column.type):
        numbers, per_second = column.cast(pa.int32()).cast(pa.int64()), 1 / 86_400
    else:
        numbers, per_second = column.cast(pa.int64()), 1_000
    # The smallest two and the largest integer stand for infinity.
    low, high = (
        max(2 - 2**63, min(int((bound - _EPOCH).total_seconds() * per_second), 2**63 - 1))
        for bound in (FIRST_TIME, LAST_TIME)
    )
    return pc.and_(pc.greater_equal(numbers, low), pc.less(numbers, high))
