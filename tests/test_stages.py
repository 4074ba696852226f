"""Large pictures in stages: every cell once, bounded caches, and the same codes for any batch."""

import numpy as np
import pytest
import torch

from taming_cli.config.prior import PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.prior.any_order import forwards as passes
from taming_cli.prior.any_order import likelihood
from taming_cli.prior.any_order import stages as staging
from taming_cli.prior.any_order.forwards import context_of
from taming_cli.prior.any_order.generate import generate
from taming_cli.prior.any_order.plan import group_plan
from taming_cli.prior.any_order.stages import DrawingStage, most_cells, stages
from taming_cli.prior.estimate import sampling_cost
from taming_cli.prior.layout import KnownCells
from tests.test_any_order import conditions, network

CONFIG = PriorConfig(n_layer=2, n_head=2, n_embd=16, reach=2)


def for_cells(cells: int, config: PriorConfig, guided: bool = False) -> int:
    """BYTES for so many cells."""
    return cells * config.n_layer * 2 * config.n_embd * 4 * (1 + guided)


@pytest.mark.parametrize("known", [0.0, 0.3])
@pytest.mark.parametrize(("size", "steps"), [((60, 20), 8), ((40, 30), 32), ((41, 9), 2000)])
def test_every_cell_is_drawn_once_after_what_it_sees(
    size: tuple[int, int], steps: int, known: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = np.random.default_rng(0).random(size) < known
    plan = group_plan(*size, steps, given)
    monkeypatch.setattr(staging, "BYTES", for_cells(size[1] * 14, CONFIG))
    found = stages(plan, CONFIG, guided=False)
    assert len(found) > 3
    drawn = np.where(given, 0, -1)
    for number, stage in enumerate(found):
        groups = stage.plan.groups
        rows = slice(stage.top, stage.top + len(groups))
        assert (stage.plan.levels == plan.levels[rows]).all()
        assert (drawn[rows][groups == 0] >= 0).all(), "known before"
        own = (groups > 0) & (groups <= stage.steps)
        assert (drawn[rows][own] == -1).all(), "not drawn before"
        assert (plan.groups[rows][own] == groups[own] + stage.first - 1).all()
        assert stage.capacity <= most_cells(CONFIG, guided=False) + known * size[0] * size[1]
        drawn[rows][own] = number + 1
    assert (drawn >= 0).all()
    assert (drawn[~given] > 0).all()


def test_a_picture_that_fits_has_one_stage() -> None:
    plan = group_plan(52, 80, 32)
    (stage,) = stages(plan, CONFIG, guided=True)
    assert stage == DrawingStage(0, plan, 32, 1)
    cost = sampling_cost(PriorConfig(arch="any-order"), Size(80, 52), 1, 32, guided=True)
    assert cost == (32, 2 * stage.tokens_run)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_codes_of_stages(guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    net, size = network(), (36, 10)
    given, decoding = conditions(3, size), DecodingConfig(guidance=guidance, temperature=0.9)
    generator = torch.Generator().manual_seed(2)
    known = KnownCells(
        torch.randint(0, 11, (3, *size), generator=generator), torch.rand(size, generator=generator) < 0.1
    )

    def drawn(batch: int) -> torch.Tensor:
        counts: list[tuple[int, int]] = []
        codes = generate(
            net,
            size=size,
            samples=range(3),
            seed=5,
            decoding=decoding,
            conditions=given,
            known=known,
            steps=16,
            batch_size=batch,
            on_progress=lambda *count: counts.append(count),
        )
        assert counts[-1] == (3 * int((~known.mask).sum()),) * 2
        assert torch.equal(codes[:, known.mask], known.codes[:, known.mask])
        return codes

    whole = drawn(3)
    monkeypatch.setattr(staging, "BYTES", for_cells(150, net.config, guidance != 1))
    plan = group_plan(*size, 16, known.mask.numpy())
    parts = stages(plan, net.config, guided=guidance != 1)
    assert len(parts) > 2
    banded = drawn(3)
    monkeypatch.setattr(passes, "LOGITS", 60)  # a large group is drawn in parts
    assert torch.equal(banded, drawn(1))
    sparse = torch.from_numpy(plan.groups <= parts[0].steps)
    assert torch.equal(banded[:, sparse], whole[:, sparse])
    assert not torch.equal(banded, whole)
    cost = sampling_cost(net.config, Size(10, 36), 1, 16, known.mask.numpy(), guided=guidance != 1)
    assert cost.forwards == sum(stage.steps for stage in parts) > 16


def test_the_context_of_some_rows_at_a_time_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    net, size = network(), (70, 5)
    given = conditions(2, size)
    whole = net.context(given, 2, size)
    monkeypatch.setattr(passes, "CONTEXT", 60)
    torch.testing.assert_close(context_of(net, given, 2, size).flatten(1, 2), whole, rtol=1e-10, atol=1e-12)


def test_the_likelihood_of_a_large_picture_is_that_of_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    net, size = network(conditions=()), (36, 10)
    codes = torch.randint(0, 11, (3, *size))
    plan = group_plan(*size, 16, np.random.default_rng(0).random(size) < 0.1)
    monkeypatch.setattr(likelihood, "CELLS", 1)
    monkeypatch.setattr(staging, "BYTES", for_cells(150, net.config))
    parts = stages(plan, net.config, guided=False)
    assert len(parts) > 2
    expected = torch.zeros(codes.shape, dtype=torch.float64)
    for stage in parts:
        rows = slice(stage.top, stage.top + len(stage.plan.groups))
        groups, levels = (torch.from_numpy(of)[None] for of in (stage.plan.groups, stage.plan.levels))
        logs = net(codes[:, rows], {}, groups, levels).log_softmax(-1)
        found = logs.gather(2, codes[:, rows].flatten(1)[:, :, None])[..., 0].view(codes[:, rows].shape)
        own = ((groups > 0) & (groups <= stage.steps)).expand(len(codes), -1, -1)
        expected[:, rows][own] = found[own]
    found = likelihood.log_likelihood(net, codes, plan, batch_size=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
