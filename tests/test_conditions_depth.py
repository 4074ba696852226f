"""Depth maps of every kind -> numbers from -1 to 1."""

import io
import shlex
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.codec.setup import set_up
from taming_cli.codec.vqgan import codec_file
from taming_cli.config.codec import DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.data.conditions.depth import read_depth
from taming_cli.data.contents import content_of
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadImageError, UsageError
from taming_cli.prior.model import prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import load_model, read_header, save_model
from tests import toys

RNG = np.random.default_rng(11)
DEPTH = RNG.normal(900, 300, (9, 13)).astype(np.float32)


def encoded(array_or_image, file_format="PNG", **options) -> bytes:
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def in_rgba(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array, "<f4").view(np.uint8).reshape(*array.shape, 4))


def read(data: bytes) -> np.ndarray:
    image = read_depth(data, "d.png")
    assert image.mode == "F"
    return np.asarray(image)


def scaled(array: np.ndarray) -> np.ndarray:
    exact = array.astype(np.float64)
    return 2 * (exact - exact.min()) / (exact.max() - exact.min()) - 1


BYTES = (DEPTH / 10).clip(0, 255).astype(np.uint8)
SHORTS = (DEPTH * 20).clip(0, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (encoded(BYTES), BYTES),
        (encoded(BYTES, "BMP"), BYTES),
        (encoded(np.dstack([BYTES] * 3)), BYTES),
        (encoded(np.dstack([BYTES] * 3 + [np.full_like(BYTES, 255)])), BYTES),
        (encoded(SHORTS), SHORTS),
        (encoded(SHORTS, "TIFF"), SHORTS),
        (encoded(DEPTH, "TIFF"), DEPTH),
        (encoded(-DEPTH * 1e9, "TIFF"), -DEPTH * 1e9),
        (encoded(in_rgba(DEPTH)), DEPTH),
        (encoded(in_rgba(DEPTH - 900)), DEPTH - 900),
        (encoded(in_rgba(np.maximum(DEPTH - 900, 0))), np.maximum(DEPTH - 900, 0)),
        (encoded(in_rgba(DEPTH * 1e-7)), DEPTH * np.float32(1e-7)),
        (npy(DEPTH), DEPTH),
        (npy(DEPTH[None]), DEPTH),
        (npy(DEPTH[..., None]), DEPTH),
        (npy(np.asfortranarray(DEPTH.astype(">f8"))), DEPTH),
        (npy(DEPTH.astype(np.float16)), DEPTH.astype(np.float16)),
        (npy(SHORTS), SHORTS),
        (npy(SHORTS.astype(np.int64) - 2**40), SHORTS),
        (npy(DEPTH > 900), DEPTH > 900),
    ],
)
def test_each_format_is_scaled_by_its_own_extremes(data, values):
    got = read(data)
    assert got.shape == (9, 13)
    assert np.abs(got - scaled(values)).max() < 1e-6
    assert (got.min(), got.max()) == (-1, 1)


def test_jpeg_is_read_too_for_depth_may_be_a_little_off():
    smooth = (np.arange(32)[:, None] * 4 + np.arange(40)[None] * 2).astype(np.uint8)
    assert np.abs(read(encoded(smooth, "JPEG", quality=95)) - scaled(smooth)).max() < 0.1


@pytest.mark.parametrize("data", [encoded(np.full((4, 5), 7, np.uint8)), npy(np.full((4, 5), -3.5))])
def test_a_constant_map_is_zero(data):
    assert (read(data) == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: DEPTH, 2: DEPTH[:, ::-1], 3: DEPTH[::-1, ::-1], 4: DEPTH[::-1], 5: DEPTH.T, 6: DEPTH.T[:, ::-1],
        7: DEPTH.T[::-1, ::-1], 8: DEPTH.T[::-1],
    }[orientation]  # fmt: skip
    for data in (encoded(in_rgba(DEPTH), exif=exif), encoded(DEPTH, "TIFF", exif=exif)):
        assert np.abs(read(data) - scaled(upright)).max() < 1e-6


def photo(alpha: np.ndarray) -> Image.Image:
    colour = RNG.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(np.dstack([colour, alpha.astype(np.uint8)]))


@pytest.mark.parametrize(
    "alpha",
    [
        np.full((9, 13), 255),
        np.full((9, 13), 254),
        np.full((9, 13), 128),
        np.full((9, 13), 1),
        np.zeros((9, 13)),
        np.where(RNG.random((9, 13)) < 0.5, 0, 255),
        RNG.integers(0, 256, (9, 13)),
    ],
    ids=["opaque", "nearly opaque", "half", "nearly clear", "clear", "cut out", "any"],
)
def test_pictures_with_transparency_are_not_taken_for_numbers(alpha):
    with pytest.raises(BadImageError, match=r"^d.png: a picture in colour"):
        read(encoded(photo(alpha)))


def array_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.where(DEPTH > 900, np.nan, DEPTH)), "infinite values or nan"),
        (npy(np.where(DEPTH > 900, np.inf, DEPTH)), "infinite"),
        (encoded(np.where(DEPTH > 900, np.float32(np.nan), DEPTH), "TIFF"), "infinite values or nan"),
        (npy(np.array([[1e308, -1e308]])), "infinite"),
        (npy(np.array([[0x7F800001, 1]], np.uint32).view(np.float32)), "infinite values or nan"),  # one that signals
        (npy(np.zeros((2, 3, 4))), "shape (2, 3, 4)"),
        (npy(np.zeros(5)), "shape (5,)"),
        (npy(np.zeros((0, 5))), "shape (0, 5)"),
        (npy(np.zeros((2, 2), complex)), "complex128"),
        (npy(np.array([["a", "b"]])), "<U1"),
        (npy(np.array([[{}, []]], dtype=object)), "object"),
        (npy(DEPTH)[:-1], "shorter than its 117 values"),
        (array_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4), }"), "shorter than its"),
        (array_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4), }"), "shape (-1, -4)"),
        (array_header("__import__('os').abort()"), "damaged .npy"),
        (b"\x93NUMPY", "damaged .npy"),
        (encoded(np.dstack([BYTES, BYTES, BYTES[::-1]])), "in colour"),
        (encoded(np.dstack([BYTES] * 3 + [np.where(BYTES > 90, 255, 0).astype(np.uint8)])), "transparent in places"),
        (encoded(np.zeros((4, 5, 4), np.uint8)), "transparent in places"),
        (encoded(Image.new("CMYK", (3, 3)), "TIFF"), "mode CMYK"),
        (encoded(BYTES)[:60], "damaged"),
        (b"depth", "not a picture"),
        (b"", "empty"),
    ],
)
def test_what_holds_no_depth_is_refused_in_one_line(data, words):
    with pytest.raises(BadImageError) as caught:
        read_depth(data, "a/d.png")
    assert str(caught.value).startswith("a/d.png: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_published_map_is_read_as_floats(shared: Path):
    paths = sorted((shared / "data" / "animals" / "depth").rglob("*.png"))
    assert paths
    for path in paths:
        stored = np.ascontiguousarray(np.asarray(Image.open(path))).view("<f4")[..., 0]
        got = read(path.read_bytes())
        assert np.abs(got - scaled(stored)).max() < 1e-6
        # Depth is smooth: read in another byte order, or as colours, it is noise.
        assert np.abs(np.diff(got, axis=1)).mean() < 0.02


def test_the_published_photos_are_no_depth_maps(shared: Path):
    for path in sorted((shared / "data" / "animals" / "images").rglob("*.*"))[:5]:
        with pytest.raises(BadImageError, match="in colour"):
            read_depth(encoded(Image.open(path).convert("RGBA")), path.name)


# --- what was not measured, and outliers ------------------------------------------------------------------------------


def holes(value: float, dtype: type = np.float32) -> np.ndarray:
    """A slope from 100 on the left to 107 on the right, with a hole in columns 2 to 4 and the last column gone."""
    depth = np.tile(np.arange(8, dtype=np.float64) + 100, (6, 1))
    depth[1:5, 2:5] = value
    depth[:, 7] = value
    return depth.astype(dtype)


FILLED = np.tile(np.arange(8, dtype=np.float64), (6, 1))
FILLED[:, 7] = 6
FILLED[2:4, 2], FILLED[2:4, 4] = 1, 5


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        (encoded(holes(0, np.uint16)), [0]),
        (encoded(holes(65535, np.uint16)), [65535]),
        (encoded(holes(0, np.uint8)), [0, 255]),
        (npy(holes(np.nan)), [float("nan")]),
        (npy(holes(np.inf)), [float("inf")]),
        (npy(holes(-np.inf)), [float("nan"), float("-inf")]),
        (encoded(holes(-9999), "TIFF"), [-9999]),
        (npy(holes(1e-3)), [0.001]),  # as float32 has it, 0.001 is another number
    ],
    ids=["0", "65535", "0 and 255", "nan", "inf", "-inf", "-9999", "0.001"],
)
def test_missing_values_do_not_count_and_take_the_nearest_measured_one(data: bytes, missing: list[float]) -> None:
    got = np.asarray(read_depth(data, "d.png", missing=missing))
    wanted = FILLED / 3 - 1
    known = [0, 1, 5, 6, 7]
    assert np.allclose(got[:, known], wanted[:, known])
    assert np.allclose(got[2:4, [2, 4]], wanted[2:4, [2, 4]])
    assert ((got[1:5, 3] >= -1) & (got[1:5, 3] <= 1)).all()


def test_without_missing_values_a_map_is_as_it_was() -> None:
    for data in (npy(DEPTH), encoded(SHORTS), encoded(BYTES, "BMP")):
        assert np.array_equal(np.asarray(read_depth(data, "d", missing=[-1.0], percentiles=(0.0, 100.0))), read(data))


def test_a_map_of_missing_values_alone_is_refused_in_one_line() -> None:
    for array, missing, said in (
        (np.zeros((4, 5), np.uint16), [0.0, 65535.0], "(0, 65535)"),
        (np.full((4, 5), np.nan), [float("nan")], "(nan)"),
    ):
        with pytest.raises(BadImageError, match=r"^d.npy: every pixel has a value that means missing ") as caught:
            read_depth(npy(array), "d.npy", missing=missing)
        assert said in str(caught.value)
    with pytest.raises(BadImageError, match="train with --missing nan,inf,-inf"):
        read_depth(npy(holes(np.nan)), "d.npy", missing=[0.0])


def test_outliers_are_clipped_by_percentiles_of_what_was_measured() -> None:
    depth = np.linspace(0, 1, 1000).reshape(25, 40)
    depth[0, 0], depth[24, 39] = -1e4, 1e4
    depth[5:10] = 7777
    got = np.asarray(read_depth(npy(depth), "d", missing=[7777], percentiles=(2, 98)))
    low, high = np.percentile(depth[depth != 7777], [2, 98])
    inner = (depth > low) & (depth < high)
    assert np.allclose(got[inner], (2 * (depth[inner] - low) / (high - low) - 1), atol=1e-6)
    assert got[0, 0] == -1
    assert got[24, 39] == 1
    assert read(npy(depth)).std() < 0.5
    flat = np.zeros((10, 10))
    flat[0, 0] = 5  # both percentiles are 0: the whole range is better than none
    assert np.array_equal(np.asarray(read_depth(npy(flat), "d", percentiles=(2, 98))), read(npy(flat)))


def test_a_codec_of_depth_records_in_its_file_how_its_maps_are_read(tmp_path: Path) -> None:
    for number in range(4):
        depth = RNG.normal(900, 300, (24, 24)).clip(1).astype(np.uint16)
        depth[4:9, 3:12] = 0
        for folder in ("maps", "photos"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(depth).save(tmp_path / f"maps/{number}.png")
        Image.fromarray(RNG.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / f"photos/{number}.png")
    run = tmp_path / "run"
    tiny = shlex.split(
        "--ch 8 --ch-mult 1 --num-res-blocks 1 --norm-groups 2 --z-channels 4 --codebook-size 16 --size 16x16 "
        "--batch-size 2 --steps 1 --minutes 0 --device cpu --precision fp32"
    )
    how = ["--missing", "0,nan", "--depth-range", "2,98"]
    last = "checkpoints/last.safetensors"
    assert main(["train-vqgan", str(tmp_path / "maps"), "--kind", "depth", *tiny, *how, "--out", str(run)]) == 0
    header = read_header(run / last)
    assert (header.about["missing"], header.about["depth_range"]) == (["0", "nan"], [2, 98])
    reads = content_of(header.about, 1)
    data = (tmp_path / "maps/0.png").read_bytes()
    wanted = np.asarray(read_depth(data, "0", missing=[0], percentiles=(2, 98)))
    assert np.array_equal(np.asarray(reads.read(data, "0")), wanted)
    # A training that starts from it, or goes on, reads maps like it; tokens say so; and a prior's file repeats it.
    init = CodecTrainConfig(kind="depth", init=str(run / last), perceptual="none", disc_weight=0.0, size=Size(16, 16))
    assert set_up([tmp_path / "maps"], toys.CODEC, DiscriminatorConfig(), init).content == reads
    gone = replace(init, init=str(tmp_path / "gone.safetensors"))
    assert (
        set_up([tmp_path / "maps"], toys.CODEC, DiscriminatorConfig(), gone, run=run).content == reads
    )  # of a run that goes on
    save_model(tmp_path / "codec.safetensors", codec_file(toys.toy_codec(), {"size": "16x16"}))
    codec = ["--ckpt", str(tmp_path / "codec.safetensors")]
    out = tmp_path / "t.h5"
    conditions = ["--cond", f"depth={tmp_path / 'maps'}", "--cond-ckpt", str(run / last), "-o", str(out)]
    assert main(["tokenize", str(tmp_path / "photos"), *codec, *conditions, "-q"]) == 0
    with TokenFile(out) as tokens:
        assert tokens.header.preprocess["maps"] == {"depth": {"missing": ["0", "nan"], "depth_range": [2, 98]}}
    spec = ConditionSpec(kind="depth", form="grid", vocabulary=16)
    gpt = GPT(
        PriorConfig(
            arch="modern", n_layer=1, n_head=2, n_embd=16, codebook_size=64, window=Size(4, 4), conditions=(spec,)
        )
    )
    prior = prior_file(gpt, load_model(tmp_path / "codec.safetensors"), {}, {"depth": load_model(run / last)})
    assert content_of(prior.about["conditions"]["depth"], 1) == reads


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"missing": ("zero",)}, "missing is 'zero'"),
        ({"depth_range": (98.0, 2.0)}, "the lower first"),
        ({"depth_range": (2.0,)}, "two percentiles"),
        ({"depth_range": (0.0, 101.0)}, "at most 100"),
        ({"kind": "segmentation", "missing": ("0",)}, "for depth maps"),
        ({"kind": "pose", "depth_range": (2.0, 98.0)}, "for depth maps"),
    ],
)
def test_settings_of_depth_that_mean_nothing_are_refused(settings: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        CodecTrainConfig(**{"kind": "depth", "perceptual": "none", "disc_weight": 0.0} | settings)
