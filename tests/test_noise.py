"""The counter-based generator: known answers, statistics, and that a number depends on nothing but its place."""

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.prior.noise import Stream, below, cell, gumbel, philox, uniform, words
from taming_cli.prior.raster import generate as generating
from taming_cli.prior.raster.generate import noise_block
from tests.test_generate import class_prior

# From Random123's kat_vectors: counter, key, result of philox4x32-10.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_in_python_integers(counter: list[int], key: list[int]) -> list[int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    tensors = tuple(torch.tensor([value]) for value in counter)
    assert tuple(int(word) for word in philox(tensors, key)) == expected  # type: ignore[arg-type]


def test_words_are_philox_of_block_minor_major_stream() -> None:
    seed, major, minor = 0x0123456789ABCDEF, torch.tensor([7, 2**32 - 1]), torch.tensor([[3], [9], [65536 * 51 + 79]])
    got = words(seed, Stream.CROP, major, minor, 10)
    assert got.shape == (3, 2, 10)
    for i, low in enumerate(minor.flatten().tolist()):
        for j, high in enumerate(major.tolist()):
            blocks = [philox_in_python_integers([b, low, high, 2], [0x89ABCDEF, 0x01234567]) for b in range(3)]
            assert got[i, j].tolist() == [word for block in blocks for word in block][:10]


def test_noise_of_a_cell_does_not_depend_on_its_batch_or_the_codebook_size() -> None:
    samples, cells = torch.arange(5)[:, None], cell(torch.arange(4), torch.arange(4) + 3)
    together = gumbel(11, samples, cells, 50)
    alone = gumbel(11, torch.tensor(3), cell(torch.tensor(2), torch.tensor(5)), 33)
    assert torch.equal(together[3, 2, :33], alone)


def test_seed_sample_cell_and_stream_each_change_the_noise() -> None:
    zero, one = torch.tensor(0), torch.tensor(1)
    base = uniform(1, Stream.SAMPLE, zero, zero, 8)
    for other in (
        uniform(2, Stream.SAMPLE, zero, zero, 8),
        uniform(1 + 2**32, Stream.SAMPLE, zero, zero, 8),
        uniform(1, Stream.ORDER, zero, zero, 8),
        uniform(1, Stream.SAMPLE, one, zero, 8),
        uniform(1, Stream.SAMPLE, zero, one, 8),
        uniform(1, Stream.SAMPLE, zero, zero, 8, attempt=one),
    ):
        assert (base != other).all()


def test_an_attempt_is_the_fourth_counter_and_the_first_of_them_changes_nothing() -> None:
    numbers, attempts = torch.arange(3), torch.tensor([0, 1, 2**24 - 1])
    got = words(5, Stream.CROP, numbers, numbers + 7, 4, attempt=attempts)
    for n, attempt in enumerate(attempts.tolist()):
        assert got[n].tolist() == philox_in_python_integers([0, n + 7, n, 2 + 256 * attempt], [5, 0])
    assert torch.equal(got[0], words(5, Stream.CROP, numbers, numbers + 7, 4)[0])
    again = gumbel(5, numbers, numbers, 9, attempt=torch.zeros_like(numbers))
    assert torch.equal(again, gumbel(5, numbers, numbers, 9))


def test_gumbel_is_finite_at_both_ends_and_has_its_mean_and_variance() -> None:
    ends = (torch.tensor([0, 2**32 - 1]).double() + 0.5) * 2.0**-32
    assert torch.isfinite(-torch.log(-torch.log(ends))).all()
    noise = gumbel(5, torch.arange(40)[:, None], torch.arange(25), 1000).flatten()  # a million
    assert noise.mean().item() == pytest.approx(0.5772157, abs=5 * math.sqrt(math.pi**2 / 6 / 1e6))
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.01)


def test_argmax_of_logits_plus_noise_is_a_draw_from_their_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    draws = (logits + gumbel(9, torch.arange(200)[:, None], torch.arange(500), 5)).argmax(-1).flatten()
    expected = logits.softmax(0) * 100_000
    chi2 = ((draws.bincount(minlength=5) - expected) ** 2 / expected).sum().item()
    assert chi2 < 18.5  # the 99.9 % point of chi-square with 4 degrees of freedom


def test_integers_are_uniform_and_in_range() -> None:
    drawn = below(7, words(3, Stream.REPLACE, torch.arange(100), torch.arange(100), 1000)).flatten()
    counts = drawn.bincount(minlength=7).double()
    assert len(counts) == 7
    chi2 = ((counts - 1e5 / 7) ** 2 / (1e5 / 7)).sum().item()
    assert chi2 < 22.5  # 99.9 %, 6 degrees of freedom


class Counted(TorchDispatchMode):
    """Counts the operations that start something on a device: all but views."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(each.alias_info and not each.alias_info.is_write for each in func._schema.arguments)
        return func(*args, **(kwargs or {}))


def test_noise_takes_few_operations_and_on_a_gpu_few_for_each_step() -> None:
    rows, codebook_size = 2, 64
    samples, cells, attempts = torch.arange(rows)[:, None], torch.arange(3), torch.zeros(rows, 1, dtype=torch.int64)
    with Counted() as counted:
        gumbel(7, samples, cells, codebook_size, attempt=attempts)
    assert counted.count <= 113  # 131 before the words were masked but once a round
    steps = noise_block("cuda", 16 * 16384)
    assert steps >= 32
    assert counted.count / steps < 4, "for each recorded step of 16 windows of 16,384 codes"
    assert noise_block("cuda", 2**30) == 1
    assert noise_block("mps", 1024) == noise_block("cpu", 1024) == 256, "in cache"


def test_what_is_drawn_does_not_depend_on_how_much_noise_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt, drawn = class_prior(Size(6, 6)), []
    for block in (1, 100, 2**23):
        monkeypatch.setattr(generating, "NOISE_BLOCK", {"cpu": block})
        given = {"samples": range(2), "seed": 3, "decoding": DecodingConfig()}
        drawn.append(generating.generate(gpt, size=(6, 6), **given))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
