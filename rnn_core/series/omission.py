"""Windows as they would be without one of a patient's data, described by the little that differs from the complete ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_core.contracts.frames import Grid, Observations, Windows
from rnn_core.series.grid import observation_rows

# Of windows that lack a descriptor, and no concept.
NO_CONCEPT = -1


@dataclass(frozen=True)
class ChannelsWithout:
    """`Windows.channels` of which each row lacks one concept, made when they are read: `channels[rows]`, or as an array.

    Many variants of a few stays differ in few columns. Who scores them takes the others from the complete rows:

    complete: float32 [hours, channels]. row: int64 [rows], which of them each row is a variant of. concept: int64 [rows], the
    one that it lacks, as position among those of the windows, or `NO_CONCEPT`. log_count: float32 [rows], its last channel.
    n_concepts: of the windows.
    """

    complete: np.ndarray
    row: np.ndarray
    concept: np.ndarray
    log_count: np.ndarray
    n_concepts: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.row), self.complete.shape[1]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if not isinstance(rows, np.ndarray):
            return np.asarray(self)[rows]
        channels, lacks = self.complete[self.row[rows]], np.flatnonzero(self.concept[rows] != NO_CONCEPT)
        for column, value in zip(self.columns(self.concept[rows[lacks]]).T, self.values(rows[lacks]).T, strict=True):
            channels[lacks, column] = value
        return channels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[np.arange(len(self))].astype(dtype or np.float32, copy=False)

    def columns(self, concept: np.ndarray) -> np.ndarray:
        """Where `values` belong, int64 [n, 4]."""
        return np.column_stack(
            [concept + block * self.n_concepts for block in range(3)] + [np.full(len(concept), self.shape[1] - 1)]
        )

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Value, observed, age and number of observations of rows that lack a concept, float32 [n, 4]."""
        nothing = np.zeros(len(rows), dtype=np.float32)
        return np.column_stack([nothing, nothing, nothing + 1, self.log_count[rows]])


def windows_without(
    windows: Windows,
    grid: Grid,
    observations: Observations,
    columns: np.ndarray,
    window: np.ndarray,
    concept: np.ndarray,
    static: np.ndarray,
) -> Windows:
    """Variants of windows: each is a stay of its own, with one window.

    windows, grid: of all stays, with their `observations`. columns: of each of `concepts.NAMES`, its position in the windows;
    observations have no others. window: int64 [variants], of which window each is a variant. concept: int64 [variants], the
    one that it lacks, as position in the windows, or `NO_CONCEPT`. static: float32 [variants, features].

    `hours_since_last` is that of the complete stay.
    """
    stay = windows.stay[window]
    lengths = np.diff(windows.offsets)[stay]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shift = offsets[:-1] - windows.offsets[stay]
    row, lacks = np.arange(offsets[-1]) - np.repeat(shift, lengths), np.repeat(concept, lengths)

    n = (columns >= 0).sum()
    observed = observation_rows(grid, observations)
    inside = observed >= 0
    cell = observed[inside] * n + columns[observations.concept[inside]]
    count = np.bincount(cell, minlength=len(grid.count) * n).reshape(-1, n)
    # One more column, for those that lack no concept, and one more row, before the first.
    so_far = np.pad(np.cumsum(count, axis=0), ((1, 0), (0, 1)))
    ever_before, before = so_far[np.repeat(windows.offsets[stay], lengths), lacks], so_far[row, lacks]
    after = so_far[row + 1, lacks]
    return Windows(
        channels=ChannelsWithout(
            windows.channels, row, lacks, np.log1p(grid.count[row] - (after - before), dtype=np.float32), n
        ),
        static=static,
        offsets=offsets,
        stay=np.arange(len(window)),
        start=windows.start[window] + shift,
        stop=windows.stop[window] + shift,
        score_from=windows.score_from[window] + shift,
        prediction_hour=windows.prediction_hour[row],
        n_observations=windows.n_observations[row] - (after - ever_before).astype(np.float32),
        hours_since_last=windows.hours_since_last[row],
    )
