"""Sampling against a brute-force sampler that runs one full forward per cell, and against the golden tokens."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.sampling import DecodingConfig, SampleConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.layout import NOT_GIVEN, KnownCells, prefix
from taming_cli.prior.networks.cache import KVCache
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster import buffers, code_grid
from taming_cli.prior.raster.buffers import BufferCache, DecodingBuffers
from taming_cli.prior.raster.generate import generate
from tests.test_gpt import golden_prior, golden_segmentation, toy

MASK = 2**32 - 1


def word(seed: int, sample: int, row: int, column: int, code: int, attempt: int = 0) -> int:
    """The 32-bit word behind one number of the noise, from the definition of Philox-4x32-10, in Python integers."""
    c0, c1, c2, c3, k0, k1 = code // 4, row * 65536 + column, sample, 256 * attempt, seed & MASK, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return (c0, c1, c2, c3)[code % 4]


def brute_force(
    gpt: GPT,
    size: tuple[int, int],
    sample: int,
    seed: int,
    decoding: DecodingConfig,
    conditions: dict[str, Tensor],
    stride: int,
    given: tuple[Tensor, Tensor] | None = None,
    attempt: int = 0,
) -> Tensor:
    """One sample, (h, w): every cell from one full forward of its whole window; what is not known yet is code 0.

    `conditions`: (length,) or (h, w). Only temperature, top-k and guidance of `decoding`.
    """
    (h, w), config = size, gpt.config
    a, b = config.window.height, config.window.width
    high, wide = max(h, a), max(w, b)
    forms = {spec.kind: spec.form for spec in config.conditions}
    grid = torch.zeros(high, wide, dtype=torch.int64)
    for i in range(high):
        for j in range(wide):
            if given is not None and i < h and j < w and given[1][i, j]:
                grid[i, j] = given[0][i, j]
                continue
            top = min(max(i - a // 2, 0), high - a)
            left = min(max(j - j % stride - b // 2 + stride // 2, 0), wide - b)
            here = {}
            for kind, codes in conditions.items():
                if forms[kind] == "grid":
                    rows = [min(top + n, h - 1) for n in range(a)]
                    columns = [min(left + n, w - 1) for n in range(b)]
                    here[kind] = codes[rows][:, columns][None]
                else:
                    here[kind] = codes[None]
            window = grid[top : top + a, left : left + b].reshape(1, -1)
            at = (i - top) * b + j - left
            with torch.inference_mode():
                logits = gpt(prefix(config, here, 1, window.device), window)[0, at]
                if decoding.guided:
                    free = gpt(prefix(config, {}, 1, window.device), window)[0, at]
                    logits = free + decoding.at(0).guidance * (logits - free)
            scores = [value / decoding.at(0).temperature for value in logits.tolist()]
            if decoding.top_k:
                kth = sorted(scores)[-min(decoding.top_k, len(scores))]
                scores = [s if s >= kth else -math.inf for s in scores]
            if not decoding.greedy:
                uniform = [(word(seed, sample, i, j, k, attempt) + 0.5) / 2**32 for k in range(len(scores))]
                scores = [s - math.log(-math.log(u)) for s, u in zip(scores, uniform, strict=True)]
            grid[i, j] = scores.index(max(scores))
    return grid[:h, :w]


def random_conditions(config: PriorConfig, samples: int, size: tuple[int, int]) -> dict[str, Tensor]:
    shapes = {spec.kind: (size if spec.form == "grid" else (spec.length,)) for spec in config.conditions}
    return {spec.kind: torch.randint(spec.vocabulary, (samples, *shapes[spec.kind])) for spec in config.conditions}


def random_size(rng: random.Random, trial: int) -> tuple[int, int]:
    """Often small, now and then up to 36 a side; the published window on a tall latent and on a wide one."""
    if trial < 2:
        return ((40, 18), (17, 40))[trial]
    longest = 36 if trial % 6 == 0 else 12
    return rng.randint(1, longest), rng.randint(1, longest)


class Recording(BufferCache):
    """Steps of fixed shapes, as on a CUDA device, where graphs hold them."""

    def make(self, gpt: GPT, decoding: DecodingConfig, windows: int) -> DecodingBuffers:
        return DecodingBuffers(gpt, decoding, windows, recorded=True)


@pytest.mark.parametrize("trial", range(48))
def test_waves_equal_brute_force_token_for_token(trial: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(trial)
    torch.manual_seed(trial)
    window = Size(16, 16) if trial < 2 else Size(rng.randint(1, 9), rng.randint(1, 7))
    half = max(1, window.width // 2)
    stride = rng.choice([s for s in range(1, half + 1) if half % s == 0])
    size = random_size(rng, trial)
    kinds = [
        ConditionSpec(kind="class", vocabulary=4),
        ConditionSpec(kind="depth", vocabulary=5, form="grid"),
        ConditionSpec(kind="edges", vocabulary=3, form="grid"),
    ]
    config = PriorConfig(
        arch=rng.choice(["modern", "published"]),
        n_layer=1,
        n_head=2,
        n_embd=8,
        codebook_size=rng.randint(2, 9),
        window=window,
        conditions=tuple(spec for spec in kinds if rng.random() < 0.5),
    )
    gpt = toy(config, trial)
    decoding = DecodingConfig(
        temperature=rng.choice([0.5, 1.0, 1.7]),
        top_k=rng.choice([0, 3]),
        guidance=rng.choice([1.0, 2.5]) if config.conditions else 1.0,
        greedy=rng.random() < 0.2,
    )
    numbers = rng.sample(range(1000), 1 if size[0] * size[1] > 144 else rng.randint(1, 3))
    seed = rng.randrange(2**63)
    conditions = random_conditions(config, len(numbers), size)
    given = None
    if rng.random() < 0.3:
        given = KnownCells(torch.randint(config.codebook_size, (1, *size)), torch.rand(size) < rng.choice([0.3, 0.9]))
    steps: list[tuple[int, int]] = []
    batch_size = rng.choice([1, 2, 3, 5, 64])
    monkeypatch.setattr(buffers, "REACH", 16)
    ahead = rng.randint(2, 24)
    codes, *others = (
        generate(
            gpt,
            size=size,
            samples=numbers,
            seed=seed,
            decoding=decoding,
            conditions=conditions,
            stride=stride,
            batch_size=batch_size,
            known=given,
            buffers=kept,
            speculate=speculate,
            on_progress=lambda done, total: steps.append((done, total)),
        )
        for kept, speculate in ((None, 1), (Recording(), 1), (None, 0), (None, ahead), (Recording(), ahead))
    )
    assert all(torch.equal(codes, other) for other in others)
    assert codes.shape == (len(numbers), *size)
    for n, number in enumerate(numbers):
        own = {kind: values[n] for kind, values in conditions.items()}
        known = None if given is None else (given.codes[0], given.mask)
        assert torch.equal(codes[n], brute_force(gpt, size, number, seed, decoding, own, stride, known))
    assert not steps or steps[-1][0] == steps[-1][1]


def class_prior_config(window: Size) -> PriorConfig:
    conditions = (ConditionSpec(kind="class", vocabulary=4),)
    return PriorConfig(
        arch="modern", n_layer=2, n_head=2, n_embd=16, codebook_size=20, window=window, conditions=conditions
    )


def class_prior(window: Size) -> GPT:
    return toy(class_prior_config(window))


@pytest.mark.parametrize(("size", "stride"), [((7, 15), 1), ((4, 5), 1), ((11, 13), 3), ((3, 40), 1)], ids=str)
def test_one_sample_alone_equals_the_same_out_of_a_batch(size: tuple[int, int], stride: int) -> None:
    kinds = (ConditionSpec(kind="class", vocabulary=4), ConditionSpec(kind="depth", vocabulary=5, form="grid"))
    gpt = toy(
        PriorConfig(
            arch="modern", n_layer=2, n_head=2, n_embd=16, codebook_size=20, window=Size(6, 6), conditions=kinds
        )
    )
    given = {"class": torch.arange(16)[:, None] % 4, "depth": torch.randint(5, (16, *size))}
    drawing = {"size": size, "seed": 3, "decoding": DecodingConfig(guidance=1.5), "stride": stride}
    together = generate(gpt, samples=range(16), conditions=given, batch_size=7, **drawing)  # type: ignore[arg-type]
    own = {kind: codes[11:12] for kind, codes in given.items()}
    alone = generate(gpt, samples=[11], conditions=own, **drawing)  # type: ignore[arg-type]
    assert torch.equal(together[11], alone[0])
    assert len({tuple(sample.flatten().tolist()) for sample in together}) == 16


def test_buffers_are_reused_while_they_fit() -> None:
    gpt, kept = class_prior(Size(6, 6)), BufferCache()
    first = kept.get(gpt, SampleConfig(seed=1), 4)
    assert kept.get(gpt, SampleConfig(seed=2, n=7), 3) is first
    for other in (SampleConfig(temperature=0.5), SampleConfig(guidance=2)):
        assert kept.get(gpt, other, 3) is not first
    wider = kept.get(gpt, SampleConfig(), 5)
    assert wider is not first
    assert kept.get(class_prior(Size(6, 6)), SampleConfig(), 5) is not wider


def test_reusing_the_buffers_of_a_wider_batch_changes_nothing() -> None:
    gpt = class_prior(Size(6, 6))
    drawing = {"size": (7, 15), "seed": 3, "decoding": DecodingConfig(guidance=1.5), "stride": 3}
    for kept in (BufferCache(), Recording()):
        generate(gpt, samples=range(9), conditions={"class": torch.arange(9)[:, None] % 4}, buffers=kept, **drawing)  # type: ignore[arg-type]
        given = {"class": torch.tensor([[2], [1]])}
        again = generate(gpt, samples=[3, 4], conditions=given, buffers=kept, **drawing)  # type: ignore[arg-type]
        assert torch.equal(again, generate(gpt, samples=[3, 4], conditions=given, **drawing))  # type: ignore[arg-type]


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values, anything that needs one on the host fails. Conditions are looked at once, before."""
    monkeypatch.setattr(code_grid, "check_conditions", lambda *given: None)
    monkeypatch.setattr(buffers.RecordedSteps, "_captured", lambda self, run: run)
    with FakeTensorMode(), torch.device("cuda"):
        drawn = generate(
            GPT(class_prior_config(Size(6, 6))).eval(),
            size=(9, 14),
            samples=range(3),
            seed=0,
            decoding=DecodingConfig(guidance=2, top_k=5, top_p=0.9, min_p=0.01),
            conditions={"class": torch.zeros(3, 1, dtype=torch.int64)},
            stride=3,
            buffers=Recording(),
        )
        assert drawn.device.type == "cuda"


CORNERS = {  # of a window 8 cells wide and 4 high, on a latent of 7 x 20 cells: for each column, and for each row
    1: [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12],
    2: [0, 0, 0, 0, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 12, 12, 12, 12],
    4: [0, 0, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10, 10, 12, 12, 12, 12],
}
TOPS = [0, 0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("stride", CORNERS)
def test_each_cell_sees_the_window_that_the_stride_gives_it(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by hand. The condition numbers the cells, so that what the network reads tells where its window lies."""
    spec = ConditionSpec(kind="place", vocabulary=7 * 20, form="grid")
    window = Size(8, 4)
    gpt = toy(
        PriorConfig(arch="modern", n_layer=1, n_head=1, n_embd=4, codebook_size=5, window=window, conditions=(spec,))
    )
    read: list[tuple[Tensor, Tensor]] = []
    prefill = gpt.prefill

    def spy(cache: KVCache, before: Tensor, codes: Tensor, known: list[int]) -> Tensor:
        read.append((before - 5, codes[:, : known[0]]))  # the condition's codes stand behind the image's five
        return prefill(cache, before, codes, known)

    monkeypatch.setattr(gpt, "prefill", spy)
    places = torch.arange(140).view(1, 7, 20)
    picture = torch.randint(5, (1, 7, 20))
    for i in range(7):
        for j in range(20):
            keep = torch.ones(7, 20, dtype=torch.bool)
            keep[i, j] = False  # so that one cell alone is drawn
            drawn = {"samples": [0], "seed": 0, "decoding": DecodingConfig(), "known": KnownCells(picture, keep)}
            generate(gpt, size=(7, 20), conditions={"place": places}, stride=stride, **drawn)  # type: ignore[arg-type]
            seen, codes = read.pop()
            assert not read
            top, left = TOPS[i], CORNERS[stride][j]
            expected = places[0, top : top + 4, left : left + 8]
            assert torch.equal(seen[0], expected.flatten())
            before = [cell for cell in expected.flatten().tolist() if cell < i * 20 + j]
            assert torch.equal(codes[0], picture.flatten()[before])


def test_given_codes_stay_and_all_of_them_cost_nothing() -> None:
    gpt, size = class_prior(Size(4, 4)), (6, 9)
    codes, keep = torch.randint(20, (2, *size)), torch.rand(size) < 0.5
    drawing = {"size": size, "samples": [0, 1], "seed": 3, "decoding": DecodingConfig()}
    drawn = generate(gpt, known=KnownCells(codes, keep), **drawing)  # type: ignore[arg-type]
    assert torch.equal(drawn[:, keep], codes[:, keep])
    assert not torch.equal(drawn, codes)
    calls: list[tuple[int, int]] = []
    whole = KnownCells(codes, torch.ones(size, dtype=torch.bool))
    kept = generate(gpt, known=whole, on_progress=lambda *call: calls.append(call), **drawing)  # type: ignore[arg-type]
    assert torch.equal(kept, codes)
    assert calls == []


def test_a_condition_that_is_not_given_is_the_null_token() -> None:
    gpt = class_prior(Size(4, 4))
    drawing = {"size": (4, 4), "samples": [0], "seed": 3, "decoding": DecodingConfig()}
    left_out = generate(gpt, **drawing)  # type: ignore[arg-type]
    explicit = generate(gpt, conditions={"class": torch.tensor([[NOT_GIVEN]])}, **drawing)  # type: ignore[arg-type]
    assert torch.equal(left_out, explicit)


@pytest.mark.parametrize("speculate", [1, 0, 5])
def test_golden_class_tokens(speculate: int) -> None:
    gpt, io = golden_prior()
    classes = {"class": torch.from_numpy(io["classes"])}
    codes = generate(
        gpt,
        size=(16, 16),
        samples=[0, 1],
        seed=0,
        decoding=DecodingConfig(greedy=True),
        conditions=classes,
        speculate=speculate,
    )
    np.testing.assert_array_equal(codes.flatten(1).numpy(), io["greedy"])


@pytest.mark.parametrize("speculate", [1, 0, 5])
def test_golden_sliding_window(shared: Path, speculate: int) -> None:
    gpt, io = golden_segmentation(shared)
    segmentation = {"segmentation": torch.from_numpy(io["cond_indices"])}
    greedy = DecodingConfig(greedy=True)
    codes = generate(
        gpt, size=(18, 22), samples=[0], seed=0, decoding=greedy, conditions=segmentation, speculate=speculate
    )
    np.testing.assert_array_equal(codes.numpy(), io["greedy_sliding"])


@pytest.mark.parametrize(
    ("gpt", "message"),
    [
        (GPT(PriorConfig(arch="modern", n_layer=1, n_head=1, n_embd=4)), "guidance is 2, but"),
        (golden_prior()[0], "guidance is 2, but"),
    ],
)
def test_guidance_that_a_prior_cannot_give_is_refused(gpt: GPT, message: str) -> None:
    classes = {"class": torch.tensor([[1]])} if gpt.config.conditions else {}
    with pytest.raises(UsageError, match=message):
        generate(
            gpt.eval(),
            size=(4, 4),
            samples=[0],
            seed=0,
            decoding=DecodingConfig(guidance=2.0),
            conditions=classes,
        )
