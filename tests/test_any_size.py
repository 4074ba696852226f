"""Any size means any: pictures whose sides f does not divide are drawn on the next larger grid, and cut."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.codec.vqgan import codec_file
from taming_cli.config.codec import CodecConfig
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.data.arrays import read_pictures
from taming_cli.data.contents import Segmentation
from taming_cli.data.images import png_settings, read_image, to_float
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import UsageError
from taming_cli.evaluate.image_sets import ImageSet, open_image_set
from taming_cli.prior.model import prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import save_model
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import resolve_request
from tests.test_pipeline import saved
from tests.toys import CODEC, toy_codec

CPU = torch.device("cpu")
LABELS = 5


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("prior") / "prior.safetensors", classes=False)


@pytest.fixture(scope="module")
def pipeline(ckpt: Path) -> Pipeline:
    return Pipeline.load(ckpt, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A prior of label maps and places, f = 2; the maps' codec has f = 2 too."""
    path = tmp_path_factory.mktemp("painter") / "prior.safetensors"
    own = CodecConfig(
        **{name: getattr(CODEC, name) for name in ("ch", "ch_mult", "num_res_blocks")},
        in_channels=LABELS,
        out_ch=LABELS,
        attn_resolutions=(),
        z_channels=4,
        resolution=32,
        codebook_size=64,
        codebook_dim=4,
    )
    specs = (
        ConditionSpec(kind="segmentation", vocabulary=64, form="grid"),
        ConditionSpec(kind="coords", vocabulary=1025, form="grid"),
    )
    gpt = GPT(
        PriorConfig(
            arch="modern", n_layer=1, n_head=2, n_embd=16, window=Size(4, 4), codebook_size=64, conditions=specs
        )
    )
    about = Segmentation(LABELS).about()
    maps = {"segmentation": codec_file(toy_codec(own), about)}
    save_model(path, prior_file(gpt, codec_file(toy_codec(), {}), {"grid": "4x4"}, maps))
    return Pipeline.load(path, device="cpu")


def label_map(path: Path, width: int, height: int) -> Tensor:
    """Written to `path`: random labels (1, H, W)."""
    labels = np.random.default_rng(1).integers(0, LABELS, (height, width), dtype=np.uint8)
    Image.fromarray(labels).save(path)
    return torch.from_numpy(labels.astype(np.int32))[None]


@pytest.mark.parametrize(("width", "height"), [(9, 7), (10, 7), (1, 1), (1, 5), (13, 2)])
def test_a_picture_of_any_size_is_the_upper_left_of_the_next_larger_grid(
    width: int, height: int, pipeline: Pipeline
) -> None:
    made = pipeline.sample(n=2, seed=3, size=f"{width}x{height}")
    larger = pipeline.sample(n=2, seed=3, size=f"{width + width % 2}x{height + height % 2}")
    assert made.images.shape == (2, 3, height, width)
    assert torch.equal(made.codes, larger.codes)
    assert torch.equal(made.images, larger.images[..., :height, :width])


def test_every_file_that_is_written_has_the_true_size(ckpt: Path, tmp_path: Path, capsys: Any) -> None:
    out, tokens, npz = tmp_path / "out", tmp_path / "t.h5", tmp_path / "all.npz"
    line = ["sample", "--ckpt", str(ckpt), "--device", "cpu", "-n", "2", "--size", "9x7", "-o", str(out)]
    assert main([*line, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == "9x7"
    assert main([*line, "--tokens", str(tokens), "--npz", str(npz), "--json"]) == 0
    assert [json.loads(each)["size"] for each in capsys.readouterr().out.splitlines()] == ["9x7", "9x7"]
    settings = json.loads(png_settings(out / "000000.png") or "")
    assert (settings["size"], settings["grid"]) == ("9x7", "5x4")
    pictures = [np.asarray(Image.open(out / f"00000{number}.png")).astype(int) for number in range(2)]
    assert pictures[0].shape == (7, 9, 3)
    assert np.array_equal(np.stack(list(read_pictures(npz))), np.stack(pictures))
    with TokenFile(tokens) as file:
        assert file.codes(slice(None)).shape == (2, 1, 4, 5)
    assert main(["decode", str(tokens), str(tmp_path / "back"), "--device", "cpu", "-q"]) == 0
    for number, picture in enumerate(pictures):
        again = np.asarray(Image.open(tmp_path / "back" / f"00000{number}.png")).astype(int)
        assert again.shape == picture.shape
        assert np.abs(again - picture).max() <= 1
    decoded = open_image_set(tokens, device=CPU)
    assert isinstance(decoded, ImageSet)
    assert decoded.first_size() == Size(9, 7)
    before = (out / "000000.png").stat().st_ino
    assert main(line) == 0, "the same again is kept"
    assert (out / "000000.png").stat().st_ino == before
    assert main([*line, "--size", "10x8"]) == 2, "and another size is another picture"


def test_a_map_keeps_to_the_pixels_that_are_its_own(painter: Pipeline, tmp_path: Path) -> None:
    values = label_map(tmp_path / "seg.png", 9, 7)
    made = painter.sample(n=1, cond={"segmentation": tmp_path / "seg.png"})
    assert made.images.shape == (1, 3, 7, 9), "without a size the map's counts"
    encoder = painter.encoders["segmentation"]
    wider = F.pad(values[None].float(), (0, 1, 0, 1), mode="replicate")[0].int()
    for size in (None, "9x7"):
        maps = resolve_request(painter, {"size": size}, cond={"segmentation": tmp_path / "seg.png"}).maps
        assert torch.equal(maps.codes["segmentation"], encoder.encode(wider[None]))
    twice = resolve_request(painter, {"size": "17x14"}, cond={"segmentation": tmp_path / "seg.png"}).maps
    assert twice.codes["segmentation"].shape == (1, 7, 9)


def test_a_place_is_that_in_the_picture_and_not_in_the_grid(painter: Pipeline, tmp_path: Path) -> None:
    label_map(tmp_path / "seg.png", 9, 7)
    maps = {"segmentation": tmp_path / "seg.png"}
    codes = resolve_request(painter, {"size": "9x7"}, cond=maps).maps.codes["coords"][0]
    middles = torch.tensor([[(2 * i + 0.5) * 9 + 2 * j + 0.5 for j in range(5)] for i in range(4)], dtype=torch.float64)
    assert torch.equal(codes, (middles * 1024 / 63).clamp(0, 1024).round().long())


def test_maps_of_sizes_that_share_a_grid_are_drawn_at_its_size(painter: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    label_map(tmp_path / "maps/a.png", 12, 8)
    label_map(tmp_path / "maps/b.png", 12, 9)
    maps = resolve_request(painter, {}, cond={"segmentation": tmp_path / "maps"}).maps
    assert len(maps.codes["segmentation"]) == 2
    label_map(tmp_path / "maps/c.png", 20, 8)
    with pytest.raises(UsageError, match=r"the maps have 3 sizes; give the size .* --size"):
        resolve_request(painter, {}, cond={"segmentation": tmp_path / "maps"})


@pytest.mark.parametrize("keep", ["pixels", "codes"])
def test_completion_keeps_size_place_and_what_is_known(
    keep: str, ckpt: Path, pipeline: Pipeline, tmp_path: Path, capsys: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (11, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    line = ["sample", "--ckpt", str(ckpt), "--complete", str(tmp_path / "photo.png"), "--device", "cpu", "-q"]
    assert main([*line, "--mask", "upper-half", "--keep", keep, "-o", str(tmp_path / "half")]) == 0
    made = np.asarray(Image.open(tmp_path / "half/000000.png"))
    assert made.shape == (11, 15, 3)
    same = np.array_equal(made[:5], pixels[:5])
    assert same if keep == "pixels" else not same
    assert main([*line, "--size", "29x21", "--at", "3,5", "--keep", keep, "-o", str(tmp_path / "around")]) == 0
    made = np.asarray(Image.open(tmp_path / "around/000000.png"))
    assert made.shape == (21, 29, 3)
    inside = made[5:16, 3:18].astype(int) - pixels
    assert not inside.any() if keep == "pixels" else inside.any()
    assert main([*line, "--mask", "upper-half", "--keep", "codes", "-o", str(tmp_path / "half")]) == (
        2 if keep == "pixels" else 0
    )
    api = pipeline.complete(tmp_path / "photo.png", "upper-half", keep=keep)
    assert api.images.shape == (1, 3, 11, 15)
    assert np.array_equal(api.images[0, :, :5].permute(1, 2, 0).numpy(), pixels[:5]) is (keep == "pixels")


def test_encoding_takes_pictures_of_any_size_too(ckpt: Path, pipeline: Pipeline, tmp_path: Path, capsys: Any) -> None:
    images = torch.randint(0, 256, (2, 3, 7, 9), dtype=torch.uint8)
    wider = F.pad(images.float(), (0, 1, 0, 1), mode="replicate").to(torch.uint8)
    codes = pipeline.encode(images)
    assert codes.shape == (2, 4, 5)
    assert torch.equal(codes, pipeline.codec.encode(to_float(wider)))
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    line = ["--size", "5x3", "--device", "cpu"]
    assert main(["reconstruct", str(tmp_path / "a.png"), str(tmp_path / "out"), "--ckpt", str(ckpt), *line]) == 0
    assert read_image((tmp_path / "out/a.png").read_bytes(), "it").shape == (3, 3, 5)
    capsys.readouterr()
    assert main(["eval", "codebook", str(ckpt), str(tmp_path / "a.png"), *line, "-q"]) == 0
