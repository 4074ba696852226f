"""PixelSNAIL: against the published layout, an independent implementation, and itself cell by cell; and priors of two
levels of codes."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.levels import LevelFile
from taming_cli.errors import UsageError
from taming_cli.prior.batches import TokenSet
from taming_cli.prior.completion import complete
from taming_cli.prior.draw import draw
from taming_cli.prior.layout import KnownCells
from taming_cli.prior.likelihood import log_likelihood
from taming_cli.prior.model import prior_from
from taming_cli.prior.networks.pixelsnail import CellSteps, CodeConv, Conv, PixelSNAIL
from taming_cli.runtime.checkpoint import load_model, save_model
from tests.pretrained_files import folder_of_pictures
from tests.test_cli import taming

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not here")
CLASS = ConditionSpec(kind="class", vocabulary=3)
LABELS = ConditionSpec(kind="segmentation", vocabulary=5, form="grid")
TOP = ConditionSpec(kind="top", vocabulary=6, form="grid", scale=2)
SMALL = PriorConfig(
    arch="pixelsnail", n_layer=2, n_head=2, n_embd=8, window=Size(6, 4), codebook_size=7, res_blocks=1, kernel=3
)
GIVEN = {
    "class": torch.tensor([[1], [-1], [2]]),
    "segmentation": torch.arange(72).view(3, 4, 6) % 5,
    "top": torch.tensor([[3, 1, 0, 2, 5, 5]] * 3).view(3, 2, 3).repeat_interleave(2, 1).repeat_interleave(2, 2),
}
CONFIGS = {
    "alone": SMALL,
    "without attention": replace(SMALL, attention=False, kernel=5, res_blocks=2),
    "all conditions": replace(SMALL, conditions=(CLASS, LABELS, TOP), out_blocks=1, res_width=6, map_width=5),
    "one block": replace(SMALL, n_layer=1, n_head=4, kernel=7, map_blocks=0, map_kernel=1, conditions=(LABELS,)),
}


def network(config: PriorConfig) -> PixelSNAIL:
    """In float64, with random biases, so that nothing is zero by chance."""
    torch.manual_seed(0)
    made = PixelSNAIL(config).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 1:
                weight.normal_(std=0.3)
            elif weight.ndim == 4 and weight.shape[1:] == (1, 1, 1):
                weight.mul_(2)
    return made.requires_grad_(False)


def given_to(config: PriorConfig) -> dict[str, Tensor]:
    return {spec.kind: GIVEN[spec.kind] for spec in config.conditions}


def codes_for(config: PriorConfig, count: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, config.window.height, config.window.width)
    return torch.randint(config.codebook_size, shape, generator=generator)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_cell_by_cell_it_computes_what_it_computes_at_once(config: PriorConfig) -> None:
    net, codes, given = network(config), codes_for(config), given_to(config)
    at_once = net(codes, given)
    steps, found = CellSteps(net, len(codes), net.context(given, len(codes))), []
    for number in range(config.cells):
        row, column = divmod(number, config.window.width)
        found.append(net.step(steps))
        steps.codes[:, row, column] = codes[:, row, column]
    torch.testing.assert_close(torch.stack(found, 1), at_once, rtol=0, atol=1e-12)
    assert at_once.std() > 0.05


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_cell_depends_on_the_cells_before_it_alone(config: PriorConfig) -> None:
    net, codes, given = network(config), codes_for(config), given_to(config)
    before = net(codes, given)
    for number in range(config.cells):
        changed = codes.clone()
        changed.flatten(1)[:, number:] = (changed.flatten(1)[:, number:] + 1) % config.codebook_size
        after = net(changed, given)
        assert torch.equal(after[:, : number + 1], before[:, : number + 1])
        assert number == config.cells - 1 or not torch.equal(after, before)


def test_every_condition_matters_and_one_that_is_not_given_is_like_one_left_out() -> None:
    config = CONFIGS["all conditions"]
    net, codes, given = network(config), codes_for(config), given_to(config)
    for kind in given:
        without = net(codes, {name: of for name, of in given.items() if name != kind})
        assert torch.equal(without, net(codes, {**given, kind: torch.full_like(given[kind], -1)}))
        assert not torch.allclose(without, net(codes, given))


def test_weights_are_normalised_as_torch_normalises_them() -> None:
    torch.manual_seed(1)
    conv = Conv(3, 5, (3, 3))
    with torch.no_grad():
        conv.weight_g.uniform_(0.5, 2)
    like = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 5, 3, padding=1))
    like.load_state_dict(
        {
            "bias": conv.bias,
            "parametrizations.weight.original0": conv.weight_g,
            "parametrizations.weight.original1": conv.weight_v,
        }
    )
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(conv(x), like(x))


def test_a_convolution_of_codes_is_that_of_one_hot_codes() -> None:
    torch.manual_seed(1)
    conv, codes = CodeConv(6, 4, (2, 3)).double(), torch.randint(-1, 6, (2, 5, 7))
    hot = F.one_hot(codes + 1, 7)[..., 1:].permute(0, 3, 1, 2).double()
    found = conv.over(codes, None)
    torch.testing.assert_close(found, F.conv2d(hot, conv.weight, conv.bias))
    (found**2).sum().backward()
    (one,) = [conv.weight_v.grad.clone()]
    conv.weight_v.grad = None
    (F.conv2d(hot, conv.weight, conv.bias) ** 2).sum().backward()
    torch.testing.assert_close(one, conv.weight_v.grad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 4}, "kernel is 4; it must be odd"),
        ({"map_kernel": 2}, "map_kernel is 2; it must be odd"),
        ({"n_head": 8}, "half of it must be a multiple of n_head"),
        ({"conditions": (TOP,), "window": Size(5, 4)}, "its sides must be even"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(SMALL, **changes)


# --- likelihood and sampling ------------------------------------------------------------------------------------------


def test_the_chain_rule_sums_to_one() -> None:
    config = replace(SMALL, window=Size(2, 2), codebook_size=3)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).view(-1, 2, 2)
    nats = log_likelihood(network(config), every, batch_size=20)
    assert float(nats.sum((1, 2)).exp().sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_sample_depends_on_its_number_alone(guidance: float) -> None:
    config = CONFIGS["all conditions"]
    net, decoding = network(config), DecodingConfig(guidance=guidance, top_k=5)
    many = draw(net, size=(4, 6), samples=[4, 5, 6], seed=3, decoding=decoding, conditions=GIVEN, batch_size=2)
    alone = {kind: of[2:] for kind, of in GIVEN.items()}
    assert torch.equal(many[2:], draw(net, size=(4, 6), samples=[6], seed=3, decoding=decoding, conditions=alone))
    assert len(many.flatten(1).unique(dim=0)) == 3
    plain = draw(net, size=(4, 6), samples=[4, 5, 6], seed=3, decoding=DecodingConfig(top_k=5), conditions=GIVEN)
    assert torch.equal(plain, many) == (guidance == 1)


def test_greedy_takes_the_most_likely_code_of_each_cell() -> None:
    net = network(SMALL)
    codes = draw(net, size=(4, 6), samples=[0], seed=0, decoding=DecodingConfig(greedy=True))
    assert torch.equal(net(codes, {}).argmax(-1).view(codes.shape), codes)


def test_known_cells_stay_and_candidates_rank_by_what_follows() -> None:
    net, codes = network(SMALL), codes_for(SMALL, 1)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1:3, 2:5] = False
    known = KnownCells(codes, mask)
    made = complete(net, known, samples=[0, 1], seed=1, decoding=DecodingConfig(), candidates=3)
    assert torch.equal(made.codes[:, mask], codes[:, mask].expand(2, -1))
    for sample in range(2):
        scores = []
        for attempt in range(3):
            drawn = draw(
                net,
                size=(4, 6),
                samples=[sample],
                seed=1,
                decoding=DecodingConfig(),
                known=known,
                attempts=[attempt],
            )
            later = mask & ((~mask).flatten().cumsum(0).view(4, 6) > 0)
            scores.append(float((log_likelihood(net, drawn)[0] * later).sum()))
        assert made.scores[sample].tolist() == pytest.approx(scores)
        assert int(made.chosen[sample]) == int(np.argmax(scores))


def test_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="always 6x4 cells, not 8x4"):
        draw(network(SMALL), size=(4, 8), samples=[0], seed=0, decoding=DecodingConfig())


# --- the published layout ---------------------------------------------------------------------------------------------


class Published:
    """The port's network, written from its description: random weights by its names, and its logits."""

    def __init__(
        self,
        *,
        size: tuple[int, int],
        codes: int = 50,
        width: int = 16,
        kernel: int = 5,
        blocks: int = 2,
        res_blocks: int = 1,
        res_width: int = 16,
        attention: bool = True,
        out_blocks: int = 0,
        maps: int | None = None,
        map_width: int = 8,
    ) -> None:
        self.weights: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.kernel, self.blocks, self.res_blocks, self.attention = kernel, blocks, res_blocks, attention
        self.codes, self.out_blocks, self.maps, self.size = codes, out_blocks, maps, size
        context = map_width if maps is not None else 0
        self._conv("horizontal.conv.conv", codes, width, (kernel // 2, kernel))
        self._conv("vertical.conv.conv", codes, width, ((kernel + 1) // 2, kernel // 2))
        rows, columns = (torch.arange(side) / side - 0.5 for side in size)
        place = torch.stack((rows[:, None].expand(size), columns.expand(size)))[None]
        self.weights["background"] = place.contiguous()
        for block in range(blocks):
            name = f"blocks.{block}"
            for number in range(res_blocks):
                self._block(f"{name}.resblocks.{number}", width, res_width, kernel, causal=True, context=context)
            if attention:
                self._block(f"{name}.key_resblock", 2 * width + 2, width)
                self._block(f"{name}.query_resblock", width + 2, width)
                for part, inside in (("query", width + 2), ("key", 2 * width + 2), ("value", 2 * width + 2)):
                    self._linear(f"{name}.causal_attention.{part}", inside, width // 2)
                self._block(f"{name}.out_resblock", width, width, aux=width // 2)
            else:
                self._conv(f"{name}.out.conv", width + 2, width)
        if maps is not None:
            self._conv("cond_resnet.blocks.0.conv", codes, map_width, (3, 3))
            for number in range(1, maps + 1):
                self._block(f"cond_resnet.blocks.{number}", map_width, map_width, 3)
        for number in range(out_blocks):
            self._block(f"out.{number}", width, res_width)
        self._conv(f"out.{out_blocks + 1}.conv", width, codes)

    def _conv(self, name: str, inside: int, outside: int, kernel: tuple[int, int] = (1, 1), bias: bool = True) -> None:
        self.weights[f"{name}.weight_v"] = torch.randn(outside, inside, *kernel, generator=self.generator)
        self.weights[f"{name}.weight_g"] = 0.5 + 1.5 * torch.rand(outside, 1, 1, 1, generator=self.generator)
        if bias:
            self.weights[f"{name}.bias"] = 0.1 * torch.randn(outside, generator=self.generator)

    def _linear(self, name: str, inside: int, outside: int) -> None:
        self._conv(name, inside, outside)
        for part in ("weight_v", "weight_g"):
            self.weights[f"{name}.{part}"] = self.weights[f"{name}.{part}"].flatten(1)

    def _block(
        self, name: str, inside: int, inner: int, side: int = 1, causal: bool = False, aux: int = 0, context: int = 0
    ) -> None:
        conv = "conv.conv" if causal else "conv"
        self._conv(f"{name}.conv1.{conv}", inside, inner, (side, side))
        if aux:
            self._conv(f"{name}.aux_conv.conv", aux, inner)
        self._conv(f"{name}.conv2.{conv}", inner, 2 * inside, (side, side))
        if context:
            self._conv(f"{name}.condition.conv", context, 2 * inside, bias=False)

    def _normalised(self, name: str, ahead: bool = False) -> Tensor:
        v, g = self.weights[f"{name}.weight_v"].clone(), self.weights[f"{name}.weight_g"]
        if ahead:
            v[:, :, -1, v.shape[3] // 2 :] = 0
        return g * v / v.flatten(1).norm(dim=1).view(g.shape)

    def _apply(self, name: str, x: Tensor) -> Tensor:
        kernel = self._normalised(name)
        return F.conv2d(x, kernel, self.weights.get(f"{name}.bias"), padding=kernel.shape[3] // 2)

    def _causal(self, name: str, x: Tensor) -> Tensor:
        kernel, half = self._normalised(name, ahead=True), self.kernel // 2
        return F.conv2d(F.pad(x, (half, half, self.kernel - 1, 0)), kernel, self.weights[f"{name}.bias"])

    def _gated(self, name: str, x: Tensor, aux: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        causal = f"{name}.conv1.conv.conv.weight_v" in self.weights
        run, conv = (self._causal, "conv.conv") if causal else (self._apply, "conv")
        h = run(f"{name}.conv1.{conv}", F.elu(x))
        if aux is not None:
            h = h + self._apply(f"{name}.aux_conv.conv", F.elu(aux))
        h = run(f"{name}.conv2.{conv}", F.elu(h))
        if context is not None:
            h = h + self._apply(f"{name}.condition.conv", context)
        a, b = h.chunk(2, 1)
        return x + a * b.sigmoid()

    def _attention(self, name: str, query: Tensor, key: Tensor) -> Tensor:
        def split(part: str, x: Tensor) -> Tensor:
            y = F.linear(
                x.flatten(2).transpose(1, 2), self._normalised(f"{name}.{part}"), self.weights[f"{name}.{part}.bias"]
            )
            return y.view(*y.shape[:2], 8, -1).transpose(1, 2)

        q, k, v = split("query", query), split("key", key), split("value", key)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        cells = scores.shape[2]
        later = torch.ones(cells, cells).triu() > 0
        weights = scores.masked_fill(later, -1e4).softmax(3) * (torch.arange(cells) > 0)[:, None]
        return (weights @ v).transpose(1, 2).flatten(2).transpose(1, 2).view(len(query), -1, *query.shape[2:])

    def logits(self, codes: Tensor, top: Tensor | None = None) -> Tensor:
        """Codes (B, h, w), and those of the top level (B, h/2, w/2) -> (B, h w, K)."""
        x, half, (height, width) = self._hot(codes), self.kernel // 2, self.size
        across = F.pad(x, (half, half, half - 1, 0))
        up = F.conv2d(across, self._normalised("horizontal.conv.conv"), self.weights["horizontal.conv.conv.bias"])
        beside = F.pad(x, (half - 1, 0, (self.kernel + 1) // 2 - 1, 0))
        left = F.conv2d(beside, self._normalised("vertical.conv.conv"), self.weights["vertical.conv.conv.bias"])
        h = F.pad(up, (0, 0, 1, 0))[:, :, :height] + F.pad(left, (1, 0))[..., :width]
        context = None
        if self.maps is not None and top is not None:
            context = self._apply("cond_resnet.blocks.0.conv", self._hot(top))
            for number in range(1, self.maps + 1):
                context = self._gated(f"cond_resnet.blocks.{number}", context)
            context = context.repeat_interleave(2, 2).repeat_interleave(2, 3)
        place = self.weights["background"].expand(len(codes), -1, -1, -1)
        for block in range(self.blocks):
            name, before = f"blocks.{block}", h
            for number in range(self.res_blocks):
                h = self._gated(f"{name}.resblocks.{number}", h, None, context)
            if self.attention:
                key = self._gated(f"{name}.key_resblock", torch.cat((before, h, place), 1))
                query = self._gated(f"{name}.query_resblock", torch.cat((h, place), 1))
                h = self._gated(f"{name}.out_resblock", h, self._attention(f"{name}.causal_attention", query, key))
            else:
                h = self._apply(f"{name}.out.conv", torch.cat((h, place), 1))
        for number in range(self.out_blocks):
            h = self._gated(f"out.{number}", h)
        return self._apply(f"out.{self.out_blocks + 1}.conv", F.elu(h)).flatten(2).transpose(1, 2)

    def _hot(self, codes: Tensor) -> Tensor:
        return F.one_hot(codes, self.codes).permute(0, 3, 1, 2).float()


TWO_LEVELS = CodecConfig(
    network="vq-vae-2", ch=8, num_res_blocks=1, n_res_channel=4, codebook_size=50, codebook_dim=4, resolution=32
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec of two levels of 50 codes, which all occur."""
    torch.manual_seed(0)
    network = VQGAN(TWO_LEVELS)
    for quantizer in network.quantizers:
        nn.init.normal_(quantizer.embedding.weight, std=0.1)
    path = tmp_path_factory.mktemp("codec") / "v.safetensors"
    save_model(path, codec_file(network, {"content": "image"}))
    return path


SHAPES: Mapping[str, dict[str, Any]] = {
    "top": {"size": (6, 10), "out_blocks": 1, "res_width": 12},
    "top of one block without attention": {"size": (6, 10), "blocks": 1, "attention": False, "kernel": 3},
    "bottom": {"size": (12, 20), "attention": False, "res_blocks": 2, "maps": 2},
    "bottom with attention": {"size": (12, 20), "maps": 0, "kernel": 7, "width": 32},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_an_imported_prior_has_the_published_logits(
    shape: dict[str, Any], form: str, codec: Path, tmp_path: Path
) -> None:
    published, path = Published(**shape), tmp_path / f"p.{form}"
    if form == "pt":
        torch.save({"model": {f"module.{name}": of for name, of in published.weights.items()}, "args": {}}, path)
    else:
        save_file(published.weights, path)
    out = tmp_path / "p.safetensors" if form == "pt" else tmp_path / "q.safetensors"
    said = taming("import", path, "--codec", codec, "-o", out, "--json")
    assert said.code == 0, said.err
    model = load_model(out, "taming-prior")
    net = prior_from(model, str(out))
    codes, given, top = torch.randint(50, (2, *shape["size"])), {}, None
    if published.maps is not None:
        top = torch.randint(50, (2, shape["size"][0] // 2, shape["size"][1] // 2))
        given["top"] = top.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert isinstance(net, PixelSNAIL)
    with torch.no_grad():
        torch.testing.assert_close(net(codes, given), published.logits(codes, top), rtol=0, atol=1e-4)
    assert net.config.level == ("top" if top is None else "bottom")
    assert model.about["codec_sha256"] == load_model(codec).about["codec_sha256"]
    outlined = taming("info", path, "--json").json
    assert (outlined["arch"], outlined["window"]) == ("pixelsnail", f"{shape['size'][1]}x{shape['size'][0]}")


def test_a_file_that_is_not_the_published_prior_is_refused_in_a_line(codec: Path, tmp_path: Path) -> None:
    whole = Published(size=(6, 10)).weights

    def without(name: str) -> dict[str, Tensor]:
        return {each: of for each, of in whole.items() if each != name}

    first = "blocks.0.resblocks.0.conv1.conv.conv.weight_v"
    wrong = {
        "lacks blocks.1.out_resblock.conv2.bias": {
            k: v for k, v in whole.items() if k != "blocks.1.out_resblock.conv2.conv.bias"
        },
        "has more.weight": {**whole, "more.weight": torch.zeros(1)},
        "of shape": {**whole, "blocks.1.resblocks.0.conv1.conv.conv.bias": torch.zeros(3)},
        "other positions": {**whole, "background": torch.zeros(1, 2, 6, 10)},
        "no background": without("background"),
        "has 40 codes": Published(size=(6, 10), codes=40).weights,
        f"has no {first.replace('.conv.conv', '')}": without(first),
    }
    for number, (message, weights) in enumerate(wrong.items()):
        path = tmp_path / f"{number}.pt"
        torch.save({"model": weights}, path)
        said = taming("import", path, "--codec", codec, "-o", tmp_path / "out.safetensors")
        assert (said.code, len(said.err.splitlines())) == (1, 1), said.err
        assert message in said.err
    torch.save({"model": whole}, tmp_path / "p.pt")
    alone = taming("import", tmp_path / "p.pt", "-o", tmp_path / "out.safetensors")
    assert (alone.code, "--codec FILE" in alone.err) == (1, True)
    assert not (tmp_path / "out.safetensors").exists()


@needs_golden
def test_golden_priors_of_both_levels(tmp_path: Path) -> None:
    codec, tokens = tmp_path / "v.safetensors", tmp_path / "t.h5"
    assert taming("import", GOLDEN / "vqvae2.pt", "-o", codec).code == 0
    pictures = GOLDEN / "vqvae2_images"
    assert taming("tokenize", pictures, "--ckpt", codec, "--size", "64x64", "-o", tokens).code == 0
    expected = {level: np.load(GOLDEN / f"pixelsnail_{level}_io.npz") for level in ("top", "bottom")}
    for level, values in expected.items():
        path = tmp_path / f"{level}.safetensors"
        assert taming("import", GOLDEN / f"pixelsnail_{level}.pt", "--codec", codec, "-o", path).code == 0
        nats = taming("eval", "nll", path, tokens, "--json").json["value"]
        assert nats == pytest.approx(float(values["nll"]), abs=1e-5)
        net, codes = prior_from(load_model(path), str(path)), torch.from_numpy(values["codes"]).long()
        assert isinstance(net, PixelSNAIL)
        given = {}
        if level == "bottom":
            given["top"] = torch.from_numpy(values["condition"]).long().repeat_interleave(2, 1).repeat_interleave(2, 2)
        with torch.no_grad():
            logits = net(codes, given).transpose(1, 2).reshape(values["logits"].shape)
        assert (logits - torch.from_numpy(values["logits"])).abs().max() < 1e-4
        greedy = draw(
            net,
            size=(codes.shape[1], codes.shape[2]),
            samples=[0],
            seed=0,
            decoding=DecodingConfig(greedy=True),
            conditions={kind: of[:1] for kind, of in given.items()},
        )
        assert np.array_equal(greedy.numpy(), values["greedy"])
    drawn = taming(
        *("sample", "--ckpt", tmp_path / "bottom.safetensors", "--above", tmp_path / "top.safetensors"),
        *("--greedy", "-o", tmp_path / "out", "--tokens", tmp_path / "s.h5"),
    )
    assert drawn.code == 0, drawn.err
    with TokenFile(tmp_path / "s.h5") as file:
        assert np.array_equal(file.top(slice(0, 1))[:, 0], expected["top"]["greedy"])


# --- two levels, from pictures to pictures ----------------------------------------------------------------------------

TRAIN = (
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--batch-size", "2", "--minutes", "0", "--steps", "4"),
    *("--val-every", "0.5", "--held", "0.3", "--precision", "fp32", "--samples", "2", "--seed", "1"),
)


@pytest.fixture(scope="module")
def house(codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the token file of a codec of two levels, and a prior of each level."""
    root = tmp_path_factory.mktemp("levels")
    folder_of_pictures(root / "pictures", 8, seed=1)
    made = taming("tokenize", root / "pictures", "--ckpt", codec, "--size", "32x24", "-o", root / "t.h5")
    assert made.code == 0, made.err
    for level, arch in (("top", "pixelsnail"), ("bottom", "pixelsnail"), ("bottom", "modern"), ("top", "any-order")):
        said = taming(
            *("train-prior", root / "t.h5", "--level", level, "--arch", arch, "--codec", codec),
            *(*TRAIN, "-o", root / f"{level}-{arch}"),
        )
        assert said.code == 0, said.err
    return root


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.safetensors"


def test_each_level_is_a_token_file_of_its_own(house: Path) -> None:
    with TokenFile(house / "t.h5") as file, LevelFile(house / "t.h5", "top") as top:
        bottom = LevelFile(house / "t.h5", "bottom")
        assert np.array_equal(top.codes(slice(None)), file.top(slice(None)))
        assert (top.header.height, top.header.width, top.header.downsample_factor) == (3, 4, 8)
        assert np.array_equal(bottom.codes([2, 0]), file.codes([2, 0]))
        codes = bottom.condition("top", [2, 0])
        assert np.array_equal(codes[..., 1::2, ::2], file.top([2, 0]))
        assert np.array_equal(codes[..., ::2, 1::2], file.top([2, 0]))
    with pytest.raises(UsageError, match="has two levels of codes; a prior is for one"):
        TokenSet([house / "t.h5"])


@pytest.mark.parametrize("bottom", ["pixelsnail", "modern"])
@pytest.mark.parametrize("top", ["pixelsnail", "any-order"])
def test_two_priors_draw_both_levels(bottom: str, top: str, house: Path, codec: Path, tmp_path: Path) -> None:
    place = ("--ckpt", last(house / f"bottom-{bottom}"), "--above", last(house / f"top-{top}"))
    said = taming("sample", *place, "-n", "2", "-o", tmp_path / "out", "--tokens", tmp_path / "s.h5", "--json")
    assert said.code == 0, said.err
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert [line["size"] for line in lines] == ["32x24"] * 2
    decoded = taming("decode", tmp_path / "s.h5", tmp_path / "decoded", "--codec", codec)
    assert decoded.code == 0, decoded.err
    for line in lines:
        one, other = (
            np.asarray(Image.open(p)).astype(int)
            for p in (line["path"], tmp_path / "decoded" / Path(line["path"]).name)
        )
        assert abs(one - other).max() <= 1
    alone = taming("sample", *place, "-n", "1", "--first", "1", "-o", tmp_path / "alone")
    assert alone.code == 0
    assert (tmp_path / "alone" / "000001.png").read_bytes() == (tmp_path / "out" / "000001.png").read_bytes()
    assert taming("eval", "nll", place[1], house / "t.h5", "--json").json["value"] > 0


def test_what_does_not_fit_together_is_refused_in_a_line(house: Path, tmp_path: Path) -> None:
    bottom, top = last(house / "bottom-pixelsnail"), last(house / "top-pixelsnail")
    whole = folder_of_pictures(tmp_path / "pictures", 1, seed=1)
    wrong: dict[str, tuple[object, ...]] = {
        "name a prior of the top level: --above FILE": ("sample", "--ckpt", bottom),
        "draws the top level of codes alone": ("sample", "--ckpt", top),
        "does not draw the bottom one of two levels": ("sample", "--ckpt", top, "--above", top),
        "does not draw the top level of codes": ("sample", "--ckpt", bottom, "--above", last(house / "bottom-modern")),
        "always draws 32x24 pixels (4x3 cells), not 64x64": (
            "sample",
            "--ckpt",
            bottom,
            "--above",
            top,
            "--size",
            "64x64",
        ),
        "use multiples of 8": ("sample", "--ckpt", last(house / "bottom-modern"), "--above", top, "--size", "36x24"),
        "stride is 2, but this prior draws cell by cell": ("sample", "--ckpt", bottom, "--above", top, "--stride", "2"),
        "needs a codec of one level": (
            *("sample", "--ckpt", bottom, "--above", top),
            *("--complete", next(whole.glob("*.png")), "--mask", "upper-half"),
        ),
        "a prior is for one: --level top": ("train-prior", house / "t.h5", "--dry-run"),
    }
    for message, arguments in wrong.items():
        said = taming(*arguments, *(["-o", tmp_path / "out"] if arguments[0] == "sample" else []))
        assert said.code in (1, 2), said.out
        assert message in said.err, said.err
    assert not (tmp_path / "out").exists()


def test_the_top_level_is_asked_for_only_where_there_are_two(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    said = taming("demo-data", tmp_path / "data", "-n", "4", "--size", "64x64")
    assert said.code == 0
    assert (
        taming("tokenize", tmp_path / "data" / "images", "--ckpt", "builtin", "--size", "64x64", "-o", path).code == 0
    )
    said = taming("train-prior", path, "--level", "top", "--dry-run")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "has one level of codes; leave --level out" in said.err
    with h5py.File(path) as file:
        assert "levels" not in file
