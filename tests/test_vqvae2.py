"""A VQ-VAE-2 of two levels: against golden files, an independent implementation, and itself in tiles."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.codec import losses
from taming_cli.codec.state import start
from taming_cli.codec.step import PartTask, Phase, backward, codec_step
from taming_cli.codec.tiling import encoding, tiles
from taming_cli.codec.tiling.boxes import divided
from taming_cli.codec.tiling.decoding import stages
from taming_cli.codec.train import TrainedCodec, fit
from taming_cli.codec.vqgan import VQGAN
from taming_cli.codec.vqvae2 import CodeLevels, join_levels, split_levels
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.presets import preset
from taming_cli.config.resolve import Layer, resolve
from taming_cli.config.size import Size
from taming_cli.data.images import to_uint8
from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.merge import identity
from taming_cli.errors import BadFileError, Interrupted
from taming_cli.evaluate.image_sets import TokenImages, open_image_set
from taming_cli.runtime.run.folder import Place
from tests.pretrained_files import folder_of_pictures
from tests.test_codec_train import assert_same_end, differing, stop_at
from tests.test_token_writer import assert_equal_datasets

Weights = dict[str, Tensor]


def weights(*, ch: int = 8, blocks: int = 2, inner: int = 6, dim: int = 5, codes: int = 50, seed: int = 0) -> Weights:
    """Random weights in the port's layout; codes and pictures vary."""
    generator, found = torch.Generator().manual_seed(seed), {}

    def conv(name: str, inside: int, outside: int, side: int, *, transposed: bool = False) -> None:
        channels = (inside, outside) if transposed else (outside, inside)
        std = 1.5 * (inside * side**2 / (4 if transposed else 1)) ** -0.5
        found[f"{name}.weight"] = std * torch.randn(*channels, side, side, generator=generator)
        found[f"{name}.bias"] = 0.1 * torch.randn(outside, generator=generator)

    def residual(name: str, first: int) -> int:
        for number in range(first, first + blocks):
            conv(f"{name}.blocks.{number}.conv.1", ch, inner, 3)
            conv(f"{name}.blocks.{number}.conv.3", inner, ch, 1)
        return first + blocks

    conv("enc_b.blocks.0", 3, ch // 2, 4)
    conv("enc_b.blocks.2", ch // 2, ch, 4)
    conv("enc_b.blocks.4", ch, ch, 3)
    residual("enc_b", 5)
    conv("enc_t.blocks.0", ch, ch // 2, 4)
    conv("enc_t.blocks.2", ch // 2, ch, 3)
    residual("enc_t", 3)
    conv("quantize_conv_t", ch, dim, 1)
    conv("dec_t.blocks.0", dim, ch, 3)
    conv(f"dec_t.blocks.{residual('dec_t', 1) + 1}", ch, dim, 4, transposed=True)
    conv("quantize_conv_b", dim + ch, dim, 1)
    conv("upsample_t", dim, dim, 4, transposed=True)
    conv("dec.blocks.0", 2 * dim, ch, 3)
    end = residual("dec", 1)
    conv(f"dec.blocks.{end + 1}", ch, ch // 2, 4, transposed=True)
    conv(f"dec.blocks.{end + 3}", ch // 2, 3, 4, transposed=True)
    for level in "tb":
        found[f"quantize_{level}.embed"] = torch.randn(dim, codes, generator=generator)
        found[f"quantize_{level}.embed_avg"] = found[f"quantize_{level}.embed"].clone()
        found[f"quantize_{level}.cluster_size"] = torch.ones(codes)
    return found


class Published(NamedTuple):
    """What the port computes: codes, the pictures, and the latent loss of both levels."""

    top: Tensor
    bottom: Tensor
    x_rec: Tensor
    latent_loss: Tensor


def published(of: Weights, x: Tensor) -> Published:
    """The port, written from its description: gradients pass straight through both quantizers."""
    blocks = sum(name.startswith("enc_b.") and name.endswith("conv.1.weight") for name in of)

    def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
        kernel = of[f"{name}.weight"]
        return F.conv2d(h, kernel, of[f"{name}.bias"], stride=stride, padding=(kernel.shape[2] - 1) // 2)

    def grow(name: str, h: Tensor) -> Tensor:
        return F.conv_transpose2d(h, of[f"{name}.weight"], of[f"{name}.bias"], stride=2, padding=1)

    def residual(name: str, first: int, h: Tensor) -> Tensor:
        for number in range(first, first + blocks):
            inner = conv(f"{name}.blocks.{number}.conv.1", h.relu()).relu()
            h = h + conv(f"{name}.blocks.{number}.conv.3", inner)
        return h.relu()

    def quantize(level: str, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        entries, vectors = of[f"quantize_{level}.embed"].t(), z.permute(0, 2, 3, 1)
        chosen = (vectors[..., None, :] - entries).square().sum(-1).argmin(-1)
        z_q = entries[chosen].permute(0, 3, 1, 2)
        return chosen, z + (z_q - z).detach(), (z_q.detach() - z).square().mean()

    h = conv("enc_b.blocks.2", conv("enc_b.blocks.0", x, 2).relu(), 2).relu()
    eb = residual("enc_b", 5, conv("enc_b.blocks.4", h))
    et = residual("enc_t", 3, conv("enc_t.blocks.2", conv("enc_t.blocks.0", eb, 2).relu()))
    top, z_t, loss_t = quantize("t", conv("quantize_conv_t", et))
    dt = grow(f"dec_t.blocks.{blocks + 2}", residual("dec_t", 1, conv("dec_t.blocks.0", z_t)))
    bottom, z_b, loss_b = quantize("b", conv("quantize_conv_b", torch.cat([dt, eb], 1)))
    h = residual("dec", 1, conv("dec.blocks.0", torch.cat([grow("upsample_t", z_t), z_b], 1)))
    x_rec = grow(f"dec.blocks.{blocks + 4}", grow(f"dec.blocks.{blocks + 2}", h).relu())
    return Published(top, bottom, x_rec, loss_t + loss_b)


def pictures(count: int, height: int, width: int) -> Tensor:
    """Large patches of colour, uint8."""
    generator = torch.Generator().manual_seed(1)
    small = torch.randint(0, 256, (count, 3, height // 8, width // 8), generator=generator)
    return small.repeat_interleave(8, 2).repeat_interleave(8, 3).byte()


def imported(of: Weights, path: Path) -> VQGAN:
    """The codec that `taming import` makes of these weights, at `path`."""
    torch.save(of, path.with_suffix(".pt"))
    assert main(["import", str(path.with_suffix(".pt")), "-o", str(path)]) == 0
    return VQGAN.load(path)


@pytest.mark.parametrize(("codes", "blocks"), [(50, 2), (600, 1)])
def test_an_imported_one_gives_the_codes_and_pictures_of_the_port(codes: int, blocks: int, tmp_path: Path) -> None:
    of = weights(codes=codes, blocks=blocks)
    codec = imported(of, tmp_path / "it.safetensors")
    x = pictures(2, 48, 80) / 127.5 - 1
    expected, found = published(of, x), codec.encode(x)
    levels = split_levels(found, codes)
    assert torch.equal(levels.top, expected.top)
    assert torch.equal(levels.bottom, expected.bottom)
    assert len(levels.top.unique()) > 6
    assert len(levels.bottom.unique()) > 6
    torch.testing.assert_close(codec.decode(found), expected.x_rec, atol=1e-5, rtol=1e-5)
    assert (codec.config.levels, codec.config.downsample_factor, codec.config.n_res_channel) == (2, 4, 6)


def test_levels_are_joined_and_split() -> None:
    generator = torch.Generator().manual_seed(0)
    bottom = torch.randint(7, (2, 3, 4, 6), generator=generator)
    top = torch.randint(7, (2, 3, 2, 3), generator=generator)
    joint = join_levels(CodeLevels(bottom, top), 7)
    assert int(joint[1, 2, 3, 5]) == int(top[1, 2, 1, 2]) * 7 + int(bottom[1, 2, 3, 5])
    assert all(map(torch.equal, split_levels(joint, 7), (bottom, top)))


def test_losses_and_gradients_are_those_of_the_port(tmp_path: Path) -> None:
    """Squared error + 0.25 latent loss; the codebooks learn by averages alone."""
    of = weights()
    codec = imported(of, tmp_path / "it.safetensors")
    train = CodecTrainConfig(perceptual="none", disc_weight=0.0, l1_weight=0.0, l2_weight=1.0)
    state = start(codec, DiscriminatorConfig(), train, torch.device("cpu"), torch.float32)
    trained = [parameter for parameter in state.codec.parameters() if parameter.requires_grad]
    x = pictures(2, 48, 80) / 127.5 - 1
    now = Phase(discriminator=False, adversarial=0.0)
    terms = backward(state, x, PartTask(trained, train, now, False, None, share=1.0, first=0)).terms
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in of.items()}
    expected = published(theirs, x)
    loss = F.mse_loss(expected.x_rec, x) + 0.25 * expected.latent_loss
    loss.backward()
    torch.testing.assert_close(terms["reconstruction"] + terms["codebook"], loss.detach())
    for ours, published_name in (
        ("encoder.blocks.0.weight", "enc_b.blocks.0.weight"),
        ("quantize.encoder.blocks.2.bias", "enc_t.blocks.2.bias"),
        ("quantize.conv_top.weight", "quantize_conv_t.weight"),
        ("quantize.decoder.blocks.0.weight", "dec_t.blocks.0.weight"),
        ("quantize.conv_bottom.weight", "quantize_conv_b.weight"),
        ("decoder.upsample.weight", "upsample_t.weight"),
        ("decoder.blocks.6.weight", "dec.blocks.6.weight"),
    ):
        found, gradient = state.codec.get_parameter(ours).grad, theirs[published_name].grad
        assert found is not None
        assert gradient is not None
        assert (found - gradient).norm() < 1e-4 * gradient.norm(), ours
    assert len(trained) == len(list(state.codec.parameters())) - 2


def test_both_codebooks_are_placed_and_learn_by_averages() -> None:
    torch.manual_seed(0)
    config = CodecConfig(network="vq-vae-2", ch=8, n_res_channel=4, codebook_size=16, codebook_dim=4)
    train = CodecTrainConfig(perceptual="none", disc_weight=0.0, codebook_decay=0.5, revive=0.1)
    state = start(VQGAN(config), DiscriminatorConfig(), train, torch.device("cpu"), torch.float32)
    x, now = pictures(4, 32, 32) / 127.5 - 1, Phase(discriminator=False, adversarial=0.0)
    for step in range(3):
        quantized = state.codec.by_level(state.codec.quantized(x))
        before = [quantizer.embedding.weight.clone() for quantizer in state.codec.quantizers]
        report = codec_step(state, x, perceptual=None, config=train, now=now, learning_rate=1e-3)
        assert report.counts.sum(1).tolist() == [4 * 8 * 8, 4 * 4 * 4]
        for level, (one, entries, quantizer) in enumerate(zip(quantized, before, state.codec.quantizers, strict=True)):
            vectors = one.z_e.permute(0, 2, 3, 1).flatten(0, 2)
            if step == 0:  # each entry is at a vector of the batch
                assert torch.cdist(quantizer.embedding.weight, vectors).min(1).values.max() < 1e-3
            assert not torch.equal(entries, quantizer.embedding.weight), level


@pytest.mark.parametrize("blocks", [1, 2])
def test_parts_of_a_picture_are_those_of_the_whole(blocks: int, tmp_path: Path) -> None:
    codec = imported(weights(blocks=blocks, ch=12), tmp_path / "it.safetensors")
    picture = torch.randint(0, 256, (1, 3, 200, 136), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    budget, size = 2**18, (200 // 4, 136 // 4)
    whole = codec.encode(picture / 127.5 - 1)
    boxes = list(divided(stages(codec), size, budget))
    assert len(boxes) > 4
    assert all(side % 2 == 0 for box in boxes for side in box)
    parts = list(encoding.passes(encoding.stages(codec, lambda x: x), size, budget))
    assert len(parts[-1].tiles) > 4
    assert torch.equal(tiles.encode(codec, picture, budget=budget), whole)
    part = tiles.decode(codec, whole, finish=lambda x: x, budget=budget)
    torch.testing.assert_close(part, codec.decode(whole), atol=1e-5, rtol=0)
    assert tiles.exact(codec, *size, budget)


def test_token_files_keep_both_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = imported(weights(), tmp_path / "it.safetensors")
    folder_of_pictures(tmp_path / "pictures", 5, seed=1, size=(40, 24))
    line = ["tokenize", "pictures", "--ckpt", "it.safetensors", "--size", "40x24", "--views", "2"]
    assert main([*line, "--dry-run"]) == 0
    assert "would become 10x6 codes of 50 each, and 5x3 above them" in capsys.readouterr().out
    assert main([*line, "-o", "all.h5"]) == 0
    for part in ("1/2", "2/2"):
        assert main([*line, "--shard", part, "-o", "part.h5"]) == 0
    assert main(["tokens", "merge", "part.2-of-2.h5", "part.1-of-2.h5", "-o", "merged.h5"]) == 0
    assert_equal_datasets(tmp_path / "all.h5", tmp_path / "merged.h5")
    summary = verify("all.h5")
    with TokenFile("all.h5") as file:
        bottom, top = file.codes(slice(None)), file.top(slice(None))
        assert (file.header.codebook_size, file.header.top_codebook_size) == (50, 50)
        assert np.array_equal(file.top([3, 1]), top[[3, 1]])
    assert (bottom.shape, top.shape) == ((5, 2, 6, 10), (5, 2, 3, 5))
    assert (summary.codes_used, summary.top_codes_used) == (len(np.unique(bottom)), len(np.unique(top)))
    with Image.open("pictures/000.png") as picture:
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    levels = split_levels(codec.encode(x), 50)
    assert np.array_equal(levels.bottom.numpy(), bottom[:1, 0])
    assert np.array_equal(levels.top.numpy(), top[:1, 0])

    capsys.readouterr()
    assert main(["info", "all.h5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top_codebook_size"] == 50
    assert main(["eval", "codebook", "it.safetensors", "all.h5", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["top_codes_used"] == len(np.unique(top)) / 50
    assert measured["codes_used"] == len(np.unique(bottom)) / 50
    assert (measured["codes_counted"], measured["top_codes_counted"]) == (bottom.size, top.size)
    decoded = open_image_set(Path("all.h5"), device=torch.device("cpu"))
    assert isinstance(decoded, TokenImages)
    ((numbers, found),) = decoded.chunks(slice(None), 8)
    expected = to_uint8(codec.decode(join_levels(CodeLevels(*map(torch.from_numpy, (bottom[:, 0], top[:, 0]))), 50)))
    assert numbers == list(range(5))
    assert (found.int() - expected.int()).abs().max() <= 1
    assert main(["train-prior", "all.h5", "--steps", "1"]) == 2
    assert "two levels of codes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.pop("levels/top"), "it has no dataset /levels/top"),
        (lambda file: file["levels/top"].attrs.pop("codebook_size"), "codebook_size"),
        (lambda file: file["levels/top"].attrs.modify("codebook_size", 3), "/levels/top holds"),
        (lambda file: file["levels/top"].resize(1, axis=0), "damaged: /levels/top is uint16 of shape (1, 1, 4, 4)"),
        (lambda file: file.pop("levels"), "has one level of codes; two are needed here"),
    ],
)
def test_a_damaged_top_level_is_one_line(
    damage: Callable[[Any], Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    imported(weights(), tmp_path / "it.safetensors")
    folder_of_pictures(tmp_path / "pictures", 2, seed=1, size=(32, 32))
    assert main(["tokenize", "pictures", "--ckpt", "it.safetensors", "--size", "32x32", "-o", "t.h5"]) == 0
    with h5py.File("t.h5", "r+") as file:
        damage(file)
    capsys.readouterr()
    assert main(["decode", "t.h5", "out"]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_header_of_one_level_is_identified_as_before() -> None:
    values: dict[str, Any] = {"codec_sha256": "", "codec_path": "", "preprocess": {}, "created_by": "", "views": 1}
    one = TokenHeader(**values, codebook_size=8, downsample_factor=4, height=3, width=4)
    assert "top_codebook_size" not in identity(one)
    with pytest.raises(BadFileError, match="its sides must be even"):
        TokenHeader(**values, codebook_size=8, downsample_factor=4, height=3, width=4, top_codebook_size=8)


def test_pictures_of_any_size_are_extended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = imported(weights(), tmp_path / "it.safetensors")
    folder_of_pictures(tmp_path / "pictures", 1, seed=1, size=(44, 29))
    assert main(["reconstruct", "pictures", "out", "--ckpt", "it.safetensors"]) == 0
    with Image.open("pictures/000.png") as picture, Image.open("out/000.png") as rebuilt:
        assert rebuilt.size == (44, 29)
        extended = np.pad(np.array(picture), ((0, 3), (0, 4), (0, 0)), mode="edge")
        x = torch.from_numpy(extended).permute(2, 0, 1)[None] / 127.5 - 1
        expected = ((codec.decode(codec.encode(x))[0, :, :29, :44] + 1) * 127.5).round().clamp(0, 255)
        assert np.abs(np.array(rebuilt, dtype=float) - expected.permute(1, 2, 0).numpy()).max() <= 1
    capsys.readouterr()
    measure = ["eval", "recon", "it.safetensors", "pictures", "--size", "40x24", "--perceptual", "none"]
    assert main([*measure, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["bits_per_pixel"] == pytest.approx(math.log2(50) * (1 / 16 + 1 / 64))
    assert main(["tokenize", "pictures", "--ckpt", "it.safetensors", "--size", "44x24", "-o", "t.h5"]) == 2
    assert "2 f = 8, for its two levels; the nearest multiple is" in capsys.readouterr().err


def without(name: str) -> Callable[[Weights], Any]:
    return lambda of: of.pop(name)


def replaced(name: str, *shape: int) -> Callable[[Weights], None]:
    return lambda of: of.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("upsample_t.weight"), "lacks upsample_t.weight"),
        (without("quantize_b.embed"), "it has no quantize_b.embed"),
        (without("quantize_t.embed"), "lacks quantize_t.embed"),
        (without("enc_t.blocks.0.bias"), "lacks enc_t.blocks.0.bias"),
        (without("enc_b.blocks.5.conv.3.bias"), "lacks enc_b.blocks.5.conv.3.bias"),
        (without("enc_b.blocks.5.conv.1.weight"), "it has no enc_b.blocks.5.conv.1.weight"),
        (without("enc_b.blocks.6.conv.1.weight"), "lacks enc_b.blocks.6.conv.1.weight"),
        (without("dec.blocks.2.conv.1.weight"), "lacks dec.blocks.2.conv.1.weight"),
        (without("dec.blocks.6.weight"), "it has no dec.blocks.6.weight"),
        (replaced("enc_b.blocks.9.conv.1.weight", 6, 8, 3, 3), "has enc_b.blocks.9.conv.1.weight, which"),
        (replaced("quantize_t.embed", 5, 49), "quantize_t.embed of shape (5, 49) instead of (5, 50)"),
        (replaced("dec_t.blocks.0.weight", 8, 4, 3, 3), "dec_t.blocks.0.weight of shape (8, 4, 3, 3)"),
        (replaced("enc_b.blocks.0.weight", 3), "enc_b.blocks.0.weight"),
        (replaced("enc_t.blocks.5.conv.1.weight", 6, 8, 3, 3), "enc_t.blocks.5.conv.1.weight, which"),
        (replaced("more.weight", 3), "has more.weight, which its architecture does not have"),
        (lambda of: [of.pop(name) for name in list(of) if ".conv." in name], "no enc_b.blocks.5.conv.1.weight"),
    ],
)
def test_another_layout_is_one_line(
    change: Callable[[Weights], Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = weights()
    change(of)
    save_file(of, tmp_path / "of.safetensors")
    out = tmp_path / "it.safetensors"
    assert main(["import", str(tmp_path / "of.safetensors"), "-o", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


def test_what_it_is_not_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    imported(weights(), tmp_path / "it.safetensors")
    (tmp_path / "other").mkdir()
    imported(weights(seed=1), tmp_path / "other" / "it.safetensors")
    folder_of_pictures(tmp_path / "pictures", 2, seed=1, size=(32, 32))
    assert main(["tokenize", "pictures", "--ckpt", "it.safetensors", "--size", "32x32", "-o", "t.h5"]) == 0
    capsys.readouterr()
    for line, message in (
        (["decode", "t.h5", "out", "--codec", "other/it.safetensors"], "not the codec that t.h5 was made with"),
        (["tokenize", "pictures", "--ckpt", "it.safetensors", "--cond", "image", "-o", "c.h5"], "one level of codes"),
        (["export", "it.safetensors", "-o", "out", "--to", "compvis"], "no dVAE, VQ-VAE-2 or palette"),
        (["export", "it.safetensors", "-o", "out", "--to", "diffusers"], "one level of codes"),
        (["train-vqgan", "pictures", "--preset", "vq-vae-2", "--kind", "edges"], "which is for pictures"),
        (["train-vqgan", "pictures", "--preset", "vq-vae-2", "--ch", "9"], "it must be even"),
        (["train-vqgan", "pictures", "--preset", "vq-vae-2", "--normalize"], "whose codes are the nearest entries"),
        (["train-vqgan", "pictures", "--preset", "vq-vae-2", "--size", "36x32"], "2 f = 8"),
    ):
        assert main(line) == 2, line
        assert message in capsys.readouterr().err, line


SMALL = {"ch": 16, "n_res_channel": 8, "codebook_size": 32, "codebook_dim": 8, "size": "32x32", "batch_size": 4}
BRIEF = {"minutes": 0, "precision": "fp32", "learning_rate": 3e-3, "warmup": 5, "ema": 0.9, "steps": 100}


def test_a_training_learns_and_its_codec_serves_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 1)
    folder_of_pictures(tmp_path / "pictures", 8, seed=1, size=(64, 48))
    line = ["train-vqgan", "pictures", "--preset", "vq-vae-2"]
    flags = [text for name, value in (SMALL | BRIEF).items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main([*line, *flags, "--out", "run"]) == 0
    lines = [json.loads(text) for text in Path("run/metrics.jsonl").read_text().splitlines()]
    trained = [each for each in lines if each["kind"] == "train"]
    assert trained[-1]["l2"] < 0.7 * trained[0]["l2"]
    assert all(0 < each["top_codes_used"] <= 1 for each in lines if each["kind"] in ("train", "validation"))
    best = "run/checkpoints/best.safetensors"
    more = ["--size", "32x32", "--batch-size", "4", "--steps", "1", "--minutes", "0", "--init", best]
    assert main([*line, *more, "--out", "more"]) == 0
    assert main([*line, *more, "--train", "decoder", "--out", "decoder"]) == 0
    before, after = (VQGAN.load(path) for path in (best, "decoder/checkpoints/last.safetensors"))
    assert before.sha256() == after.sha256()
    assert differing(before.decoder.state_dict(), after.decoder.state_dict())
    assert main(["tokenize", "pictures", "--ckpt", best, "-o", "t.h5"]) == 0
    assert main(["decode", "t.h5", "decoded"]) == 0
    with Image.open("decoded/000.png") as picture:
        assert picture.size == (32, 32)


def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "pictures", 8, seed=1, size=(64, 48))
    layers = [
        Layer("preset", preset("vq-vae-2").codec),
        Layer("test", {**SMALL, **BRIEF, "size": Size(32, 32), "steps": 12}),
    ]
    codec, discriminator, train = resolve((CodecConfig, DiscriminatorConfig, CodecTrainConfig), layers).configs

    def run(name: str, **options: Any) -> TrainedCodec:
        place = Place(name=name, root=tmp_path / "runs")
        configs = {"codec": codec, "discriminator": discriminator, "train": train}
        return fit([tmp_path / "pictures"], **configs, place=place, **options)

    whole = run("whole")
    for step in (3, 8):
        with pytest.raises(Interrupted):
            run("parts", on_step=stop_at(step))
    assert_same_end(whole, run("parts"))


def test_the_golden_one_through_the_commands(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    golden = shared / "golden"
    assert main(["import", str(golden / "vqvae2.pt"), "-o", "it.safetensors"]) == 0
    assert main(["import", str(golden / "vqvae2.safetensors"), "-o", "same.safetensors"]) == 0
    one, other = (load_file(name) for name in ("it.safetensors", "same.safetensors"))
    assert differing(one, other) == []
    images, codec = str(golden / "vqvae2_images"), "it.safetensors"
    assert main(["tokenize", images, "--ckpt", codec, "--size", "64x64", "-o", "t.h5"]) == 0
    io: dict[str, Any] = dict(np.load(golden / "vqvae2_io.npz"))
    with TokenFile(Path("t.h5")) as file:
        assert np.array_equal(file.codes(slice(None))[:, 0], io["bottom"])
        assert np.array_equal(file.top(slice(None))[:, 0], io["top"])
    assert main(["decode", "t.h5", "decoded"]) == 0
    assert main(["reconstruct", images, "rebuilt", "--ckpt", codec]) == 0
    expected = np.round((io["x_rec"].clip(-1, 1) + 1) * 127.5).astype(int).transpose(0, 2, 3, 1)
    for folder in ("decoded", "rebuilt"):
        found = np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder).rglob("*.png"))])
        assert np.abs(found.astype(int) - expected).max() <= 1
    loaded = VQGAN.load(codec)
    assert loaded.config.latent(Size(64, 64)) == Size(16, 16)
    levels = loaded.by_level(loaded.quantized(torch.from_numpy(io["x"])))
    latent_loss = sum(losses.codebook_loss(each.z_e, each.z_q, 1.0, learned=False).item() for each in levels)
    assert latent_loss == pytest.approx(io["latent_loss"].item(), abs=1e-5)
