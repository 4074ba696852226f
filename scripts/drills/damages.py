"""Damage to a file's bytes: flipped bits, a cut, a run of zeros, swapped blocks."""

import random
from collections.abc import Callable
from typing import NamedTuple

EDGE = 2048
"""Half of all damage lies in so many bytes at the beginning or at the end, where headers and directories are."""
RUNS = (1, 4, 16, 64, 512, 4096)
"""Lengths of runs and blocks in bytes."""


class Damaged(NamedTuple):
    """What was done, and the damaged bytes."""

    name: str
    data: bytes


def damaged(data: bytes, chance: random.Random) -> Damaged:
    """A damaged copy of a file, which is not empty."""
    return chance.choice(KINDS)(data, chance)


def flip(data: bytes, chance: random.Random) -> Damaged:
    """Flip one bit, or a few."""
    changed = bytearray(data)
    places = [(_place(len(data), chance), chance.randrange(8)) for _ in range(chance.choice((1, 1, 1, 2, 8)))]
    for place, bit in places:
        changed[place] ^= 1 << bit
    return Damaged("flip " + " ".join(f"{place}.{bit}" for place, bit in places), bytes(changed))


def cut(data: bytes, chance: random.Random) -> Damaged:
    """Leave out the end."""
    place = _place(len(data), chance)
    return Damaged(f"cut at {place}", data[:place])


def zeros(data: bytes, chance: random.Random) -> Damaged:
    """Write zeros over a run of bytes."""
    place, length = _place(len(data), chance), chance.choice(RUNS)
    end = min(place + length, len(data))
    return Damaged(f"zeros {place} to {end}", data[:place] + bytes(end - place) + data[end:])


def swap(data: bytes, chance: random.Random) -> Damaged:
    """Exchange two blocks."""
    length = min(chance.choice(RUNS), len(data) // 2)
    first, second = sorted((_place(len(data) - length + 1, chance), _place(len(data) - length + 1, chance)))
    length = min(length, second - first)
    blocks = data[first : first + length], data[second : second + length]
    between = data[first + length : second]
    changed = data[:first] + blocks[1] + between + blocks[0] + data[second + length :]
    return Damaged(f"swap {length} at {first} and {second}", changed)


KINDS: tuple[Callable[[bytes, random.Random], Damaged], ...] = (flip, cut, zeros, swap)


def _place(size: int, chance: random.Random) -> int:
    """An offset below `size`."""
    edge = min(EDGE, size)
    return chance.choice(
        (chance.randrange(size), chance.randrange(size), chance.randrange(edge), size - 1 - chance.randrange(edge))
    )
