"""Codes that follow a rule: low resolution, and places."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.config.size import Size
from taming_cli.data.conditions.rules import LOWRES_CODES, coords, lowres, lowres_picture
from taming_cli.data.images import Crop, apply, whole

RNG = np.random.default_rng(8)


@pytest.mark.parametrize(("cell", "grid"), [((1, 1), (3, 5)), ((4, 4), (6, 7)), ((8, 2), (1, 9)), ((16, 16), (4, 3))])
def test_lowres_is_each_cells_mean_in_four_bits_a_channel(cell, grid):
    images = RNG.integers(0, 256, (3, 3, cell[0] * grid[0], cell[1] * grid[1]), dtype=np.uint8)
    images[2] = np.round(images[2] / 40) * 8  # so that there are exact halves
    codes = lowres(torch.from_numpy(images), Size(grid[1], grid[0]))
    assert codes.dtype == torch.int64
    assert codes.shape == (3, *grid)
    for n in range(3):
        for i in range(grid[0]):
            for j in range(grid[1]):
                box = images[n, :, i * cell[0] : (i + 1) * cell[0], j * cell[1] : (j + 1) * cell[1]]
                mean = [Fraction(int(channel.sum()), channel.size) for channel in box]
                r, g, b = (round(m * 15 / 255) for m in mean)  # Python rounds fractions' halves to even
                assert codes[n, i, j] == r * 256 + g * 16 + b


def test_lowres_reaches_every_code_and_its_picture_is_its_inverse():
    codes = torch.arange(LOWRES_CODES).reshape(1, 64, 64)
    picture = lowres_picture(codes)
    assert picture.shape == (1, 3, 64, 64)
    assert picture.dtype == torch.uint8
    assert (picture[0, :, 0, 0].tolist(), picture[0, :, -1, -1].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert picture[0, :, 16, 2].tolist() == [4 * 17, 0, 2 * 17]
    assert (lowres(picture, Size(64, 64)) == codes).all()
    larger = picture.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (lowres(larger, Size(64, 64)) == codes).all()


def published(grid: Size, f: int, levels: int) -> torch.Tensor:
    """CoordStage of the published code on the whole of a picture, in float64."""
    height, width = grid.height * f, grid.width * f
    c = (torch.arange(height * width, dtype=torch.float64) / (height * width)).reshape(1, 1, height, width)
    c = torch.nn.functional.interpolate(c, scale_factor=1 / f, mode="area").clamp(0.0, 1.0)
    return (levels * c).round().long()[0, 0]


def exact(crop: Crop, source: Size, grid: Size, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """The codes in fractions, and where they are exact halves, for crops whose cells are boxes of whole pixels."""
    rows, columns = Fraction(crop.height) / grid.height, Fraction(crop.width) / grid.width
    assert rows.denominator == columns.denominator == 1
    codes, halves = np.zeros((grid.height, grid.width), int), np.zeros((grid.height, grid.width), bool)
    for i in range(grid.height):
        for j in range(grid.width):
            ys = [int(crop.top + i * rows) + k for k in range(int(rows))]
            xs = [int(crop.left + j * columns) + k for k in range(int(columns))]
            total = sum(y * source.width + x for y in ys for x in xs)
            value = Fraction(total * levels, len(ys) * len(xs) * source.width * source.height)
            codes[i, j], halves[i, j] = round(value), value.denominator == 2
    return (codes[:, ::-1], halves[:, ::-1]) if crop.flip else (codes, halves)


@pytest.mark.parametrize("f", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize(("grid", "levels"), [(Size(16, 16), 1024), (Size(32, 8), 1024), (Size(4, 16), 16384)])
def test_places_in_a_whole_picture_are_the_published_codes(f, grid, levels):
    source = Size(grid.width * f, grid.height * f)
    assert (coords(whole(source, source), source, grid, levels) == published(grid, f, levels)).all()


def test_places_are_the_published_codes_at_any_size_but_for_the_noise_of_its_halves():
    halves_met = cells = 0
    for f in (1, 2, 3, 5, 8, 16):
        for grid in (Size(1, 1), Size(7, 5), Size(13, 22), Size(20, 11)):
            for levels in (7, 100, 256, 1024):
                source = Size(grid.width * f, grid.height * f)
                crop = whole(source, source)
                codes, halves = exact(crop, source, grid, levels)
                got = coords(crop, source, grid, levels).numpy()
                assert (got == codes).all()
                # Sums of rounded quotients may fall on either side of a half.
                wanted = published(grid, f, levels).numpy()
                assert (got == wanted)[~halves].all()
                assert (np.abs(got - wanted) <= 1).all()
                halves_met, cells = halves_met + int(halves.sum()), cells + got.size
    assert 0 < halves_met < 0.1 * cells


@pytest.mark.parametrize("flip", [False, True])
def test_places_in_a_crop_are_those_of_its_own_pixels(flip):
    source, grid = Size(90, 70), Size(6, 4)
    for left, top, cell in ((0, 0, 1), (7, 11, 3), (30, 22, 12), (24, 10, 11)):
        crop = Crop(left, top, cell * grid.width, cell * grid.height, Size(96, 64), flip)
        assert (coords(crop, source, grid, 1000).numpy() == exact(crop, source, grid, 1000)[0]).all()


def test_places_follow_the_picture_through_any_crop():
    """A picture of the scalar itself, cut like any other, has in its cells the value that is said."""
    source, grid = Size(60, 48), Size(5, 4)
    scalar = np.arange(60 * 48, dtype=np.float32).reshape(48, 60) / (60 * 48)
    for crop in (Crop(3.4, 5.7, 41.3, 33.1, Size(40, 32), True), Crop(0, 0, 60, 48, Size(40, 32))):
        cut = np.asarray(apply(Image.fromarray(scalar), crop, Image.Resampling.BOX))
        cells = cut.reshape(4, 8, 5, 8).mean((1, 3))
        assert np.abs(coords(crop, source, grid, 10000).numpy() / 10000 - cells).max() < 0.6 / 48


def test_places_stay_within_the_codes():
    source = Size(10, 10)
    small = coords(Crop(0, 0, 0.5, 0.5, Size(8, 8)), source, Size(4, 4), 1024)
    last = coords(Crop(9.5, 9.5, 0.5, 0.5, Size(8, 8)), source, Size(4, 4), 1024)
    assert small.min() == 0
    assert last.max() <= 1024
    assert coords(whole(source, source), source, Size(1, 1), 1).tolist() == [[0]]  # 0.495
