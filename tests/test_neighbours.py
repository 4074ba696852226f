"""The sums over known neighbours: against a loop over cells, and their gradients."""

import math

import pytest
import torch

from taming_cli.prior.networks.neighbours import OFFSETS, RADIUS, Neighbours, _Sum


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


def test_sampling_adds_what_teacher_forcing_does() -> None:
    _, _, groups = drawn(1, 1)
    layer, table, codes = Neighbours(3).double(), torch.randn(7, 3, dtype=torch.float64), torch.randint(0, 7, (1, 4, 5))
    forced = layer(table[codes], groups)
    padded, known = torch.zeros(1, 4 + 2 * RADIUS, 5 + 2 * RADIUS, dtype=torch.int64), torch.zeros(8, 9).bool()
    padded[:, RADIUS:-RADIUS, RADIUS:-RADIUS] = codes
    for group in range(5):
        cells = (groups.flatten() == group).nonzero()[:, 0]
        for role, least in ((1, group), (0, group + 1)):
            known[RADIUS:-RADIUS, RADIUS:-RADIUS] = groups[0] < least
            torch.testing.assert_close(layer.at(cells, padded, known, table), forced[:, role, cells])


def test_a_new_layer_adds_what_is_around_the_nearer_the_more() -> None:
    layer = Neighbours(3)
    torch.nn.init.zeros_(layer.down.weight)
    table = torch.tensor([[0.0, 0, 0], [1, -2, 0.5]])
    for row, column, factor in ((1, 3, -0.5), (2, 3, -1), (2, 1, -1), (1, 0, -2), (1, 2, -math.inf), (3, 4, -4)):
        codes = torch.zeros(1, 4, 5, dtype=torch.int64)
        codes[0, row, column] = 1
        known = torch.arange(1, 21).view(1, 4, 5)
        known[0, 1, 2] = 100  # the cell in question comes last
        torch.testing.assert_close(layer(table[codes], known)[0, 1, 1 * 5 + 2], table[1] * math.exp(factor))


def test_tensors_of_the_first_priors_have_no_skip() -> None:
    layer, former = Neighbours(3), Neighbours(3)
    tensors = former.state_dict()
    del tensors["skip"]
    layer.load_state_dict(tensors)
    assert layer.skip.tolist() == [0, 0, 0]
    with pytest.raises(RuntimeError, match="weight"):
        layer.load_state_dict({})
