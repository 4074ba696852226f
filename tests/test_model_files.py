"""The model that comes with the package: that it is there, small, whole, says how it was made, and follows its maps."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import taming_cli
from taming_cli import VQGAN, Pipeline
from taming_cli.data.images import png_settings, tensor
from taming_cli.data.tokens.file import TokenFile
from taming_cli.runtime.checkpoint import read_header
from taming_cli.runtime.model_files import path
from taming_cli.scenes.canvas import LABELS, PALETTE
from taming_cli.scenes.generate import scene
from tests.test_cli import taming

UNSEEN = 8005
"""A lake that nothing was trained on."""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAMING_DEVICE", "cpu")
    return tmp_path


def test_it_is_one_file_of_15_mb_at_most_that_records_how_it_was_made_and_not_where() -> None:
    assert path().stat().st_size <= 15_000_000
    said = read_header(path())
    made = {**said.about["made"].get("former", {}), **said.about["made"]}
    assert made["script"] == "scripts/builtin"
    scores = {"codec": "psnr", "decoder": "psnr", "map-codec": "accuracy"}
    for part, score in {**scores, "prior": "val_nats_per_token", "tuned": "val_nats_per_token"}.items():
        assert {"seed", "steps", "minutes", score} <= set(made[part])
    assert "times (95 % interval" in made["follows"]
    assert not re.search(r'"/\w', json.dumps([said.about, said.config])), "a path of the machine that made it"
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text()
    assert f"{path().stat().st_size / 1e6:.1f} MB" in readme


def test_the_guide_lists_the_labels_and_colours_of_its_maps() -> None:
    colours = read_header(path()).about["conditions"]["segmentation"]["colours"]
    assert tuple(colours["names"]) == LABELS[:11]
    assert colours["rgb"] == PALETTE[:11].tolist()
    text = (Path(taming_cli.__file__).parent / "guides" / "conditions.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()]
    for value, (name, colour) in enumerate(zip(colours["names"], colours["rgb"], strict=True)):
        assert [str(value), name, f"`{bytes(colour).hex()}`"] in rows


def test_in_an_empty_folder_it_is_taken_and_printed(empty: Path) -> None:
    said = taming("sample", "-n", 2, "--size", "64x48")
    assert said.code == 0
    assert "prior: builtin" in said.err
    settings = json.loads(png_settings(Path("runs/sample/001/000001.png")) or "")
    assert (settings["guidance"], settings["min_p"]) == (1, 0), "without a map, every code"
    drawn = scene(UNSEEN, 64, 48, kind="landscape")
    Image.fromarray(drawn.segmentation).save("map.png")
    painted = taming("sample", "--cond", "map.png", "--guidance", 2, "--json")
    settings = json.loads(png_settings(Path(painted.json["path"])) or "")
    assert (settings["guidance"], settings["min_p"]) == (2, 0.02), "with one, as the file suggests"
    Image.new("RGB", (64, 48), (90, 140, 60)).save("p.png")
    assert "codec: builtin" in taming("reconstruct", "p.png", "out").err
    assert taming("tokenize", "p.png", "--size", "64x48", "-q").code == 0
    with TokenFile(Path("tokens.h5")) as tokens:
        assert tokens.header.codec_sha256 == VQGAN.load("builtin").sha256()
    assert taming("decode", "tokens.h5", "decoded", "-q").code == 0, "the codec is found again"


def test_builtin_names_it_wherever_a_model_is_named(empty: Path) -> None:
    assert json.loads(taming("info", "builtin", "--json").out)["made"]["script"] == "scripts/builtin"
    scenes = taming("demo-data", "d", "-n", 4, "--size", "64x64", "-q")
    assert scenes.code == 0
    line = "train-vqgan d/images --init builtin --size 32x32 --steps 1 --minutes 0 --batch-size 2 --perceptual none"
    said = taming(*line.split(), "--disc-weight", 0, "--json")
    assert (said.code, said.json["step"]) == (0, 1)
    assert "codec: runs/train-vqgan/001" in taming("reconstruct", "d/images", "out").err
    assert "runs/" not in taming("reconstruct", "d/images", "again", "--ckpt", "builtin").err


def test_a_map_of_a_label_that_it_does_not_know_is_refused_by_name(empty: Path) -> None:
    Image.new("L", (64, 64), 14).save("m.png")
    said = taming("sample", "--cond", "m.png", "-o", "out")
    assert (said.code, said.out) == (1, "")
    assert "holds label 14, but the labels are 0 to 10 (sky, sun, moon, " in said.err
    assert not Path("out").exists()


def test_maps_as_labels_and_in_colours_are_the_same(empty: Path) -> None:
    drawn = scene(UNSEEN, 128, 96, kind="landscape")
    Image.fromarray(drawn.segmentation).save("labels.png")
    Image.fromarray(PALETTE[drawn.segmentation]).save("colours.png")
    pipeline = Pipeline.load(device="cpu")
    one, other = (pipeline.sample(cond=name, seed=1) for name in ("labels.png", "colours.png"))
    assert torch.equal(one.images, other.images)
    assert one.classes == (None,), "not every class fits every map"
    assert pipeline.sample(cond="labels.png", class_name="lake").classes == ("lake",)
    assert pipeline.sample(size="64x48").classes != (None,)


def test_samples_follow_their_maps(tmp_path: Path) -> None:
    """Regions have the colours of the scene whose map it is, rather than those of the map upside down."""
    pipeline, right, wrong = Pipeline.load(device="cpu"), 0.0, 0.0
    for seed in range(8000, 8008, 2):
        drawn = scene(seed, 320, 208, kind="landscape")
        Image.fromarray(drawn.segmentation).save(tmp_path / "map.png")
        (made,) = pipeline.sample(cond=tmp_path / "map.png", class_name=drawn.label, seed=seed).images
        picture = made.permute(1, 2, 0).numpy()
        for label in np.unique(drawn.segmentation):
            inside = drawn.segmentation == label
            colour = drawn.image[inside].mean(0)
            right += inside.mean() * np.abs(picture[inside].mean(0) - colour).mean()
            wrong += inside.mean() * np.abs(picture[inside[::-1]].mean(0) - colour).mean()
    assert right < 0.75 * wrong


def test_the_codec_gives_pictures_back() -> None:
    """Landscapes that it has never seen, better than their mean colour would by far."""
    codec = VQGAN.load("builtin")
    truth = torch.stack([tensor(Image.fromarray(scene(8000 + n, 256, 256, kind="landscape").image)) for n in range(8)])
    x = truth / 127.5 - 1
    error = (codec.decode(codec.encode(x)).clamp(-1, 1) - x).square().mean()
    flat = (x.mean((2, 3), keepdim=True) - x).square().mean()
    assert error < flat / 4
