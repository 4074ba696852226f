"""Likelihood against one full forward per cell, against what sampling draws, and against the golden number."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.layout import NOT_GIVEN, prefix
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.raster.generate import generate
from taming_cli.prior.raster.likelihood import log_likelihood
from taming_cli.prior.raster.order import in_order
from taming_cli.prior.state import nats
from tests.test_generate import random_conditions
from tests.test_gpt import golden_prior, golden_segmentation, toy
from tests.test_order import PUBLISHED
from tests.test_order import prior as ordered

CPU = torch.device("cpu")


def one_forward_per_cell(gpt: GPT, codes: Tensor, conditions: dict[str, Tensor], stride: int) -> Tensor:
    """One picture (h, w), its conditions (length,) or (h, w): log p of each cell, from its whole window alone."""
    (h, w), config = codes.shape, gpt.config
    a, b = config.window.height, config.window.width
    high, wide = max(h, a), max(w, b)
    found = torch.zeros(h, w, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            top = min(max(i - a // 2, 0), high - a)
            left = min(max(j - j % stride - b // 2 + stride // 2, 0), wide - b)
            rows = [min(top + n, h - 1) for n in range(a)]
            columns = [min(left + n, w - 1) for n in range(b)]
            here = {}
            for spec in config.conditions:
                if spec.kind in conditions:
                    value = conditions[spec.kind]
                    here[spec.kind] = (value[rows][:, columns] if spec.form == "grid" else value)[None]
            window = codes[rows][:, columns].flatten()
            at = (i - top) * b + j - left
            window[at + 1 :] = 0  # what comes later must not matter
            with torch.inference_mode():
                logits = gpt(prefix(config, here, 1, CPU), window[None])[0, at].double()
            found[i, j] = logits.log_softmax(0)[codes[i, j]]
    return found


@pytest.mark.parametrize("trial", range(30))
def test_each_cell_has_the_likelihood_of_a_full_forward_of_its_window(trial: int) -> None:
    rng = random.Random(trial)
    torch.manual_seed(trial)
    window = Size(rng.randint(1, 8), rng.randint(1, 6))
    half = max(1, window.width // 2)
    stride = rng.choice([s for s in range(1, half + 1) if half % s == 0])
    size = (rng.randint(1, 12), rng.randint(1, 20))
    shared = rng.random() < 0.2
    kinds = [
        ConditionSpec(kind="class", vocabulary=4),
        ConditionSpec(kind="depth", vocabulary=5, form="grid"),
        ConditionSpec(kind="edges", vocabulary=3, form="grid"),
    ]
    config = PriorConfig(
        arch="published" if shared else rng.choice(["modern", "published"]),
        vocabulary="shared" if shared else "separate",
        n_layer=2,
        n_head=2,
        n_embd=8,
        codebook_size=rng.randint(2, 9),
        window=window,
        conditions=tuple(spec for spec in kinds if rng.random() < 0.5),
    )
    gpt, samples = toy(config, trial), rng.randint(1, 3)
    codes = torch.randint(config.codebook_size, (samples, *size))
    conditions = random_conditions(config, samples, size)
    if not shared:
        for kind in list(conditions):
            if rng.random() < 0.2:
                conditions[kind][0] = NOT_GIVEN
            if rng.random() < 0.2:
                del conditions[kind]
    told: list[tuple[int, int]] = []
    asked = None if rng.random() < 0.5 else torch.rand(size) < 0.4
    got = log_likelihood(
        gpt,
        codes,
        conditions=conditions,
        stride=stride,
        batch_size=rng.choice([1, 3, 7, 64]),
        cells=asked,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert (got.shape, got.dtype) == (codes.shape, torch.float64)
    for n in range(samples):
        own = {kind: values[n] for kind, values in conditions.items()}
        expected = one_forward_per_cell(gpt, codes[n], own, stride)
        if asked is not None:
            expected = expected * asked
        torch.testing.assert_close(got[n], expected, rtol=0, atol=1e-9)
    count = samples * (size[0] * size[1] if asked is None else int(asked.sum()))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} <= {count}
    assert not count or told[-1][0] == count


@pytest.mark.parametrize("order", PUBLISHED)
def test_in_every_order_a_cell_is_predicted_from_those_before_it(order: Any) -> None:
    config = ordered(order, conditions=(ConditionSpec(kind="depth", vocabulary=6, form="grid"),))
    gpt, codes = toy(config), torch.randint(6, (3, 4, 4))
    depth = {"depth": torch.randint(6, (3, 4, 4))}
    got = log_likelihood(gpt, codes, conditions=depth, batch_size=2)
    with torch.inference_mode():
        for place, number in enumerate(PUBLISHED[order]):
            logits = gpt(prefix(config, depth, 3, CPU), in_order(config, codes)[:, : place + 1])[:, place]
            expected = logits.log_softmax(1)[range(3), codes.flatten(1)[:, number]]
            torch.testing.assert_close(got.flatten(1)[:, number], expected, rtol=0, atol=1e-9)
    for number in range(16):
        asked = torch.zeros(4, 4, dtype=torch.bool)
        asked.view(-1)[number] = True
        one = log_likelihood(gpt, codes, conditions=depth, cells=asked)
        torch.testing.assert_close(one, got * asked, rtol=0, atol=1e-9)


def binary_prior(window: Size) -> GPT:
    return toy(PriorConfig(arch="modern", n_layer=1, n_head=2, n_embd=8, codebook_size=2, window=window), 3)


@pytest.mark.parametrize(
    ("window", "size", "stride"),
    [
        (Size(2, 2), (2, 5), 1),  # sliding to the right
        (Size(4, 1), (2, 5), 2),  # two columns at a time, and downwards
        (Size(5, 3), (3, 3), 1),  # narrower than the window
        (Size(2, 4), (1, 8), 1),  # lower than the window
    ],
)
def test_the_probabilities_of_all_pictures_sum_to_one(window: Size, size: tuple[int, int], stride: int) -> None:
    pictures = torch.tensor(list(itertools.product(range(2), repeat=size[0] * size[1]))).view(-1, *size)
    total = log_likelihood(binary_prior(window), pictures, stride=stride, batch_size=512).sum(dim=(1, 2))
    assert total.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_pictures_are_drawn_as_often_as_they_are_likely(stride: int) -> None:
    gpt, drawn = binary_prior(Size(4, 1)), 20_000
    pictures = torch.tensor(list(itertools.product(range(2), repeat=6))).view(-1, 1, 6)
    expected = drawn * log_likelihood(gpt, pictures, stride=stride, batch_size=64).sum(dim=(1, 2)).exp()
    codes = generate(
        gpt, size=(1, 6), samples=range(drawn), seed=1, decoding=DecodingConfig(), stride=stride, batch_size=4000
    )
    counts = (codes.flatten(1) * 2 ** torch.arange(5, -1, -1)).sum(1).bincount(minlength=64)
    likely = expected > 5  # below, chi-square is no good approximation
    chi2 = ((counts - expected)[likely] ** 2 / expected[likely]).sum().item()
    cells = int(likely.sum())
    assert cells > 20
    assert chi2 < cells + 4 * math.sqrt(2 * cells)


def test_the_probabilities_of_a_cells_codes_sum_to_one() -> None:
    depth = ConditionSpec(kind="depth", vocabulary=5, form="grid")
    config = PriorConfig(
        arch="modern", n_layer=1, n_head=2, n_embd=8, codebook_size=9, window=Size(4, 3), conditions=(depth,)
    )
    codes = torch.randint(9, (1, 6, 7)).repeat(9, 1, 1)
    codes[:, 3, 4] = torch.arange(9)
    only = torch.zeros(6, 7, dtype=torch.bool)
    only[3, 4] = True
    given = {"depth": torch.randint(5, (1, 6, 7)).repeat(9, 1, 1)}
    found = log_likelihood(toy(config), codes, conditions=given, cells=only)
    assert found.exp()[:, 3, 4].sum().item() == pytest.approx(1, abs=1e-12)
    assert (found != 0).sum() == 9


def test_on_one_window_its_mean_is_the_loss_of_training() -> None:
    gpt, io = golden_prior()
    codes, classes = torch.from_numpy(io["greedy"]).view(2, 16, 16), torch.from_numpy(io["classes"])
    found = log_likelihood(gpt, codes, conditions={"class": classes})
    batch = TokenBatch(codes.flatten(1), codes.flatten(1), {"class": classes})
    with torch.inference_mode():
        loss = nats(gpt, batch, torch.float32)
    assert -found.mean().item() == pytest.approx(loss.item(), abs=1e-6)


def test_golden_nats_per_token(shared: Path) -> None:
    gpt, io = golden_segmentation(shared)
    segmentation = {"segmentation": torch.from_numpy(io["cond_indices"])[:, :16, :16]}
    found = log_likelihood(gpt, torch.from_numpy(io["z"]).view(1, 16, 16), conditions=segmentation)
    assert -found.mean().item() == pytest.approx(float(io["nll"]), abs=1e-4)


def test_a_greedy_picture_has_the_most_likely_code_at_every_cell(shared: Path) -> None:
    gpt, io = golden_segmentation(shared)
    codes, segmentation = torch.from_numpy(io["greedy_sliding"]), {"segmentation": torch.from_numpy(io["cond_indices"])}
    i, j = 9, 13
    others = codes.repeat(128, 1, 1)
    others[:, i, j] = torch.arange(128)
    only = torch.zeros(18, 22, dtype=torch.bool)
    only[i, j] = True
    repeated = {"segmentation": segmentation["segmentation"].repeat(128, 1, 1)}
    assert log_likelihood(gpt, others, conditions=repeated, cells=only)[:, i, j].argmax() == codes[0, i, j]


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (torch.full((1, 4, 4), 2), {}, "code 2 is out of range; this prior has 0 to 1"),
        (torch.full((1, 4, 4), -1), {}, "code -1 is out of range"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), {"stride": 3}, "stride is 3"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), {"conditions": {"class": torch.zeros(1, 1)}}, "it has no condition"),
    ],
)
def test_what_does_not_fit_the_prior_is_refused(codes: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        log_likelihood(binary_prior(Size(4, 4)), codes, **options)
