"""The plan against the published rule, cell by cell, over many sizes, windows and strides."""

import random

import pytest

from taming_cli.errors import UsageError
from taming_cli.prior.raster.windows import Span, WindowPlan, plan


def random_plans(count: int = 200) -> list[tuple[WindowPlan, int]]:
    rng = random.Random(0)
    plans = []
    for _ in range(count):
        a, b = rng.randint(1, 16), rng.randint(1, 16)
        strides = [s for s in range(1, max(1, b // 2) + 1) if max(1, b // 2) % s == 0]
        stride = rng.choice(strides)
        plans.append((plan(rng.randint(1, 60), rng.randint(1, 60), (a, b), stride), stride))
    return plans


PLANS = random_plans()


def test_every_cell_is_sampled_exactly_once() -> None:
    for p, _ in PLANS:
        cells = sorted(cell for wave in p.waves for run in wave for cell in p.cells(run))
        assert cells == [(i, j) for i in range(p.height) for j in range(p.padded_width)]


def test_no_window_reaches_outside_and_each_holds_its_cells() -> None:
    for p, _ in PLANS:
        for run in (run for wave in p.waves for run in wave):
            assert 0 <= run.top <= p.padded_height - p.window_height
            assert 0 <= run.left <= p.padded_width - p.window_width
            for offset, (i, j) in enumerate(p.cells(run)):
                assert run.top <= i < run.top + p.window_height
                assert run.left <= j < run.left + p.window_width
                assert (i - run.top) * p.window_width + j - run.left == p.known(run) + offset


def test_windows_follow_the_published_corner_rule() -> None:
    for p, stride in PLANS:
        a, b = p.window_height, p.window_width
        for run in (run for wave in p.waves for run in wave):
            for i, j in p.cells(run):
                start = j - j % stride
                assert run.top == min(max(i - a // 2, 0), p.padded_height - a)
                assert run.left == min(max(start - b // 2 + stride // 2, 0), p.padded_width - b)


def test_what_a_run_reads_was_made_in_an_earlier_wave() -> None:
    for p, _ in PLANS:
        made_in = {cell: k for k, wave in enumerate(p.waves) for run in wave for cell in p.cells(run)}
        for k, wave in enumerate(p.waves):
            for run in wave:
                for n in range(p.known(run)):
                    rows, columns = divmod(n, p.window_width)
                    assert made_in[run.top + rows, run.left + columns] < k


def test_waves_are_as_few_as_that_allows_for_the_first_window() -> None:
    for p, _ in PLANS:  # one wave fewer between rows, and the first run of a row would read what is not there yet
        if p.width > p.window_width and p.height > 1:
            made_in = {cell: k for k, wave in enumerate(p.waves) for run in wave for cell in p.cells(run)}
            assert made_in[1, 0] == made_in[0, p.window_width - 1] + 1


def test_a_megapixel_latent_takes_the_forwards_that_the_design_counts() -> None:
    exact, fast = plan(52, 80, (16, 16)), plan(52, 80, (16, 16), stride=8)
    assert (len(exact.waves), exact.sequential_forwards) == (473, 945)
    assert (len(fast.waves), fast.sequential_forwards) == (112, 896)
    published = 52 * 80 * 511  # 256 condition tokens and a whole window, less the last
    assert published / exact.tokens_run(256) == pytest.approx(1.6, abs=0.05)
    steps = sum(run.length - 1 for wave in fast.waves for run in wave)
    assert published / (fast.tokens_run(256) - steps) == pytest.approx(10.6, abs=0.05)
    assert published / fast.tokens_run(256) == pytest.approx(10.4, abs=0.05)


def test_a_latent_of_the_windows_size_is_one_run() -> None:
    assert plan(16, 16, (16, 16), stride=4).waves == ((Span(0, 0, 0, 0, 256),),)
    assert plan(5, 16, (16, 16)).waves == ((Span(0, 0, 0, 0, 80),),)


def test_a_latent_narrower_than_the_window_is_sampled_at_the_windows_width() -> None:
    p = plan(3, 2, (4, 5))
    assert (p.padded_height, p.padded_width) == (4, 5)
    assert p.waves == ((Span(0, 0, 0, 0, 15),),)


def test_a_part_of_a_run_reaches_from_its_first_wanted_cell_to_its_last() -> None:
    for p, _ in PLANS[:60]:
        rng = random.Random(p.height)
        wanted = [[rng.random() < 0.2 for _ in range(p.padded_width)] for _ in range(p.height)]
        for run in (run for wave in p.waves for run in wave):
            part, cells = p.part(run, wanted), list(p.cells(run))
            if part is None:
                assert not any(wanted[i][j] for i, j in cells)
                continue
            kept = list(p.cells(part))
            assert (part.top, part.left) == (run.top, run.left)
            assert wanted[kept[0][0]][kept[0][1]]
            assert wanted[kept[-1][0]][kept[-1][1]]
            begin = cells.index(kept[0])
            assert cells[begin : begin + len(kept)] == kept
            assert not any(wanted[i][j] for i, j in cells[:begin] + cells[begin + len(kept) :])


@pytest.mark.parametrize("stride", [0, -1, 3, 16])
def test_a_stride_that_does_not_divide_is_refused_with_those_that_do(stride: int) -> None:
    with pytest.raises(UsageError, match=rf"stride is {stride}; .* use 1, 2, 4, 8$"):
        plan(52, 80, (16, 16), stride)
