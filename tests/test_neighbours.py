"""The sums over known neighbours: against a loop over cells, and their gradients."""

import math

import pytest
import torch

from taming_cli.prior.any_order.blue_noise import Ranks
from taming_cli.prior.networks.neighbours import OFFSETS, RING, Neighbours, _Sum, around


def drawn(batch: int, groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    embedded = torch.randn(batch, 4, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(OFFSETS), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    return embedded, weight, torch.randint(0, 5, (groups, 4, 5), generator=generator)


def test_content_knows_its_own_group_and_queries_those_before() -> None:
    for of in (1, 2):
        embedded, weight, groups = drawn(2, of)
        expected = torch.zeros(2, 2, 4, 5, 3, dtype=torch.float64)
        for b, row, column, (number, (down, across)) in (
            (b, row, column, offset)
            for b in range(2)
            for row in range(4)
            for column in range(5)
            for offset in enumerate(OFFSETS)
        ):
            if 0 <= row + down < 4 and 0 <= column + across < 5:
                own, then = groups[b % of, row, column], groups[b % of, row + down, column + across]
                value = embedded[b, row + down, column + across] * weight[number]
                expected[b, 0, row, column] += value * (then <= own)
                expected[b, 1, row, column] += value * (then < own)
        torch.testing.assert_close(_Sum.apply(embedded, weight, groups), expected)


def test_gradients_are_those_of_differences() -> None:
    embedded, weight, groups = drawn(2, 2)
    assert torch.autograd.gradcheck(lambda e, w: _Sum.apply(e, w, groups), (embedded, weight))


def layer(features: int, width: int = 3) -> Neighbours:
    """One whose weights all matter, in float64."""
    torch.manual_seed(0)
    new = Neighbours(width, features).double()
    with torch.no_grad():
        for weight in new.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return new


@pytest.mark.parametrize("features", [0, 2])
@pytest.mark.parametrize("size", [(4, 5), (9, 7), (1, 6)])
def test_sampling_adds_what_teacher_forcing_does(features: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    groups, codes = torch.randint(0, 5, (1, *size), generator=generator), torch.randint(0, 7, (2, *size))
    levels = torch.from_numpy(Ranks(*size).levels)
    of, table = layer(features), torch.randn(7, 3, dtype=torch.float64, generator=generator)
    forced = of(codes, table, groups, levels[None])
    for group in range(5):
        cells = (groups.flatten() == group).nonzero()[:, 0]
        for role, least in ((1, group), (0, group + 1)):
            known = groups.flatten() < least
            found = of.at(cells, levels.flatten()[cells], codes.flatten(1), known, table, size)
            torch.testing.assert_close(found, forced[:, role, cells])


def test_each_picture_has_levels_of_its_own() -> None:
    size, generator = (6, 9), torch.Generator().manual_seed(0)
    ranks = [Ranks(*size, offset=(5, 2)), Ranks(*size, offset=(3, 3), flip=5)]
    levels = torch.stack([torch.from_numpy(each.levels) for each in ranks])
    groups, codes = torch.randint(0, 5, (2, *size), generator=generator), torch.randint(0, 7, (2, *size))
    of, table = layer(2), torch.randn(7, 3, dtype=torch.float64, generator=generator)
    together = of(codes, table, groups, levels)
    for b in range(2):
        alone = of(codes[b, None], table, groups[b, None], levels[b, None])
        torch.testing.assert_close(together[b, None], alone)


def test_far_neighbours_are_at_the_distance_of_the_level() -> None:
    size, levels = (8, 8), torch.tensor([0, 1, 2])
    near = around(torch.tensor([0, 3 * 8 + 3, 4 * 8 + 4]), levels, size)
    assert near.exist[:, len(OFFSETS) :].sum(1).tolist() == [0, 8, 3]  # of the last, none in row or column 8
    ring = near.cells[:, len(OFFSETS) :]
    assert ring[1].tolist() == [(3 + 2 * down) * 8 + 3 + 2 * across for down, across in RING]
    assert ring[2][near.exist[2, len(OFFSETS) :]].tolist() == [0, 4, 4 * 8]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (21, 32), (33, 65), (64, 64), (130, 70)])
@pytest.mark.parametrize(("offset", "flip"), [(None, 0), ((1, 0), 3), ((17, 34), 6)])
def test_at_most_one_cell_of_four_has_far_neighbours(
    size: tuple[int, int], offset: tuple[int, int] | None, flip: int
) -> None:
    height, width = size
    levels = Ranks(height, width, offset=offset, flip=flip).levels
    assert (levels > 0).sum() <= math.ceil(height / 2) * math.ceil(width / 2)


def test_a_new_layer_adds_what_is_around_the_nearer_the_more() -> None:
    new = Neighbours(3, 4)
    torch.nn.init.zeros_(new.down.weight)
    table, levels = torch.tensor([[0.0, 0, 0], [1, -2, 0.5]]), torch.zeros(1, 4, 5, dtype=torch.int64)
    for row, column, factor in ((1, 3, -0.5), (2, 3, -1), (2, 1, -1), (1, 0, -2), (1, 2, -math.inf), (3, 4, -4)):
        codes = torch.zeros(1, 4, 5, dtype=torch.int64)
        codes[0, row, column] = 1
        known = torch.arange(1, 21).view(1, 4, 5)
        known[0, 1, 2] = 100  # the cell in question comes last
        found = new(codes, table, known, levels)[0, 1, 1 * 5 + 2]
        torch.testing.assert_close(found, table[1] * math.exp(factor))
        levels[0, 1, 2] = 1
        found = new(codes, table, known, levels)[0, 1, 1 * 5 + 2]
        as_far = {(1, 0): math.exp(-0.5), (3, 4): math.exp(-1)}.get((row, column), 0)  # two cells away
        torch.testing.assert_close(found, table[1] * (math.exp(factor) + as_far))
        levels[0, 1, 2] = 0


def test_tensors_of_the_first_priors_have_no_skip() -> None:
    of, former = Neighbours(3, 0), Neighbours(3, 0)
    tensors = former.state_dict()
    del tensors["skip"]
    of.load_state_dict(tensors)
    assert of.skip.tolist() == [0, 0, 0]
    with pytest.raises(RuntimeError, match="weight"):
        of.load_state_dict({})
