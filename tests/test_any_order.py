"""The prior for any order: what sees what, a cache against teacher forcing, and a likelihood that sums to one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig
from taming_cli.config.ramp import Ramp
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.any_order import likelihood
from taming_cli.prior.any_order.generate import generate
from taming_cli.prior.any_order.likelihood import log_likelihood
from taming_cli.prior.any_order.plan import group_plan, raster_plan
from taming_cli.prior.any_order.start import from_raster, with_conditions
from taming_cli.prior.completion import complete
from taming_cli.prior.decoding import choose, guide
from taming_cli.prior.estimate import estimate
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.networks import reach
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.noise import cell, gumbel
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.state import nats

SPECS = (
    ConditionSpec(kind="class", vocabulary=3),
    ConditionSpec(kind="segmentation", vocabulary=5, form="grid"),
    ConditionSpec(kind="depth", vocabulary=4, form="grid"),
)


def network(**values: object) -> AnyOrder:
    """A small one whose weights matter, in float64."""
    config = PriorConfig(
        **{  # type: ignore[arg-type]
            "arch": "any-order",
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
            "window": Size(8, 8),
            "codebook_size": 11,
            "conditions": SPECS,
            "reach": 2,
            **values,
        }
    )
    torch.manual_seed(0)
    net = AnyOrder(config)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return net.double().eval()


def conditions(samples: int, size: tuple[int, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "class": torch.randint(-1, 3, (samples, 1), generator=generator),
        "segmentation": torch.randint(0, 5, (samples, *size), generator=generator),
    }


def by_teacher_forcing(
    net: AnyOrder,
    size: tuple[int, int],
    samples: int,
    steps: int,
    decoding: DecodingConfig,
    given: dict[str, Tensor],
    known: KnownCells | None,
) -> Tensor:
    """The same codes, from a full forward over all cells at each step."""
    height, width = size
    plan = group_plan(height, width, steps, None if known is None else known.mask.numpy())
    groups, levels = (torch.from_numpy(of)[None] for of in (plan.groups, plan.levels))
    codes = torch.randint(0, 11, (samples, height, width))  # what is not drawn yet has no effect
    if known is not None:
        codes = torch.where(known.mask, known.codes, codes)
    places = cell(torch.arange(height)[:, None], torch.arange(width))
    for step in range(1, plan.steps + 1):
        logits, now = net(codes, given, groups, levels), decoding.at((step - 1) / (plan.steps - 1))
        if decoding.guided:
            logits = guide(logits, net(codes, {}, groups, levels), now.guidance)
        for sample in range(samples):
            noise = gumbel(5, torch.tensor(sample), places.flatten(), 11)
            chosen = choose(logits[sample], noise, now).view(height, width)
            codes[sample] = torch.where(groups[0] == step, chosen, codes[sample])
    return codes


@pytest.mark.parametrize("guidance", [1.0, 2.5, Ramp(1.0, 3.0)])
@pytest.mark.parametrize(("size", "steps", "known"), [((5, 7), 8, 0.0), ((4, 6), 100, 0.0), ((6, 11), 12, 0.4)])
def test_a_cache_draws_what_teacher_forcing_does(
    size: tuple[int, int], steps: int, known: float, guidance: float | Ramp, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, given = network(), conditions(3, size)
    cells = None
    if known:
        generator = torch.Generator().manual_seed(2)
        mask = torch.rand(size, generator=generator) < known
        cells = KnownCells(torch.randint(0, 11, (3, *size), generator=generator), mask)
    decoding = DecodingConfig(guidance=guidance, top_k=7, temperature=0.9 if guidance == 2.5 else Ramp(0.6, 1.1))
    expected = by_teacher_forcing(net, size, 3, steps, decoding, given, cells)
    monkeypatch.setattr(reach, "BLOCK", 4)
    for batch, scores in ((1, 1), (3, 1), (3, 2**22)):  # block by block, and at once
        monkeypatch.setattr(reach, "SCORES", {"cpu": scores, "cuda": scores})
        codes = generate(
            net,
            size=size,
            samples=range(3),
            seed=5,
            decoding=decoding,
            conditions=given,
            steps=steps,
            batch_size=batch,
            known=cells,
        )
        assert torch.equal(codes, expected)


def test_one_cell_at_a_time_is_a_distribution() -> None:
    """On 2 x 2 cells and 3 codes, the probabilities of all 81 pictures by the chain rule sum to one."""
    net = network(codebook_size=3, conditions=())
    plan = group_plan(2, 2, 8)
    assert plan.steps == 4
    pictures = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    groups, levels = (torch.from_numpy(of)[None] for of in (plan.groups, plan.levels))
    logs = net(pictures, {}, groups, levels).log_softmax(-1)
    total = logs.gather(2, pictures.flatten(1)[:, :, None]).sum((1, 2)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_a_cell_depends_on_what_it_sees_alone() -> None:
    """Codes of groups that come later, or of cells out of reach, change nothing; those within reach do, and those that
    are known next to a cell within reach or of the same group."""
    net = network(n_layer=1)
    plan = group_plan(12, 12, 8)
    groups, levels = (torch.from_numpy(of)[None] for of in (plan.groups, plan.levels))
    codes = torch.randint(0, 11, (1, 12, 12))
    before = net(codes, {}, groups, levels)[0].detach()
    rows, columns = np.divmod(np.arange(144), 12)
    distance = np.maximum(abs(rows[:, None] - rows), abs(columns[:, None] - columns))
    order, reach_of = plan.groups.ravel(), 2 * 2 ** plan.levels.ravel()
    earlier = order[:, None] > order
    attended = earlier & (distance <= reach_of)
    beside = (distance <= 2) & (order[:, None] >= order)  # what content knows of its neighbours, itself included
    peers = (order[:, None] == order) & (distance <= reach_of)  # queries of one group see each other
    asked = earlier & (distance <= 2)
    seen = (attended.astype(int) @ beside > 0) | (peers.astype(int) @ asked > 0)
    assert 0.2 < seen.sum() / earlier.sum() < 0.95
    for number in range(0, 144, 11):
        changed = codes.flatten(1).clone()
        changed[0, number] = (changed[0, number] + 1) % 11
        differs = (net(changed.view(1, 12, 12), {}, groups, levels)[0] - before).abs().amax(1) > 1e-12
        assert differs.tolist() == seen[:, number].tolist()


@pytest.mark.parametrize("known", [0.0, 0.3])
def test_likelihoods_at_once_and_step_by_step_are_those_of_teacher_forcing(
    known: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, given = network(), conditions(3, (6, 5))
    mask = np.random.default_rng(0).random((6, 5)) < known
    codes = torch.randint(0, 11, (3, 6, 5))
    for plan in (group_plan(6, 5, 8, mask), group_plan(6, 5, 20, mask), raster_plan(6, 5)):
        groups, levels = (torch.from_numpy(of)[None] for of in (plan.groups, plan.levels))
        logs = net(codes, given, groups, levels).log_softmax(-1)
        expected = logs.gather(2, codes.flatten(1)[:, :, None])[:, :, 0].view(codes.shape) * (groups > 0)
        for cells in (likelihood.CELLS, 1):
            monkeypatch.setattr(likelihood, "CELLS", cells)
            found = log_likelihood(net, codes, plan, conditions=given, batch_size=2)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_codes_of_another_codec_are_refused() -> None:
    with pytest.raises(UsageError, match="code 11 is out of range; this prior has 0 to 10: give"):
        log_likelihood(network(), torch.full((1, 2, 2), 11), group_plan(2, 2, 8))


def test_it_starts_from_a_raster_prior() -> None:
    torch.manual_seed(0)
    gpt = GPT(replace(network().config, arch="modern"))
    net = from_raster(gpt, PriorConfig(reach=3))
    assert (net.config.arch, net.config.reach) == ("any-order", 3)
    own = dict(net.named_parameters())
    for name, weight in gpt.named_parameters():
        if name != "kind_emb.weight":
            assert torch.equal(own[name], weight)
    maps = torch.randint(0, 5, (1, 4, 4))
    inner = net.tok_emb(maps + 11 + 4)
    assert torch.equal(net.surroundings(inner), inner)  # the convolutions add nothing yet
    with pytest.raises(UsageError, match="any-order starts from 'modern' alone"):
        from_raster(GPT(replace(network().config, arch="published")), PriorConfig())


@pytest.mark.parametrize("has", [(), SPECS[:1], SPECS[:2]])
@pytest.mark.parametrize("new", [SPECS[2:], (ConditionSpec(kind="edges", vocabulary=2, form="grid"), SPECS[2])])
def test_a_new_condition_changes_nothing_until_it_is_given(
    has: tuple[ConditionSpec, ...], new: tuple[ConditionSpec, ...]
) -> None:
    net, given = network(conditions=has), conditions(2, (4, 5))
    given = {spec.kind: given[spec.kind] for spec in has}
    wide = with_conditions(net, new).double()
    assert wide.config.conditions == (*new, *has)
    plan, codes = group_plan(4, 5, 8), torch.randint(0, 11, (2, 4, 5))
    groups, levels = (torch.from_numpy(of)[None] for of in (plan.groups, plan.levels))
    torch.testing.assert_close(wide(codes, given, groups, levels), net(codes, given, groups, levels))
    depth = {**given, "depth": torch.randint(0, 4, (2, 4, 5))}
    assert not torch.allclose(wide(codes, depth, groups, levels), wide(codes, given, groups, levels))


def test_candidates_rank_by_the_likelihood_of_what_they_draw() -> None:
    net, given = network(), conditions(2, (5, 6))
    mask = torch.rand((5, 6), generator=torch.Generator().manual_seed(4)) < 0.5
    cells = KnownCells(torch.randint(0, 11, (2, 5, 6)), mask)
    settings = {"samples": [3, 8], "seed": 1, "decoding": DecodingConfig(), "conditions": given}
    done = complete(net, cells, candidates=3, **settings)  # type: ignore[arg-type]
    tries = [
        generate(net, size=(5, 6), known=cells, attempts=[n, n], **settings)  # type: ignore[arg-type]
        for n in range(3)
    ]
    chain = group_plan(5, 6, 30, mask.numpy())
    scores = torch.stack([log_likelihood(net, each, chain, conditions=given).sum((1, 2)) for each in tries], dim=1)
    torch.testing.assert_close(done.scores, scores)
    assert done.chosen.tolist() == scores.argmax(1).tolist()
    assert torch.equal(done.codes, torch.stack([tries[c][n] for n, c in enumerate(done.chosen.tolist())]))
    assert torch.equal(done.codes[:, mask], cells.codes[:, mask])


def test_known_cells_have_no_weight_in_the_loss_and_each_picture_has_the_same() -> None:
    net, codes = network(), torch.randint(0, 11, (2, 8, 8))
    plans = group_plan(8, 8, 8), group_plan(8, 8, 8, np.arange(64).reshape(8, 8) < 40)
    groups, levels = (
        torch.from_numpy(np.stack(each)) for each in zip(*((p.groups, p.levels) for p in plans), strict=True)
    )
    loss = nats(net, TokenBatch(codes.flatten(1), codes.flatten(1), {}, groups, levels), torch.float32)
    logs = net(codes, {}, groups, levels).log_softmax(-1).gather(2, codes.flatten(1)[:, :, None])[:, :, 0]
    means = [-logs[n][groups[n].flatten() > 0].mean() for n in range(2)]
    assert loss.item() == pytest.approx((means[0].item() + means[1].item()) / 2, abs=1e-5)


def test_a_dry_run_estimates_it() -> None:
    found = estimate(network().config, PriorTrainConfig(batch_size=4, accumulate=2), torch.float32)
    assert found.parameters == sum(weight.numel() for weight in network().parameters())


def test_a_window_takes_two_tokens_a_cell() -> None:
    config = network().config
    assert config.sequence_length == 2 * 64
    assert replace(config, arch="modern").sequence_length == 1 + 2 * 64 + 63
