"""Speculative sampling: the same codes in fewer forwards, and what it counts."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig, SampleConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.completion import complete
from taming_cli.prior.estimate import sampling_cost
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.networks.cache import KVCache
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.generate import generate
from taming_cli.prior.raster.speculation import POWER, DraftLength, NoiseAhead, Spent
from tests.test_gpt import toy
from tests.test_pipeline import saved

WINDOW = Size(6, 4)
CONFIG = PriorConfig(arch="modern", n_layer=2, n_head=2, n_embd=16, codebook_size=12, window=WINDOW)


def sharp() -> GPT:
    """A prior with likely codes, as a trained one has."""
    gpt = toy(CONFIG, 3)
    with torch.no_grad():
        gpt.head.weight.mul_(3)
    return gpt


@pytest.mark.parametrize("size", [(4, 6), (13, 11)])
def test_fewer_forwards_draw_the_same_codes(size: tuple[int, int]) -> None:
    gpt, settings = sharp(), {"size": size, "samples": [5], "seed": 2, "decoding": DecodingConfig(), "stride": 1}
    counted = {speculate: Spent(1) for speculate in (1, 0, 2, 8)}
    drawn = [generate(gpt, speculate=n, spent=of, **settings) for n, of in counted.items()]  # type: ignore[arg-type]
    assert all(torch.equal(drawn[0], other) for other in drawn)
    cost = sampling_cost(CONFIG, Size(size[1], size[0]), 1, 32, guided=False)
    assert (counted[1].forwards, counted[1].tokens) == ([cost.forwards], [cost.tokens])
    assert counted[1].guesses == 0
    if size == (4, 6):  # one window
        assert counted[8].forwards[0] < 0.8 * cost.forwards
        for spent in counted.values():
            assert spent.forwards[0] + spent.right == cost.forwards
            assert spent.tokens[0] == spent.forwards[0] + spent.guesses


def test_a_certain_prior_is_right_at_once() -> None:
    """A prior whose code depends on the cell alone: every guess is right from the second look on."""
    gpt = toy(CONFIG, 0)
    with torch.no_grad():
        gpt.head.weight.zero_()
    spent = Spent(1)
    generate(gpt, size=(4, 6), samples=[0], seed=1, decoding=DecodingConfig(), speculate=8, spent=spent)
    assert spent.forwards == [4]  # one cell, then 8, 8 and 7
    assert spent.right == 20
    assert spent.guesses == 20


def test_candidates_of_a_completion_are_the_same() -> None:
    gpt, generator = sharp(), torch.Generator().manual_seed(1)
    mask = torch.rand((9, 8), generator=generator) < 0.5
    known = KnownCells(torch.randint(12, (1, 9, 8), generator=generator), mask)
    settings = {"samples": [1, 2], "seed": 4, "decoding": DecodingConfig(), "candidates": 3}
    one, many = (complete(gpt, known, speculate=n, **settings) for n in (1, 0))  # type: ignore[arg-type]
    assert torch.equal(one.codes, many.codes)
    assert torch.equal(one.chosen, many.chosen)


def test_the_cache_extends_rows_of_different_lengths() -> None:
    gpt = toy(CONFIG, 1)
    codes = torch.randint(12, (3, 23), generator=torch.Generator().manual_seed(0))
    start = torch.full((3, 1), CONFIG.codebook_size)
    expected = gpt(start, codes)
    for known in ([2, 5, 3], [4, 4, 4], [18, 2, 20]):
        cache = KVCache(CONFIG, 3, dtype=torch.float64, device=torch.device("cpu"))
        gpt.prefill(cache, start, codes[:, : max(known)], known)
        rows = [codes[row, n : n + 4] for row, n in enumerate(known)]
        given = torch.stack([torch.cat((row, row.new_zeros(4 - len(row)))) for row in rows])
        logits = gpt.extend(cache, given)
        for row, n in enumerate(known):
            inside = len(rows[row][: 22 - n])  # the last code predicts nothing
            torch.testing.assert_close(logits[row, :inside], expected[row, n + 1 : n + 1 + inside])
        cache.keep([1, 3, 2])
        assert cache.lengths == [1 + n + more for n, more in zip(known, (1, 3, 2), strict=True)]


def draft(device: str = "cpu", fixed: int = 0, dtype: torch.dtype = torch.float32) -> DraftLength:
    return DraftLength(device, dtype, fixed)


def test_the_length_follows_what_was_right() -> None:
    length = draft()
    assert length.power == pytest.approx(POWER)
    assert (length.choose(1, 100), length.choose(4, 100), draft("cuda").choose(1, 100)) == (16, 4, 64)
    assert length.choose(1, 5) == 5
    for _ in range(300):
        length.count(8, [8, 0, 8])  # a finished row does not count
    assert length.power == pytest.approx(1, abs=0.01)
    assert length.choose(1, 100) == 64
    for _ in range(300):
        length.count(64, [1])
    assert length.power == pytest.approx(0, abs=0.01)
    assert [length.choose(1, 100) for _ in range(32)] == 2 * (15 * [1] + [4])  # guesses are tried again
    for _ in range(300):
        length.count(2, [2])
    assert length.choose(1, 100) == 64
    assert [draft(fixed=3).choose(1, most) for most in (1, 2, 3, 9)] == [1, 2, 3, 3]


def test_many_rows_are_drawn_cell_by_cell() -> None:
    assert [draft().one_by_one(rows) for rows in (1, 4, 16)] == [False, True, True]
    assert [draft("cuda").one_by_one(rows) for rows in (1, 16, 256)] == [False, False, True]
    assert not draft(fixed=2).one_by_one(64)
    assert draft(fixed=1).one_by_one(1)
    assert not draft(dtype=torch.bfloat16).one_by_one(4)
    assert draft("mps").cost == draft().cost
    assert draft("cuda", dtype=torch.bfloat16).cost == draft("cuda", dtype=torch.float16).cost == draft("cuda").cost


def test_noise_is_that_of_each_cell_at_any_place() -> None:
    cells = torch.arange(300).view(2, 150)

    def make(row: int, of: Tensor) -> Tensor:
        return torch.stack((of.double(), torch.full(of.shape, float(row))), dim=1)

    noise = NoiseAhead(make, cells, 1)
    for start, count in (([0, 0], 3), ([5, 60], 16), ([140, 149], 4), ([150, 20], 2)):
        got = noise.at(start, count)
        assert got is not None
        for row, first in enumerate(start):
            expected = [int(cells[row, min(first + n, 149)]) for n in range(count)]
            assert got[row, :, 0].tolist() == expected
            assert got[row, :, 1].unique().tolist() == [row]


@pytest.mark.parametrize("value", ["1", "65", "on", "-2"])
def test_other_values_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="use auto, off, or 2 to 64"):
        SampleConfig(speculate=value)
    assert [SampleConfig(speculate=each).cells_ahead for each in ("auto", "off", "7")] == [0, 1, 7]


def test_the_command_draws_the_same_and_says_what_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ckpt = saved(tmp_path / "prior.safetensors", classes=True)
    said, codes = {}, {}
    for value in ("off", "auto", "4"):
        out = tmp_path / value
        line = ["sample", "--ckpt", str(ckpt), "-n", "2", "--seed", "1", "--size", "8x8", "--json"]
        more = ["--batch-size", "1", "--speculate", value, "--device", "cpu", "-o", str(out), "--tokens", f"{out}.h5"]
        assert main([*line, *more, "-v"]) == 0
        printed = capsys.readouterr()
        assert ("guessed codes: " in printed.err) == (value != "off")
        said[value] = [json.loads(each) for each in printed.out.splitlines()]
        with h5py.File(f"{out}.h5") as file:
            codes[value] = file["codes"][:]
    np.testing.assert_array_equal(codes["off"], codes["auto"])
    np.testing.assert_array_equal(codes["off"], codes["4"])
    for off, four in zip(said["off"], said["4"], strict=True):
        assert off["forwards"] >= four["forwards"] > 0
        assert off["tokens"] <= four["tokens"]
