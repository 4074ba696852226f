"""Stateless noise: the same seed and position give the same number on every device, in any order and batch.

The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), in integer
arithmetic: four 32-bit counters under a 64-bit key give four 32-bit words. There is no state to save or restore.
"""

from enum import IntEnum

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
ATTEMPTS = 2**24
"""The number of distinct attempts at one position."""


class Stream(IntEnum):
    """The purpose of a number. Different streams are independent."""

    SAMPLE = 0
    ORDER = 1
    CROP = 2
    KEEP = 3
    REPLACE = 4
    CONDITION = 5
    CLASS = 6
    GROUPS = 7
    SIZE = 8


def philox(counters: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four int64 tensors of 32-bit counters (they broadcast), two 32-bit key words -> four tensors of 32-bit words.

    The products need 64 unsigned bits. int64 wraps around to the same bits, and an arithmetic shift followed by a mask
    reads the upper half. Bits above a word are masked once, before the next product: ten operations a round.
    """
    c0, c1, c2, c3 = counters
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & WORD, p1, ((p0 >> 32) ^ c3 ^ k1) & WORD, p0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1 & WORD, c2, c3 & WORD


def words(
    seed: int, stream: Stream, major: Tensor, minor: Tensor, count: int, *, attempt: Tensor | None = None
) -> Tensor:
    """`count` words for each position: int64 (...) and (...) that broadcast -> (..., count) in [0, 2^32).

    `seed` is in [0, 2^64), `major` and `minor` in [0, 2^32). `attempt`, int64 (...) below ATTEMPTS, 0 by default, gives
    other numbers at the same position: the fourth counter is `stream + 256 attempt`, so attempts share no number.
    """
    blocks = torch.arange((count + 3) // 4, device=major.device)
    fourth = torch.full_like(blocks, stream) if attempt is None else stream + 256 * attempt[..., None]
    counters = (blocks, minor[..., None], major[..., None], fourth)
    four = philox(counters, (seed & WORD, seed >> 32 & WORD))
    return torch.stack(four, dim=-1).flatten(-2)[..., :count]


def uniform(
    seed: int, stream: Stream, major: Tensor, minor: Tensor, count: int, *, attempt: Tensor | None = None
) -> Tensor:
    """As `words`, but float64 strictly between 0 and 1."""
    return (words(seed, stream, major, minor, count, attempt=attempt).double() + 0.5) * 2.0**-32


def below(limit: int, words: Tensor) -> Tensor:
    """Words to int64 in [0, limit). The bias is limit / 2^32: one part in 65,536 for 65,536 codes."""
    return (words * limit) >> 32


def gumbel(seed: int, samples: Tensor, cells: Tensor, codebook_size: int, *, attempt: Tensor | None = None) -> Tensor:
    """Gumbel(0, 1) noise for sampling: sample numbers and cells, int64 (...) that broadcast -> float64 (..., K).

    A cell is `row * 65536 + column`, so it keeps its noise when the picture grows. `attempt` as in `words`.
    `-log(-log u)` is computed in float64, where devices differ only in the last bits; for devices without float64 the
    CPU computes it.
    """
    if samples.device.type == "mps":
        attempt = None if attempt is None else attempt.cpu()
        return gumbel(seed, samples.cpu(), cells.cpu(), codebook_size, attempt=attempt).float().to(samples.device)
    u = uniform(seed, Stream.SAMPLE, samples, cells, codebook_size, attempt=attempt)
    return u.log_().neg_().log_().neg_()


def cell(row: Tensor, column: Tensor) -> Tensor:
    """The number of a cell, as `gumbel` takes it."""
    return row * 65536 + column
