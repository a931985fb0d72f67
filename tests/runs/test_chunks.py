"""Seals: every flip is noticed, and what is behind damage is found again."""

from __future__ import annotations

import random
import time

import pytest

from ding_normmon.runs.chunks import MARK, Chunk, Gap, is_torn, scan, seal, unsealed


def chunk(number: int, body: bytes = b'some numbers') -> bytes:
    text = unsealed('0123456789abcdef', number, 0, False)
    return seal(body + text.encode() + body, text)


def test_every_single_flip_is_noticed_and_costs_one_chunk() -> None:
    pieces = [chunk(number) for number in range(3)]
    whole = b''.join(pieces)
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            found = [part.number for part in scan(bytes(damaged)) if isinstance(part, Chunk)]
            assert found == [number for number in range(3) if number != position // len(pieces[0])]


@pytest.mark.parametrize('change', ['removed', 'added', 'zeroed', 'repeated'])
def test_what_stands_behind_a_changed_stretch_is_found_wherever_it_is(change: str) -> None:
    first, middle, last = (chunk(number) for number in range(3))
    damaged = {
        'removed': middle[13:],
        'added': middle[:20] + b'?' * 11 + middle[20:],
        'zeroed': bytes(len(middle)),
        'repeated': middle[: len(middle) // 2] * 2,
    }[change]
    found = list(scan(first + damaged + last))
    assert [part.number for part in found if isinstance(part, Chunk)] == [0, 2]
    assert [(part.start, part.stop) for part in found if isinstance(part, Gap)] == [
        (len(first), len(first) + len(damaged))
    ]


def test_every_beginning_of_a_chunk_is_torn_and_nothing_else() -> None:
    whole = chunk(0)
    behind = whole.index(MARK) + 79
    assert all(is_torn(whole[:cut]) for cut in range(behind, len(whole)))
    assert not is_torn(whole)
    assert not is_torn(b'my notes\n' * 10)
    assert is_torn(bytes(100))


def test_a_file_of_nothing_but_seals_is_looked_at_once() -> None:
    size = 400_000
    false = b'nmon2 0123456789abcdef 0000000000 0000000000 %010d %012d 0 00000000' % (0, size)
    begin = time.perf_counter()
    assert list(scan(false * (size // len(false)))) == [Gap(0, size // len(false) * len(false))]
    assert time.perf_counter() - begin < 20


def test_garbage_holds_no_chunk() -> None:
    garbage = random.Random(0).randbytes(100_000)
    assert list(scan(garbage)) == [Gap(0, len(garbage))]
