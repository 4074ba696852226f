"""Sheets of pictures: what lies where, and one cut into its pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.data.images import write_png
from taming_cli.errors import BadFileError
from taming_cli.runtime.run.sheets import LAYOUT, Layout, halves, layout_of, pictures_on, read_png
from tests.pages import draw_samples


def test_a_sheet_is_cut_into_its_pictures(tmp_path: Path) -> None:
    pictures = draw_samples(tmp_path / "a" / "samples" / "step_0000001.png", tuple("abcde"))
    sheet = read_png(tmp_path / "a" / "samples" / "step_0000001.png")
    layout = layout_of(sheet)
    assert layout == Layout(2, 5, tuple("abcde"))
    for part, picture in zip(pictures_on(sheet, layout), pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(part.png))), picture.permute(1, 2, 0))
        assert (part.width, part.height) == (8, 8)
    upper_and_lower = halves(sheet)  # 28 rows: 13, a gap of 2, 13
    assert [part.height for part in upper_and_lower.values()] == [13, 13]


@pytest.mark.parametrize(
    "recorded",
    [
        "",
        "[]",
        "{}",
        '{"columns": "x"}',
        '{"columns": 0, "count": 5, "labels": []}',
        '{"columns": 2, "count": 5, "labels": ["a"]}',
        '{"columns": 90, "count": 5, "labels": []}',
    ],
)
def test_a_layout_that_does_not_fit_its_sheet_is_ignored(tmp_path: Path, recorded: str) -> None:
    path = tmp_path / "samples" / "step_0000001.png"
    write_png(path, torch.zeros(3, 28, 18, dtype=torch.uint8), {LAYOUT: recorded})
    assert layout_of(read_png(path)) is None


@pytest.mark.parametrize("keep", [0, 8, 20, -1])
def test_a_file_that_is_not_a_complete_png_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "step_0000001.png"
    draw_samples(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadFileError, match=r"step_0000001\.png is not a complete PNG"):
        read_png(path)
