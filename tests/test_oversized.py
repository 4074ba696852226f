"""Pictures of more pixels than the limit: named from their headers before a training begins, allowed by a setting."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_cli.codec import train as training
from taming_cli.data.sources import list_items
from taming_cli.errors import UsageError
from tests.test_cli import CODEC, picture, taming
from tests.test_command_line import LEAVES


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of 40 x 36, and one of 64 x 60 whose header lies behind 80 kB of metadata."""
    for number in range(3):
        picture(tmp_path / "photos" / f"{number}.png", (80 * number, 40, 90))
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "large.tif", description="x" * 80_000)
    return tmp_path / "photos"


def test_a_training_names_large_pictures_before_its_first_step(photos: Path, monkeypatch: pytest.MonkeyPatch):
    def begin(*_: object, **__: object) -> None:
        raise UsageError("the first step")

    monkeypatch.setattr(training, "train_batches", begin)
    said = taming("train-vqgan", photos, *CODEC, "--steps", 2, "--max-pixels", 2000, "--out", photos.parent / "run")
    told, end = said.err.splitlines()
    assert end == "taming: the first step"
    for word in (
        "1 of 4 pictures",
        "large.tif",
        "64 x 60",
        "3840 pixels",
        "--max-pixels",
        "TAMING_MAX_PIXELS",
        "2000;",
    ):
        assert word in told
    assert "TAMING_MAX_PIXELS" not in os.environ


def test_a_large_picture_is_skipped_by_a_training_even_where_it_was_not_met(photos: Path):
    out = ("--out", photos.parent / "run", "--json")
    said = taming("train-vqgan", photos, *CODEC, "--steps", 1, "--batch-size", 1, "--max-pixels", 2000, *out)
    assert (said.code, list(said.json["skipped"])) == (3, ["large.tif"])


def test_the_setting_reaches_the_processes_that_load(photos: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAMING_MAX_PIXELS", "2000")
    flags = ("--max-pixels", 4000, "--workers", 1, "--steps", 1, "--batch-size", 8, "--json")
    said = taming("train-vqgan", photos, *CODEC, *flags, "--out", photos.parent / "run")
    assert (said.code, said.json["skipped"]) == (0, {})


def test_where_all_pictures_are_too_large_nothing_begins(photos: Path):
    flags = (*CODEC, "--steps", 2, "--max-pixels", 100)
    said = taming("train-vqgan", photos, *flags, "--out", photos.parent / "run")
    assert said.code == 2
    assert "none of the 4 pictures can be read; the first is 0.png: larger than is safe" in said.refusal
    assert not (photos.parent / "run").exists()
    assert "none of the 4 pictures" in taming("train-vqgan", photos, *flags, "--dry-run").refusal


@pytest.mark.parametrize(
    "file_format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF"]
)
def test_the_size_is_in_the_header_of_each_format(file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pictures of several times 64 KiB, as files and in an archive."""
    from taming_cli.data.oversized import find_oversized

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    stream = io.BytesIO()
    if file_format == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(noise).save(stream, quality=100)
    else:
        lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}, "AVIF": {"quality": 100}}
        noise.save(stream, file_format, **lossless.get(file_format, {}))
    data = stream.getvalue()
    (tmp_path / "0.png").write_bytes(data)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "0.png", "1.png")
    picture(tmp_path / "small.png")
    monkeypatch.setenv("TAMING_MAX_PIXELS", "119999")
    items = list_items([tmp_path / name for name in ("0.png", "x.tar", "small.png")]).items
    assert {name: "400 x 300" in reason for name, reason in find_oversized(items).items()} == {
        "0.png": True,
        "1.png": True,
    }
    monkeypatch.setenv("TAMING_MAX_PIXELS", "120000")
    assert find_oversized(items) == {}


def test_a_jpeg_that_is_too_short_to_be_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from taming_cli.data import oversized

    Image.new("RGB", (512, 512)).save(tmp_path / "a.jpg")
    Image.new("RGB", (4000, 4000)).save(tmp_path / "b.jpg", progressive=True)
    items = list_items([tmp_path]).items
    monkeypatch.setattr(oversized, "declared_size", lambda stream: None)
    assert oversized.find_oversized(items) == {}
    assert (
        tmp_path / "b.jpg"
    ).stat().st_size * oversized._PIXELS_PER_BYTE > 4000 * 4000  # a solid one, as short as it can be


@pytest.mark.parametrize(
    "command",
    ["train-vqgan", "tokenize", "reconstruct", "sample", "annotate edges", "annotate depth", "eval recon", "eval fid"],
)
def test_every_command_that_reads_pictures_has_the_setting(command: str):
    (option,) = [each for each in LEAVES[command].params if each.name == "max_pixels"]
    assert option.envvar == "TAMING_MAX_PIXELS"


def test_a_picture_beyond_the_limit_is_skipped_or_read_as_the_flag_says(photos: Path):
    refused = taming("annotate", "edges", photos, photos.parent / "a", "--max-pixels", 2000, "--json")
    assert refused.code == 3
    assert "--max-pixels (TAMING_MAX_PIXELS) is 2000" in refused.json["skipped"]["large.tif"]
    allowed = taming("annotate", "edges", photos, photos.parent / "b", "--max-pixels", 3840, "--json")
    assert (allowed.code, allowed.json["count"]) == (0, 4)
    for said in ("0", "many"):
        line = taming("annotate", "edges", photos, photos.parent / "c", "--max-pixels", said).refusal
        assert line.startswith("taming: --max-pixels is ")
        assert said in line
