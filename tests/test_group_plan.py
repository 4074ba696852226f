"""Plans of priors for any order: which cells come first, which together, and that each comes once."""

import numpy as np
import pytest

from taming_cli.errors import UsageError
from taming_cli.prior.any_order.blue_noise import TILE, Grid, Ranks, tile
from taming_cli.prior.any_order.plan import FEWEST_STEPS, GroupPlan, group_ends, group_plan, raster_plan
from taming_cli.prior.any_order.stages import DrawingStage
from taming_cli.prior.any_order.training_groups import training_groups

SIZES = [(1, 1), (1, 9), (5, 3), (21, 32), (52, 80), (70, 130)]


def distances(cells: Grid, width: int) -> Grid:
    """The distance of each of some cells to the nearest other one, in rows or columns, whichever is more."""
    places = np.stack(np.divmod(cells, width), axis=1)
    apart = np.abs(places[:, None] - places).max(-1)
    np.fill_diagonal(apart, 10**6)
    return apart.min(1)


def is_whole(plan: GroupPlan, known: Grid) -> bool:
    """Each unknown cell is drawn once, in one of consecutive groups of at least one cell."""
    drawn = np.concatenate([plan.cells(step) for step in range(1, plan.steps + 1)] or [np.empty(0, np.int64)])
    sizes = [len(plan.cells(step)) for step in range(1, plan.steps + 1)]
    return bool(np.array_equal(np.sort(drawn), np.flatnonzero(~known)) and all(sizes))


def test_the_tile_is_a_permutation() -> None:
    assert np.array_equal(np.sort(tile().ravel()), np.arange(TILE**2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flip", range(8))
def test_an_order_has_each_cell_once(size: tuple[int, int], flip: int) -> None:
    ranks = Ranks(*size, offset=(5, 60), flip=flip)
    assert np.array_equal(np.sort(ranks.order), np.arange(size[0] * size[1]))
    assert np.array_equal(ranks.places().ravel()[ranks.order], np.arange(size[0] * size[1]))


@pytest.mark.parametrize("size", [(21, 32), (52, 80), (104, 160), (300, 200)])
def test_the_first_cells_are_far_apart_and_spread_over_all_of_the_grid(size: tuple[int, int]) -> None:
    height, width = size
    ranks = Ranks(height, width)
    for count in (4, 16, 64, height * width // 16, height * width // 4):
        if count > 4000:
            continue
        first = ranks.order[:count]
        apart = (height * width / count) ** 0.5
        assert distances(first, width).min() >= 0.45 * apart
        rows, columns = np.divmod(first, width)
        for length, places in ((height, rows), (width, columns)):
            assert np.abs(np.arange(length)[:, None] - places).min(1).max() <= 2.5 * apart


@pytest.mark.parametrize("size", [(64, 64), (128, 192)])
def test_a_level_says_how_sparse_the_cells_are_that_come_no_later(size: tuple[int, int]) -> None:
    ranks = Ranks(*size)
    for level in range(6):
        share = (ranks.levels >= level).mean()
        assert share == pytest.approx(4.0**-level, rel=0.01)
    assert ranks.levels.ravel()[ranks.order[0]] == ranks.levels.max()
    ordered = np.minimum(ranks.levels.ravel()[ranks.order], 6)
    assert (np.diff(ordered) <= 0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [8, 16, 32, 64, 10**6])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99, 1.0])
def test_a_plan_draws_each_unknown_cell_once(size: tuple[int, int], steps: int, share: float) -> None:
    known = np.random.default_rng(0).random(size) < share
    plan = group_plan(*size, steps, known)
    assert is_whole(plan, known)
    assert plan.steps == min(steps, int((~known).sum()))
    assert (plan.groups == 0).tolist() == known.tolist()
    again = group_plan(*size, steps, known)
    assert np.array_equal(plan.groups, again.groups)
    unknown = int((~known).sum())
    last = len(plan.cells(plan.steps)) if unknown else 0
    assert DrawingStage(0, plan, plan.steps, 1).tokens_run == (unknown + size[0] * size[1] - last if unknown else 0)


@pytest.mark.parametrize("size", [(21, 32), (52, 80), (104, 160)])
@pytest.mark.parametrize(("steps", "share"), [(16, 0.25), (32, 0.5), (64, 0.5)])
def test_no_two_neighbours_are_drawn_together_early(size: tuple[int, int], steps: int, share: float) -> None:
    plan, drawn = group_plan(*size, steps), 0
    for step in range(1, steps + 1):
        cells = plan.cells(step)
        drawn += len(cells)
        if drawn <= share * size[0] * size[1]:
            assert distances(cells, size[1]).min() > 1


def test_steps_do_not_depend_on_the_size_and_first_groups_are_small() -> None:
    for size in ((21, 32), (512, 512)):
        plan = group_plan(*size, 32)
        assert plan.steps == 32
        assert [len(plan.cells(step)) for step in (1, 2, 3)] == ([1, 3, 4] if size == (21, 32) else [1, 3, 12])


def test_ends_of_groups() -> None:
    assert group_ends(5, 9).tolist() == [1, 2, 3, 4, 5]
    assert group_ends(100, 10, 1.0).tolist() == [1, 4, 16, 40, 50, 60, 70, 80, 90, 100]
    assert group_ends(0, 8).tolist() == []
    for cells, steps in ((262_144, 8), (262_144, 32), (9, 8), (1000, 999)):
        ends = group_ends(cells, steps)
        assert len(ends) == steps
        assert ends[-1] == cells
        assert (np.diff(ends, prepend=0) > 0).all()


def test_raster_order_is_one_cell_at_a_time() -> None:
    plan = raster_plan(3, 4)
    assert [plan.cells(step).tolist() for step in range(1, 13)] == [[n] for n in range(12)]


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(UsageError, match=f"sample_steps is 7; use {FEWEST_STEPS} or more"):
        group_plan(4, 4, 7)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (21, 32)])
def test_training_groups_are_plans_of_many_kinds(size: tuple[int, int]) -> None:
    kinds = set()
    for position in range(200):
        plan = training_groups(*size, 3, position)
        assert is_whole(plan, plan.groups == 0)
        assert plan.steps > 0
        again = training_groups(*size, 3, position)
        assert np.array_equal(plan.groups, again.groups)
        assert np.array_equal(plan.levels, again.levels)
        first = plan.cells(1)[0]
        kinds.add((bool((plan.groups == 0).any()), plan.levels.flat[first] == plan.levels.max()))
    assert size == (1, 1) or len(kinds) == 4  # with and without known cells, from the sparsest on and at random
