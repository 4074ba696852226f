"""Palettes: k-means against an independent one, nearest colours by brute force, and a palette through the commands;
and codecs of a small f."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.vq import kmeans2
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.codec.palette import first_colours, palette_step
from taming_cli.codec.state import CodecState, start
from taming_cli.codec.tiling import tiles
from taming_cli.codec.tiling.boxes import divided
from taming_cli.codec.tiling.encoding import stages
from taming_cli.codec.train import TrainedCodec, fit
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.size import Size
from taming_cli.data.images import to_float
from taming_cli.data.pixels import SAMPLED, Pixels, sample_pixels
from taming_cli.data.sources import list_items
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import Interrupted
from taming_cli.runtime.run.folder import Place
from tests.pretrained_files import folder_of_pictures
from tests.test_codec_train import assert_same_end, stop_at

Array = NDArray[Any]
CODEC = CodecConfig(network="palette", ch_mult=(1,), codebook_dim=3, codebook_size=12)
DISCRIMINATOR = DiscriminatorConfig(disc_ndf=4)
TRAIN = CodecTrainConfig(
    size=Size(32, 32),
    steps=12,
    minutes=0.0,
    perceptual="none",
    disc_weight=0.0,
    val_every=0.5,
    device="cpu",
    precision="fp32",
)


def clusters() -> Pixels:
    """Pixels around 12 colours, which overlap."""
    rng = np.random.default_rng(0)
    centres = rng.integers(40, 216, (12, 3))
    values = centres[rng.integers(0, 12, 3000)] + rng.normal(0, 9, (3000, 3))
    rounded = values.round().clip(0, 255).astype(np.uint8)
    return Pixels(rounded, len(np.unique(rounded, axis=0)), 4, {})


def begun(pixels: Pixels, seed: int = 0) -> CodecState:
    codec = VQGAN(CODEC)
    codec.quantize.embedding.weight.data.copy_(first_colours(pixels, 12, seed))
    return start(codec, DISCRIMINATOR, TRAIN, torch.device("cpu"), torch.float32)


def entries(codec: VQGAN) -> Array:
    """Colours (K, 3) of 8-bit levels, not rounded."""
    weight: Tensor = codec.quantize.embedding.weight.detach().double()
    found: Array = ((weight + 1) * 127.5).numpy()
    return found


def assigned(values: Array, colours: Array) -> Array:
    """The nearest colour of each value, by brute force."""
    squared = ((values[:, None].astype(float) - colours[None]) ** 2).sum(2)
    nearest: Array = squared.argmin(1)
    return nearest


def are_nearest(codes: Array, values: Array, colours: Array) -> bool:
    """Whether no colour is nearer to its value; several may be equally near."""
    chosen = ((values.astype(float) - colours[codes]) ** 2).sum(1)
    best = ((values.astype(float) - colours[assigned(values, colours)]) ** 2).sum(1)
    return bool((chosen <= best + 1e-3).all())


def error(values: Array, colours: Array) -> float:
    """The mean squared error of the nearest colours."""
    return float(((values - colours[assigned(values, colours)]) ** 2).mean())


def grid_of(colours: Array, path: Path, size: tuple[int, int], seed: int) -> None:
    """A picture (height, width) of random pixels of these colours."""
    path.parent.mkdir(exist_ok=True)
    picked = np.random.default_rng(seed).integers(0, len(colours), size)
    Image.fromarray(colours[picked]).save(path)


def test_colours_are_the_means_of_their_pixels_as_good_as_those_of_scipy() -> None:
    pixels = clusters()
    state, values = begun(pixels), pixels.values.astype(float)
    expected, errors = entries(state.codec), list[float]()
    for _ in range(60):
        codes = assigned(values, expected)
        expected = np.stack([values[codes == code].mean(0) for code in range(12)])
        errors.append(float(palette_step(state, pixels).terms["l2"]))
    found = entries(state.codec)
    assert np.abs(found - expected).max() < 1e-3  # as those of Lloyd's iteration, written out
    codes = assigned(values, found)
    for code in range(12):
        assert np.abs(found[code] - values[codes == code].mean(0)).max() < 1e-3
    assert all(after <= before + 1e-7 for before, after in pairwise(errors))
    assert errors[-1] == pytest.approx(error(values, found) / 127.5**2, rel=1e-4)
    others = [error(values, kmeans2(values, 12, iter=60, minit="++", rng=seed)[0]) for seed in range(5)]
    ours = [errors[-1] * 127.5**2]
    for seed in (1, 2, 3, 4):
        state = begun(pixels, seed)
        ours += [float(palette_step(state, pixels).terms["l2"]) * 127.5**2 for _ in range(60)][-1:]
    assert min(ours) <= 1.02 * min(others)
    assert np.mean(ours) <= 1.1 * np.mean(others)


def test_the_codec_to_use_has_the_nearest_8_bit_colours() -> None:
    pixels = clusters()
    state = begun(pixels)
    palette_step(state, pixels)
    levels, means = entries(state.average), entries(state.codec)
    assert np.abs(levels - levels.round()).max() < 1e-4
    assert np.abs(levels - means).max() <= 0.5 + 1e-4
    assert np.abs(levels - means).max() > 0.1


def test_a_colour_without_pixels_keeps_its_place() -> None:
    pixels = clusters()
    state = begun(pixels)
    weight = state.codec.entries().data
    weight[3] = torch.tensor([7.0, 7.0, 7.0])
    counts = palette_step(state, pixels).counts
    assert counts[3] == 0
    assert counts.sum() == 3000
    assert torch.equal(weight[3], torch.tensor([7.0, 7.0, 7.0]))


def test_a_sample_is_even_over_the_pictures_and_knows_their_rarest_colour(tmp_path: Path) -> None:
    large = np.zeros((400, 500, 3), np.uint8)
    large[17, 33] = (9, 200, 1)
    Image.fromarray(large).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    items = list_items([tmp_path]).items
    few = sample_pixels(items, pictures=3, colours=1, seed=0)
    assert few.colours == 3
    assert few.pictures == 2
    assert list(few.bad) == ["c.png"]
    assert len(few.values) == -(-SAMPLED // 3) + 40 * 30
    every = sample_pixels(items, pictures=3, colours=3, seed=0)
    assert {tuple(colour) for colour in every.values.tolist()} == {(0, 0, 0), (9, 200, 1), (255, 0, 0)}
    assert np.array_equal(every.values[: len(few.values)], few.values)
    assert sample_pixels(items[1:], pictures=1, colours=1, seed=0).pictures + 1 == few.pictures


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., TrainedCodec]:
    folder_of_pictures(tmp_path / "pictures", 6, seed=1, size=(64, 48))

    def train_as(name: str, **options: Any) -> TrainedCodec:
        place = Place(name=name, root=tmp_path / "runs")
        train = replace(TRAIN, **options.pop("train", {}))
        pictures = [tmp_path / "pictures"]
        return fit(pictures, codec=CODEC, discriminator=DISCRIMINATOR, train=train, place=place, **options)

    return train_as


def test_a_palette_follows_from_the_seed_even_if_it_was_interrupted(run: Callable[..., TrainedCodec]) -> None:
    whole = run("whole")
    assert whole.step == 12
    with pytest.raises(Interrupted, match="after step 5"):
        run("parts", on_step=stop_at(5))
    assert_same_end(whole, run("parts"))
    same, other = run("same"), run("other", train={"seed": 1})
    assert VQGAN.load(same.last).sha256() == VQGAN.load(whole.last).sha256()
    assert VQGAN.load(other.last).sha256() != VQGAN.load(whole.last).sha256()
    assert VQGAN.load(run("fewer", train={"steps": 1}).last).sha256() != VQGAN.load(whole.last).sha256()


def test_a_palette_of_all_colours_gives_the_pictures_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (40, 3), dtype=np.uint8)
    for number in range(3):
        grid_of(colours[:-1], tmp_path / "pictures" / f"{number}.png", (210, 310), number)
    rare = np.asarray(Image.open("pictures/0.png")).copy()
    rare[5, 7] = colours[-1]
    for number in range(2):  # of which one may be held out
        Image.fromarray(rare).save(f"pictures/rare{number}.png")
    assert main(["train-vqgan", "pictures", "--preset", "palette", "--codebook-size", "40", "--out", "run"]) == 0
    codec = VQGAN.load("run")
    found = {tuple(colour) for colour in entries(codec).round().astype(int).tolist()}
    assert found == {tuple(colour) for colour in colours.tolist()}
    assert main(["reconstruct", "pictures", "--ckpt", "run", "-o", "rebuilt"]) == 0
    for path in sorted(Path("pictures").glob("*.png")):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(Path("rebuilt") / path.name)))
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[-2]["l2"] < 1e-12


def test_more_colours_than_there_are_and_other_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    colours = np.arange(21, dtype=np.uint8).reshape(7, 3)
    for number in range(4):
        grid_of(colours, tmp_path / "pictures" / f"{number}.png", (32, 32), number)
    of_palette = ["train-vqgan", "pictures", "--preset", "palette", "--out", "run"]
    for more, message in (
        ((), "a palette larger than the number of colours: 3 training pictures have 7 distinct colours"),
        (("--dry-run",), "use --codebook-size 7 or less"),
        (("--ch-mult", "1,2"), "ch_mult is 1,2; with network 'palette', it must be 1, as in preset palette"),
        (("--codebook-dim", "4"), "codebook_dim is 4; with network 'palette', it must be 3"),
        (("--codebook", "gumbel"), "codebook is gumbel; with network 'palette', it must be nearest"),
        (("--kind", "depth"), "network is 'palette', which has only the colours of pictures"),
        (("--disc-weight", "0.1"), "network is 'palette', which has neither a perceptual loss nor a discriminator"),
    ):
        assert main([*of_palette, *more]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("taming: ")]
        assert message in line
    assert not Path("run").exists()
    assert main([*of_palette, "--codebook-size", "7", "--steps", "2"]) == 0
    assert main([*of_palette, "--codebook-size", "7", "--steps", "2"]) == 0  # the same run, which is complete
    init = ["--init", "run", "--codebook-size", "7"]
    assert main([*of_palette[:-1], "tuned", *init, "--train", "decoder"]) == 2
    assert main([*of_palette[:-1], "more", *init]) == 0
    for to in ("compvis", "diffusers"):
        assert main(["export", "run", "-o", "out", "--to", to]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("taming: ")]
    assert "train is 'decoder', but network is 'palette'" in lines[0]
    assert "no dVAE, VQ-VAE-2 or palette" in lines[1]
    assert "not a palette alone" in lines[2]


def test_a_palette_serves_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_pictures(tmp_path / "pictures", 6, seed=1, size=(40, 32))
    small = ("--preset", "palette", "--codebook-size", "24", "--size", "40x32", "--steps", "10")
    assert main(["train-vqgan", "pictures", *small, "--dry-run"]) == 0
    assert "40x32 codes of 24" in capsys.readouterr().out
    assert main(["train-vqgan", "pictures", *small, "--out", "run"]) == 0
    assert main(["tokenize", "pictures", "--ckpt", "run", "-o", "t.h5"]) == 0
    assert main(["decode", "t.h5", "decoded"]) == 0
    assert main(["reconstruct", "pictures", "--ckpt", "run", "-o", "rebuilt"]) == 0
    colours = entries(VQGAN.load("run"))
    with TokenFile(Path("t.h5")) as file:
        codes, names = file.codes(slice(None))[:, 0], file.names()
    for one, name in zip(codes, names, strict=True):
        original, decoded = (np.asarray(Image.open(Path(folder) / name)) for folder in ("pictures", "decoded"))
        assert are_nearest(one.ravel(), original.reshape(-1, 3), colours)
        assert np.array_equal(decoded, colours.round().astype(np.uint8)[one])
        assert np.array_equal(decoded, np.asarray(Image.open(Path("rebuilt") / name)))
    assert main(["tokenize", "decoded", "--ckpt", "run", "-o", "again.h5"]) == 0
    with TokenFile(Path("again.h5")) as file:
        assert np.array_equal(file.codes(slice(None))[:, 0], codes)
    assert main(["eval", "recon", "run", "pictures"]) == 0
    assert main(["eval", "codebook", "run", "t.h5"]) == 0
    assert main(["info", "run"]) == 0
    tiny = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--steps", "2", "--minutes", "0")
    assert main(["train-prior", "t.h5", *tiny, "--out", "prior"]) == 0
    assert main(["sample", "--ckpt", "prior", "-o", "s"]) == 0
    sample = np.asarray(Image.open("s/000000.png"))
    assert sample.shape == (32, 40, 3)
    levels = {tuple(colour) for colour in colours.round().astype(int).tolist()}
    assert {tuple(colour) for colour in sample.reshape(-1, 3).tolist()} <= levels


def test_parts_of_a_picture_are_those_of_the_whole() -> None:
    codec = VQGAN(CODEC).eval()
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (12, 3), dtype=torch.uint8, generator=generator)
    codec.quantize.embedding.weight.data.copy_(to_float(colours))
    picture = torch.randint(0, 256, (1, 3, 70, 101), dtype=torch.uint8, generator=generator)
    budget, whole = 2**16, codec.encode(to_float(picture))
    assert len(list(divided(stages(codec, to_float), (70, 101), budget))) > 4
    assert torch.equal(tiles.encode(codec, picture, budget=budget), whole)
    assert torch.equal(tiles.decode(codec, whole, finish=lambda x: x, budget=budget), codec.decode(whole))
    assert tiles.exact(codec, 70, 101, budget)
    assert are_nearest(whole.numpy().ravel(), picture[0].flatten(1).T.numpy(), colours.numpy())


@pytest.mark.parametrize(("patch_size", "ch_mult", "f"), [(1, "1", 1), (1, "1,2", 2), (2, "1,2", 4)])
def test_patch_and_multipliers_of_the_levels_set_f(
    patch_size: int, ch_mult: str, f: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_pictures(tmp_path / "pictures", 3, seed=1, size=(24, 16))
    small = ("--ch", "8", "--z-channels", "8", "--size", "24x16", "--batch-size", "2", "--perceptual", "none")
    short = ("--disc-ndf", "4", "--steps", "1", "--minutes", "0", "--out", "run")
    levels = ("--patch-size", str(patch_size), "--ch-mult", ch_mult)
    assert main(["train-vqgan", "pictures", "--preset", "tiny", *levels, *small, *short]) == 0
    assert main(["tokenize", "pictures", "--ckpt", "run", "-o", "t.h5"]) == 0
    with TokenFile(Path("t.h5")) as file:
        assert file.codes(slice(None)).shape[2:] == (16 // f, 24 // f)
    assert main(["decode", "t.h5", "decoded"]) == 0
    with Image.open("decoded/000.png") as picture:
        assert picture.size == (24, 16)
