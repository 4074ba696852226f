"""Batches of a prior's training: each sample once an epoch, one size of grids in each batch, crops of larger ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.prior.batch_order import Buckets, batch_rows, crop_size
from taming_cli.prior.batches import TokenSet, train_batch
from tests.test_prior_train import tokens

PRIOR = PriorConfig(arch="any-order", window=Size(32, 32))
TRAIN = PriorTrainConfig(batch_size=4)


def test_a_batch_has_grids_of_one_size_and_an_epoch_every_sample() -> None:
    buckets = Buckets(((4, 4), (6, 8)), (np.arange(10), np.arange(10, 23)))
    batches = 3 + 4
    seen: list[list[int]] = []
    for epoch in range(2):
        seen.append([])
        for number in range(batches * epoch, batches * (epoch + 1)):
            rows, grid = batch_rows(buckets, TRAIN, 4 * number, 4)
            assert set(rows) <= set(buckets.rows[buckets.grids.index(grid)])
            assert len(set(rows)) == 4
            halves = [batch_rows(buckets, TRAIN, 4 * number + first, 2) for first in (0, 2)]  # of two processes
            assert np.concatenate([half for half, _ in halves]).tolist() == rows.tolist()
            seen[-1].extend(rows)
    for rows_of_epoch in seen:
        assert set(rows_of_epoch) == set(range(23))
        assert len(rows_of_epoch) == 4 * batches
    assert seen[0] != seen[1]


def test_small_grids_are_read_whole_and_large_ones_in_crops_of_many_shapes() -> None:
    assert crop_size((32, 32), PRIOR, 0, 3) == (32, 32)
    assert crop_size((8, 64), PRIOR, 0, 3) == (8, 64)
    sizes = [crop_size((40, 90), PRIOR, 0, batch) for batch in range(2000)]
    assert sizes == [crop_size((40, 90), PRIOR, 0, batch) for batch in range(2000)]
    cells = np.array([rows * columns for rows, columns in sizes])
    assert all(8 <= rows <= 40 and 8 <= columns <= 90 for rows, columns in sizes)
    assert 0.45 < (cells > 0.9 * 1024).mean() < 0.65
    assert cells.min() > 0.9 * 256
    assert cells.max() < 1.1 * 1024
    assert {rows for rows, _ in sizes} >= set(range(8, 41))
    assert crop_size((40, 90), PRIOR, 1, 0) != crop_size((40, 90), PRIOR, 0, 0)
    raster = PriorConfig(arch="modern", window=Size(16, 12))
    assert crop_size((40, 90), raster, 0, 3) == (12, 16)


@pytest.mark.parametrize(("grid", "window"), [((3, 500), Size(32, 32)), ((1, 9), Size(2, 2)), ((7, 1), Size(2, 1))])
def test_narrow_grids(grid: tuple[int, int], window: Size) -> None:
    prior = PriorConfig(arch="any-order", window=window)
    for batch in range(50):
        rows, columns = crop_size(grid, prior, 0, batch)
        assert 1 <= rows <= grid[0]
        assert 1 <= columns <= grid[1]
        assert rows * columns <= 1.5 * prior.cells


def test_token_files_of_several_sizes_train_together(tmp_path: Path) -> None:
    files = [tokens(tmp_path / "a.h5", count=20, size=(4, 6)), tokens(tmp_path / "b.h5", count=30, size=(8, 12))]
    data, prior = TokenSet(files), PriorConfig(arch="any-order", window=Size(12, 5))
    rows = np.arange(50)
    shapes = set()
    for position in range(0, 200, 4):
        batch = train_batch(data, rows, prior, TRAIN, position)
        assert batch.groups is not None
        shapes.add(tuple(batch.groups.shape[1:]))
        assert batch.targets.shape == (4, batch.groups[0].numel())
        halves = [train_batch(data, rows, prior, TRAIN, position + first, 2) for first in (0, 2)]
        assert torch.equal(torch.cat([half.targets for half in halves]), batch.targets)
    assert (4, 6) in shapes
    assert len(shapes) > 3
    raster = train_batch(data, rows, PriorConfig(arch="modern", window=Size(6, 4)), TRAIN, 0)
    assert raster.targets.shape == (4, 24)
