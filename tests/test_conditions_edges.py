"""Edges are found where a picture has them, and edge maps are known."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from taming_cli.data.conditions.edges import edges, read_edges
from taming_cli.errors import BadImageError

RNG = np.random.default_rng(2)


def encoded(image: Image.Image, file_format="PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def lines(mode: str = "L", size: int = 120, paper: str = "black", ink: str = "white") -> Image.Image:
    image = Image.new(mode, (size, size), paper)
    draw = ImageDraw.Draw(image)
    for k in range(6):
        draw.line([(10, 15 * k), (100, 110 - 13 * k)], fill=ink)
    return image


def sobel(grey: np.ndarray) -> np.ndarray:
    """|dx| + |dy| by the definition, the picture's border repeated."""
    p = np.pad(grey.astype(int), 1, mode="edge")
    dx = (p[:-2, 2:] + 2 * p[1:-1, 2:] + p[2:, 2:]) - (p[:-2, :-2] + 2 * p[1:-1, :-2] + p[2:, :-2])
    dy = (p[2:, :-2] + 2 * p[2:, 1:-1] + p[2:, 2:]) - (p[:-2, :-2] + 2 * p[:-2, 1:-1] + p[:-2, 2:])
    return np.abs(dx) + np.abs(dy)


def connected(found: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """What of `weak` hangs together with `found`, over corners too."""
    while True:
        p = np.pad(found, 1)
        grown = weak & np.any([p[1 + y : p.shape[0] - 1 + y, 1 + x : p.shape[1] - 1 + x]
                               for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)  # fmt: skip
        if (grown == found).all():
            return found
        found = grown


def test_edges_lie_where_the_gradient_is_strong_and_hang_on_the_strongest():
    smooth = np.array(Image.fromarray(RNG.integers(0, 256, (12, 16), dtype=np.uint8)).resize((96, 72), 3))
    found = np.asarray(edges(Image.fromarray(smooth).convert("RGB")))
    assert found.shape == (72, 96)
    assert set(np.unique(found)) == {0, 255}
    gradient, line = sobel(smooth), found > 0
    assert (gradient[line] > 100).all()
    assert (connected(line & (gradient > 200), line) == line).all()
    assert 0.02 < line.mean() < 0.4
    assert not line[gradient <= 100].any()


def test_a_step_is_one_line_and_a_faint_one_none():
    for height, expected in ((25, 0), (24, 0), (60, 1), (200, 1)):
        step = np.full((20, 20), 20, np.uint8)
        step[:, 10:] += height
        found = np.asarray(edges(Image.fromarray(step).convert("RGB")))
        assert (found > 0).sum(1)[2:-2].tolist() == [expected] * 16, height


def test_the_smallest_pictures_have_edges_too():
    for size in ((1, 1), (1, 7), (5, 1), (2, 2)):
        assert edges(Image.new("RGB", size, "white")).size == size


def test_an_edge_map_is_read_as_one_and_cleaned():
    expected = np.asarray(lines())
    for image in (lines(), lines("RGB"), lines("1")):
        got = read_edges(encoded(image), "e.png")
        assert got.mode == "L"
        assert (np.asarray(got) == expected).all()
    noisy = (expected.astype(int) + RNG.integers(-30, 31, expected.shape)).clip(0, 255).astype(np.uint8)
    noisy[-2, 5:60] = 90  # 0.4 % of all pixels
    got = read_edges(encoded(Image.fromarray(noisy)), "e.png")
    assert got.mode == "L"
    assert (np.asarray(got) == expected).all()


def test_what_edges_makes_is_known_as_an_edge_map(shared: Path):
    for path in sorted((shared / "data" / "photos").glob("*.jpg"))[:12]:
        photo = read_edges(path.read_bytes(), path.name)
        assert photo.mode == "RGB"
        made = edges(photo)
        again = read_edges(encoded(made), "made")
        assert again.mode == "L"
        assert (np.asarray(again) == np.asarray(made)).all()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RNG.integers(0, 256, (40, 40), dtype=np.uint8)),
        Image.fromarray(np.where(np.arange(14400).reshape(120, 120) % 150 == 0, 128, np.asarray(lines())).astype("u1")),
        lines("RGB", ink="yellow"),
        lines(paper="white", ink="black"),
    ],
    ids=["grey", "0.7 % between", "coloured lines", "black on white"],
)
def test_other_pictures_stay_photos(image):
    got = read_edges(encoded(image), "e.png")
    assert got.mode == "RGB"
    assert (np.asarray(got) == np.asarray(image.convert("RGB"))).all()


def test_a_damaged_file_is_named():
    with pytest.raises(BadImageError, match=r"^e.png: "):
        read_edges(encoded(lines())[:50], "e.png")
