"""DALL-E's discrete VAE: against the published modules, an independent implementation, and itself in tiles."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Categorical, Laplace, SigmoidTransform, TransformedDistribution, kl_divergence

from taming_cli.cli.app import main
from taming_cli.codec import losses
from taming_cli.codec.quantizers.gumbel import GumbelQuantizer
from taming_cli.codec.step import phase
from taming_cli.codec.tiling import tiles
from taming_cli.codec.tiling.boxes import divided
from taming_cli.codec.tiling.decoding import stages
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.ramp import Ramp
from taming_cli.data.tokens.file import TokenFile
from tests.pretrained_files import folder_of_pictures

Weights = dict[str, Tensor]


def weights(*, n_hid: int = 8, blocks: int = 2, codes: int = 50, first: int = 12, seed: int = 0) -> Weights:
    """Random weights in the published layout; logits and pictures vary."""
    generator, found = torch.Generator().manual_seed(seed), {}

    def conv(name: str, inside: int, outside: int, side: int) -> None:
        std = 2 * (inside * side**2) ** -0.5
        found[f"{name}.w"] = std * torch.randn(outside, inside, side, side, generator=generator)
        found[f"{name}.b"] = 0.1 * torch.randn(outside, generator=generator)

    for part, sides, widths in (
        ("encoder", (3, 3, 3, 1), (n_hid, n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid)),
        ("decoder", (1, 3, 3, 3), (first, 8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid)),
    ):
        for group in range(1, 5):
            inside, outside = widths[group - 1], widths[group]
            for block in range(1, blocks + 1):
                name = f"{part}.blocks.group_{group}.block_{block}"
                if inside != outside:
                    conv(f"{name}.id_path", inside, outside, 1)
                inner = [inside, *3 * [outside // 4], outside]
                for number, side in enumerate(sides, 1):
                    conv(f"{name}.res_path.conv_{number}", inner[number - 1], inner[number], side)
                inside = outside
    conv("encoder.blocks.input", 3, n_hid, 7)
    conv("encoder.blocks.output.conv", 8 * n_hid, codes, 1)
    conv("decoder.blocks.input", codes, first, 1)
    conv("decoder.blocks.output.conv", n_hid, 6, 1)
    return found


def convolved(of: Weights, name: str, x: Tensor) -> Tensor:
    kernel = of[f"{name}.w"]
    return F.conv2d(x, kernel, of[f"{name}.b"], padding=kernel.shape[2] // 2)


def published(of: Weights, part: str, x: Tensor) -> Tensor:
    """The published encoder or decoder, written from its description: logits, or statistics."""
    blocks = sum(name.startswith(f"{part}.blocks.group_1.") and name.endswith("conv_1.w") for name in of)
    h = convolved(of, f"{part}.blocks.input", x)
    for group in range(1, 5):
        for block in range(1, blocks + 1):
            name, y = f"{part}.blocks.group_{group}.block_{block}", h
            for number in range(1, 5):
                y = convolved(of, f"{name}.res_path.conv_{number}", y.relu())
            short = convolved(of, f"{name}.id_path", h) if f"{name}.id_path.w" in of else h
            h = short + y / (4 * blocks) ** 2
        if group < 4:
            h = F.max_pool2d(h, 2) if part == "encoder" else h.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return convolved(of, f"{part}.blocks.output.conv", h.relu())


class Node(nn.Module):
    """A module that holds weights by their names, pickled as a whole."""

    def __init__(self, of: Weights) -> None:
        super().__init__()
        for name, tensor in of.items():
            head, _, rest = name.partition(".")
            if not rest:
                self.register_parameter(head, nn.Parameter(tensor))
            elif head not in self._modules:
                inside = {other[len(head) + 1 :]: t for other, t in of.items() if other.startswith(f"{head}.")}
                self.add_module(head, Node(inside))


def pickled(of: Weights, part: str, path: Path) -> str:
    """The encoder or decoder as a pickled module."""
    torch.save(Node({name.removeprefix(f"{part}."): t for name, t in of.items() if name.startswith(part)}), path)
    return str(path)


@pytest.fixture
def of() -> Weights:
    return weights()


@pytest.fixture
def files(of: Weights, tmp_path: Path) -> list[str]:
    return [pickled(of, part, tmp_path / f"{part}.pkl") for part in ("encoder", "decoder")]


@pytest.mark.parametrize("turned", [False, True])
def test_an_imported_one_gives_the_codes_and_pictures_of_the_published_modules(
    of: Weights, files: list[str], turned: bool, tmp_path: Path
) -> None:
    assert main(["import", *(files[::-1] if turned else files), "-o", str(tmp_path / "it.safetensors")]) == 0
    codec = VQGAN.load(tmp_path / "it.safetensors")
    x = F.interpolate(torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(1)), scale_factor=8.0)
    codes = codec.encode(2 * x - 1)
    assert torch.equal(codes, published(of, "encoder", 0.8 * x + 0.1).argmax(1))
    assert len(codes.unique()) > 6
    onehot = F.one_hot(codes, 50).permute(0, 3, 1, 2).float()
    expected = ((published(of, "decoder", onehot)[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1)
    torch.testing.assert_close((codec.decode(codes) + 1) / 2, expected, atol=2e-6, rtol=0)
    assert 0.02 < expected.std() < 0.4


def test_weights_in_one_file_are_imported_too(of: Weights, files: list[str], tmp_path: Path) -> None:
    save_file(of, tmp_path / "both.safetensors")
    for given, out in ((files, "one"), ([str(tmp_path / "both.safetensors")], "two")):
        assert main(["import", *given, "-o", str(tmp_path / f"{out}.safetensors")]) == 0
    one, two = (VQGAN.load(tmp_path / f"{out}.safetensors") for out in ("one", "two"))
    assert one.sha256() == two.sha256()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name


@pytest.mark.parametrize("blocks", [1, 2])
def test_parts_of_a_picture_are_those_of_the_whole(blocks: int, tmp_path: Path) -> None:
    save_file(weights(blocks=blocks), tmp_path / "both.safetensors")
    assert main(["import", str(tmp_path / "both.safetensors"), "-o", str(tmp_path / "it.safetensors")]) == 0
    codec = VQGAN.load(tmp_path / "it.safetensors")
    picture = torch.randint(0, 256, (1, 3, 72, 104), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    budget = 2**18
    whole, (width, height) = codec.encode(picture / 127.5 - 1), (104 // 8, 72 // 8)
    assert len(list(divided(stages(codec), (height, width), budget))) > 4
    assert torch.equal(tiles.encode(codec, picture, budget=budget), whole)
    part = tiles.decode(codec, whole, finish=lambda x: x, budget=budget)
    torch.testing.assert_close(part, codec.decode(whole), atol=1e-5, rtol=0)
    assert tiles.exact(codec, height, width, budget)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["encoder.pkl"], "lacks the decoder of the dVAE; give both files: taming import ENCODER DECODER"),
        (["decoder.pkl"], "lacks the encoder of the dVAE"),
        (["encoder.pkl", "encoder.pkl"], "both have encoder.blocks."),
        (["other.pkl"], "is not a supported model"),
        (["encoder.pkl", "other.pkl"], "lacks the decoder of the dVAE"),
        (["encoder.pkl", "wide.pkl"], "of shape"),
        (["encoder.pkl", "bias.pkl"], "has decoder.blocks.input of shapes (12, 50, 1, 1) and (11,)"),
        (["encoder.pkl", "twice.pkl"], "has decoder.blocks.group_01.block_1.id_path.w, which a dVAE does not have"),
        (["itself.pkl"], "more modules inside one another than any network"),
        (["nothing.pkl"], "holds no weights"),
    ],
)
@pytest.mark.usefixtures("files")
def test_what_is_not_a_dvae_is_one_line(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    itself = nn.Sequential(nn.Linear(2, 2))
    itself._modules["0"] = itself
    torch.save(itself, tmp_path / "itself.pkl")
    torch.save(nn.Linear(2, 3), tmp_path / "other.pkl")
    torch.save(nn.ReLU(), tmp_path / "nothing.pkl")
    pickled(weights(n_hid=16), "decoder", tmp_path / "wide.pkl")
    pickled(weights() | {"decoder.blocks.input.b": torch.zeros(11)}, "decoder", tmp_path / "bias.pkl")
    named_twice = {"decoder.blocks.group_01.block_1.id_path.w": torch.zeros(64, 12, 1, 1)}
    pickled(weights() | named_twice, "decoder", tmp_path / "twice.pkl")
    out = tmp_path / "it.safetensors"
    assert main(["import", *(str(tmp_path / name) for name in given), "-o", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not out.exists()


@pytest.mark.usefixtures("files")
def test_it_is_not_exported_and_has_no_other_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", "encoder.pkl", "decoder.pkl", "-o", "it.safetensors"]) == 0
    for to in ("compvis", "diffusers"):
        assert main(["export", "it.safetensors", "-o", "out", "--to", to]) == 2
    Image.new("RGB", (64, 64)).save("a.png")
    Image.new("RGB", (64, 64), "red").save("b.png")
    assert main(["train-vqgan", "a.png", "b.png", "--init", "it.safetensors", "--minutes", "0.01"]) == 2
    assert main(["train-vqgan", "a.png", "b.png", "--network", "dvae", "--minutes", "0.01"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("taming: ")]
    assert "the authors' code has no dVAE" in lines[0]
    assert "largest of K logits" in lines[1]
    assert "neither a perceptual loss nor a discriminator" in lines[2]
    assert "codebook is 'nearest'; with network 'dvae', use 'gumbel'" in lines[3]


def test_the_losses_are_those_of_the_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 2 - 1
    location, log_scale = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    logit_laplace = TransformedDistribution(Laplace(location, log_scale.exp()), SigmoidTransform())
    expected = -logit_laplace.log_prob(0.4 * x + 0.5).mean()
    found = losses.logit_laplace_nll(x, torch.cat((location, log_scale), 1))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    logits = torch.randn(2, 7, 3, 3, generator=generator)
    chosen = Categorical(logits=logits.permute(0, 2, 3, 1))
    expected = kl_divergence(chosen, Categorical(logits=torch.zeros(7))).mean()
    torch.testing.assert_close(losses.kl_to_uniform(logits), expected)


def test_temperature_and_kl_term_follow_half_a_cosine() -> None:
    train = CodecTrainConfig(relaxation=Ramp(1.0, 0.25), relaxation_ramp=0.5, kl_ramp=0.2)
    now = [phase(train, spent) for spent in (0.0, 0.1, 0.25, 0.5, 1.0)]
    assert [each.temperature for each in now] == pytest.approx([1.0, 0.92838, 0.625, 0.25, 0.25], abs=1e-5)
    assert [each.kl for each in now] == pytest.approx([0, 0.5, 1, 1, 1])
    at_once = phase(replace(train, relaxation=0.5, kl_ramp=0.0), 0.0)
    assert (at_once.temperature, at_once.kl) == (0.5, 1)


def test_codes_in_training_are_samples_of_the_logits() -> None:
    quantizer = GumbelQuantizer(3, 2, 1).train()
    with torch.no_grad():
        quantizer.proj.weight.zero_()
        quantizer.proj.bias.copy_(torch.tensor([0.2, 0.3, 0.5]).log())
    for temperature in (1.0, 0.1):
        quantizer.temperature = temperature
        torch.manual_seed(0)
        drawn = quantizer(torch.zeros(1, 1, 100, 100))
        shares = drawn.codes.flatten().bincount() / 10_000
        torch.testing.assert_close(shares, torch.tensor([0.2, 0.3, 0.5]), atol=0.015, rtol=0)  # three deviations
        torch.testing.assert_close(drawn.z_q, quantizer.lookup(drawn.codes))
    quantizer.relaxed = True
    torch.manual_seed(0)
    soft = F.gumbel_softmax(quantizer.proj(torch.zeros(1, 1, 100, 100)), tau=0.1, dim=1)
    torch.manual_seed(0)
    mixed = quantizer(torch.zeros(1, 1, 100, 100)).z_q
    torch.testing.assert_close(mixed, torch.einsum("bkhw,kd->bdhw", soft, quantizer.codebook))


def cells_along_one_direction() -> Tensor:
    """The output of a new encoder: nearly all variation is along one direction. (144 cells, 5)"""
    torch.manual_seed(0)
    return torch.randn(144, 1) * torch.randn(5) + 0.1 * torch.randn(144, 5) + 3


@pytest.mark.parametrize("codes", [20, 144, 400])
def test_a_new_quantizer_begins_on_vectors_of_a_batch(codes: int) -> None:
    vectors = cells_along_one_direction()
    z = vectors.view(4, 6, 6, 5).permute(0, 3, 1, 2)
    quantizer = GumbelQuantizer(codes, 2, 5, relaxed=True).eval().requires_grad_(False)
    assert len(quantizer(z).codes.unique()) < 8
    quantizer.begin_with(z, torch.Generator().manual_seed(1))
    assert float(quantizer.proj(z).std((0, 2, 3)).mean()) == pytest.approx(8, rel=1e-4)
    used = len(quantizer(z).codes.unique())
    assert used == codes if codes <= 144 else used > 100
    assert float(quantizer.codebook.mean()) == pytest.approx(0, abs=1e-5)
    assert float(quantizer.codebook.std()) == pytest.approx(1, abs=1e-4)


def test_the_first_logits_are_distances_from_the_chosen_vectors() -> None:
    vectors = cells_along_one_direction()
    z = vectors.T.reshape(1, 5, 12, 12)
    quantizer = GumbelQuantizer(144, 2, 5, relaxed=True).eval().requires_grad_(False)
    quantizer.begin_with(z, torch.Generator().manual_seed(1))
    logits = quantizer.proj(z)[0].flatten(1).T.double()  # (144 cells, K)
    own = logits.argmax(1)  # each vector is a code's own
    squares = torch.cdist(vectors.double(), vectors.double()).square()
    found = torch.empty_like(squares)
    found[:, own] = -squares / 2
    scale = (logits[:, 0] - logits[:, 1]).std() / (found[:, 0] - found[:, 1]).std()
    torch.testing.assert_close(logits.log_softmax(1), (scale * found).log_softmax(1), rtol=1e-3, atol=1e-2)


def test_a_training_learns_and_its_codec_serves_the_other_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_pictures(tmp_path / "pictures", 8, seed=1, size=(64, 48))
    small = ("--ch", "8", "--codebook-size", "32", "--size", "32x32", "--batch-size", "4", "--precision", "fp32")
    steps = ("--steps", "60", "--minutes", "0", "--learning-rate", "3e-3", "--warmup", "5", "--ema", "0.9")
    assert main(["train-vqgan", "pictures", "--preset", "dvae", *small, *steps, "--out", "run"]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    nll = [line["nll"] for line in lines if line["kind"] == "train"]
    assert nll[-1] < nll[0] - 0.05
    assert all(line["kl"] >= 0 for line in lines if line["kind"] == "train")
    best = "run/checkpoints/best.safetensors"
    more = ("--preset", "dvae", "--size", "32x32", "--batch-size", "4", "--steps", "1", "--minutes", "0")
    assert main(["train-vqgan", "pictures", "--init", best, *more, "--out", "more"]) == 0
    assert main(["tokenize", "pictures", "--ckpt", best, "--size", "64x48", "-o", "t.h5"]) == 0
    tiny = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--steps", "2", "--minutes", "0")
    assert main(["train-prior", "t.h5", *tiny, "--out", "prior"]) == 0
    assert main(["sample", "--ckpt", "prior/checkpoints/best.safetensors", "-o", "s"]) == 0
    with Image.open("s/000000.png") as picture:
        assert picture.size == (64, 48)


def test_the_golden_one_through_the_commands(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    golden = shared / "golden"
    both = [str(golden / f"dvae_{part}.pkl") for part in ("encoder", "decoder")]
    assert main(["import", *both, "-o", "dvae.safetensors"]) == 0
    images = str(golden / "dvae_images")
    assert main(["tokenize", images, "--ckpt", "dvae.safetensors", "--size", "64x64", "-o", "t.h5"]) == 0
    io: dict[str, Any] = dict(np.load(golden / "dvae_io.npz"))
    with TokenFile(Path("t.h5")) as file:
        assert np.array_equal(file.codes(slice(None))[:, 0], io["indices"])
    assert main(["decode", "t.h5", "decoded"]) == 0
    expected = np.round(io["x_rec"] * 255).astype(int).transpose(0, 2, 3, 1)
    found = np.stack([np.asarray(Image.open(path)) for path in sorted(Path("decoded").rglob("*.png"))])
    assert np.abs(found.astype(int) - expected).max() <= 1
    codec, x = VQGAN.load("dvae.safetensors"), torch.from_numpy(io["x"])
    with torch.no_grad():
        logits = codec.quantize.proj(codec.encoder(2 * x - 1))
    assert losses.kl_to_uniform(logits).item() == pytest.approx(io["kl_to_uniform"].item(), abs=1e-5)
    found_nll = losses.logit_laplace_nll(2 * x - 1, torch.from_numpy(io["statistics"]))
    assert found_nll.item() == pytest.approx(io["logit_laplace_nll"].item(), abs=1e-5)
