"""What is read of a history file: its streams, one for each start of a run, and the bytes that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ding_normmon.runs.frames import END_OF_STREAM
from ding_normmon.runs.header import Header

__all__ = ['Damage', 'History', 'Rows', 'Stream']


@dataclass(frozen=True)
class Damage:
    """Bytes that cannot be read.

    Arguments:
        start: position of the first.
        stop: position behind the last.
        reason: what is wrong; empty where nothing is lost.
        is_torn: whether it is a record that was being written when the process ended.
    """

    start: int
    stop: int
    reason: str
    is_torn: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of a stream, in the order in which they were written.

    Arguments:
        iterations: int64, shape (N,).
        times: float64, shape (N,): seconds since 1970.
        kinds: int64, shape (N,): what each row is.
        codes: int64, shape (N,): which name it has.
        values: float64, shape (N,).
        texts: of the rows that are no scalars, by row.
    """

    iterations: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    texts: dict[int, str]


@dataclass
class Stream:
    """What one start of a run wrote.

    Arguments:
        start: position in the file.
        header: what it says of the run; None where that is lost.
        names: name by code; None where it is lost.
        rows: what was written.
        session: of sealed streams.
        chunks: number of its first and its last intact chunk, of sealed streams.
        records: how many intact records it has.
        lost: how many of its records are damaged, as far as the numbers of the others tell.
        odd: rows that are none, such as one without a name.
    """

    start: int
    header: Header | None
    names: list[str | None]
    rows: Rows
    session: str = ''
    chunks: tuple[int, int] = (0, 0)
    records: int = 0
    lost: int = 0
    odd: int = 0


@dataclass
class History:
    """Everything in a history file.

    Arguments:
        size: of the file, in bytes.
        streams: what is whole, in the order in which it was written.
        damages: what is not.
        is_marked: whether a header or a seal of ours stands in it, damaged or not.
        is_ended: whether its last stream was ended.
        last_chunk: first byte of the last intact chunk, and the byte behind it; zeros if the last stream has no seals.
    """

    size: int = 0
    streams: list[Stream] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    is_marked: bool = False
    is_ended: bool = False
    last_chunk: tuple[int, int] = (0, 0)

    @property
    def is_ours(self) -> bool:
        """Whether it was written by this package, as far as can be seen; so is a file of nothing but a torn record."""
        has_records = any(stream.records for stream in self.streams)
        return self.is_marked or has_records or all(damage.is_torn for damage in self.damages)

    @property
    def end(self) -> int:
        """Up to where the file is kept when it is gone on with: all of it but a torn last record."""
        return self.damages[-1].start if self.damages and self.damages[-1].is_torn else self.size

    def before_a_stream(self) -> bytes:
        """Return the bytes that a new stream needs before it at the end."""
        if not self.end or self.is_ended:
            return b''
        # Messages begin where a processor can read them.
        return bytes(-self.end % 8) + END_OF_STREAM
