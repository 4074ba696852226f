"""The orders of the published priors, and sampling in them."""

from typing import Any

import pytest
import torch

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.layout import KnownCells, prefix
from taming_cli.prior.noise import cell, gumbel
from taming_cli.prior.raster.generate import generate
from taming_cli.prior.raster.order import cells, in_order, on_grid
from tests.test_gpt import toy

PUBLISHED: dict[Any, list[int]] = {
    "raster": list(range(16)),
    "z-curve": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
    "spiral-out": [9, 5, 6, 10, 14, 13, 12, 8, 4, 0, 1, 2, 3, 7, 11, 15],
    "spiral-in": [15, 11, 7, 3, 2, 1, 0, 4, 8, 12, 13, 14, 10, 6, 5, 9],
    "alternating": [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12],
}
"""What the authors' permuters make of 4 x 4 cells."""


def prior(order: Any, **changes: Any) -> PriorConfig:
    given: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 8, "window": Size(4, 4), "codebook_size": 6}
    return PriorConfig(**{**given, "arch": "published", "vocabulary": "shared", "order": order, **changes})


@pytest.mark.parametrize("order", PUBLISHED)
def test_the_published_orders(order: Any) -> None:
    assert cells(prior(order)).tolist() == PUBLISHED[order]
    grid = torch.arange(32).view(2, 4, 4)
    assert in_order(prior(order), grid)[0].tolist() == PUBLISHED[order]
    assert torch.equal(on_grid(prior(order), in_order(prior(order), grid)), grid)


@pytest.mark.parametrize("order", PUBLISHED)
def test_each_code_is_drawn_from_those_before_it_in_that_order(order: Any) -> None:
    config = prior(order, conditions=(ConditionSpec(kind="depth", vocabulary=6, form="grid"),))
    gpt, seed = toy(config), 5
    depth = torch.randint(6, (2, 4, 4))
    keep = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    known = torch.randint(6, (2, 4, 4))
    made = generate(
        gpt,
        size=(4, 4),
        samples=[3, 8],
        seed=seed,
        decoding=DecodingConfig(),
        conditions={"depth": depth},
        known=KnownCells(known, keep),
    )
    expected = torch.zeros(2, 16, dtype=torch.int64)
    with torch.inference_mode():
        for place, number in enumerate(PUBLISHED[order]):
            row, column = divmod(number, 4)
            before = prefix(config, {"depth": depth}, 2, torch.device("cpu"))
            logits = gpt(before, expected[:, : place + 1])[:, place]
            at = cell(torch.tensor([row]), torch.tensor([column]))
            drawn = (logits + gumbel(seed, torch.tensor([[3], [8]]), at, 6)[:, 0]).argmax(1)
            expected[:, place] = known[:, row, column] if keep[row, column] else drawn
    assert torch.equal(in_order(config, made), expected)


def test_another_order_than_raster_has_no_sliding_window() -> None:
    with pytest.raises(UsageError, match="order 'z-curve', so its pictures are always 4x4 cells"):
        generate(toy(prior("z-curve")), size=(4, 8), samples=[0], seed=0, decoding=DecodingConfig())


def test_orders_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="only arch 'published' has"):
        prior("z-curve", arch="modern", vocabulary="separate")
    with pytest.raises(UsageError, match="square with even sides"):
        prior("spiral-in", window=Size(6, 4))
