"""The stages that are timed: each in plain fp32, as the tool does it, and by the authors' code."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from peer import Peer
from PIL import Image
from torch import Tensor
from turns import OURS, PARTS, PEER, PLAIN, Stage, Way

from taming_cli.codec.state import start as start_codec
from taming_cli.codec.step import Phase, codec_step
from taming_cli.codec.tiling import tiles
from taming_cli.codec.tokenize import tokenize
from taming_cli.codec.vqgan import VQGAN, codec_file, ready
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.presets import preset
from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.data.batches import eval_batches
from taming_cli.data.images import to_float
from taming_cli.data.sources import list_items
from taming_cli.evaluate.extraction import Extractor, extract_features
from taming_cli.evaluate.image_sets import ImageSet, open_image_set
from taming_cli.pretrained import features
from taming_cli.pretrained.perceptual import build as build_perceptual
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.onednn import pack
from taming_cli.prior.predictions import TokenBatch
from taming_cli.prior.raster.buffers import DecodingBuffers
from taming_cli.prior.raster.code_grid import CodeGrid
from taming_cli.prior.raster.generate import Sampler, generate
from taming_cli.prior.state import prior_step
from taming_cli.prior.state import start as start_prior
from taming_cli.runtime.checkpoint import save_model
from taming_cli.runtime.cost import cost, flop_rate, read_rate
from taming_cli.runtime.device import autocast

SIDE = 256
"""Pixels of the codec's pictures."""
CODEC_BATCH, STEP_BATCH = 4, 2
DRAWN = 256
"""Cells of a window, all drawn with the cache: the first are the cheapest."""
LATENT = (52, 80)
"""Rows and columns of a 1280 x 832 picture's codes."""
WAVES = 8
"""Waves of the plan that are timed, evenly spread; the rest by count."""
FULL_CELLS = 2
"""Cells that are timed where each takes a full forward; the rest by count."""
EVALUATED, JPEGS = 64, 192
"""Pictures that are looked at, and made into tokens."""


@dataclass(frozen=True)
class Bench:
    """Where it runs, and the checkout of the authors' code beside which it does."""

    device: torch.device
    precision: torch.dtype
    peer: Path | None

    def floor(self, run: Way) -> float:
        """Seconds that the multiply-adds of a call take at the machine's rate."""
        return cost(run).flops / flop_rate(self.device, self.precision)

    def ways(self, theirs: Callable[[Peer], Way], **others: Callable[[], Way]) -> dict[str, Callable[[], Way]]:
        """`plain`, `ours`, and, with a checkout, theirs."""
        named = {PLAIN: others["plain"], OURS: others["ours"]}
        return named if self.peer is None else named | {PEER: lambda: theirs(Peer(self.peer or Path()))}


class _Codec(NamedTuple):
    """The paper's codec with what trains it."""

    config: CodecConfig
    discriminator: DiscriminatorConfig
    train: CodecTrainConfig

    def build(self, bench: Bench) -> VQGAN:
        torch.manual_seed(0)
        return VQGAN(self.config).eval().to(bench.device)


def _paper() -> _Codec:
    values = preset("f16-1024").codec

    def of(kind: type[Any]) -> Any:
        return kind(**{name: value for name, value in values.items() if name in kind.__dataclass_fields__})

    return _Codec(of(CodecConfig), of(DiscriminatorConfig), of(CodecTrainConfig))


def encode(bench: Bench) -> Iterator[Stage]:
    """Pictures to codes."""
    images = torch.randint(0, 256, (CODEC_BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    x = to_float(images).to(bench.device)

    def theirs(codec: Any) -> object:
        return codec.encode(x)

    yield _coding(bench, "encode", lambda codec: codec.encode(x), lambda codec: tiles.encode(codec, images), theirs)


def decode(bench: Bench) -> Iterator[Stage]:
    """Codes to pictures."""
    codes = torch.zeros(CODEC_BATCH, SIDE // 16, SIDE // 16, dtype=torch.int64, device=bench.device)
    codes += torch.arange(SIDE // 16, device=bench.device)
    shape = (*codes.shape, _paper().config.codebook_dim)

    def theirs(codec: Any) -> object:
        return codec.decode(codec.quantize.get_codebook_entry(codes.flatten(), shape))

    yield _coding(
        bench, "decode", lambda codec: codec.decode(codes), lambda codec: tiles.pictures(codec, codes), theirs
    )


def _coding(
    bench: Bench,
    name: str,
    plainly: Callable[[VQGAN], object],
    used: Callable[[VQGAN], object],
    by_theirs: Callable[[Any], object],
) -> Stage:
    """One direction of the codec: what each way does with its own."""
    paper = _paper()

    def plain() -> Way:
        codec = paper.build(bench)
        return lambda: plainly(codec)

    def ours() -> Way:
        codec = ready(paper.build(bench).requires_grad_(False), bench.device, bench.precision)
        return _cast(bench, lambda: used(codec))

    def theirs(peer: Peer) -> Way:
        codec = peer.codec(paper.build(bench), paper.discriminator, paper.train).eval()
        return torch.no_grad()(lambda: by_theirs(codec))

    ways = bench.ways(theirs, plain=plain, ours=ours)
    return Stage(f"{name}, f16, ch 128, 256 x 256", "picture", CODEC_BATCH, ways, lambda: bench.floor(plain()))


def _cast(bench: Bench, run: Way) -> Way:
    def cast() -> None:
        with autocast(bench.device, bench.precision):
            run()

    return cast


def step(bench: Bench) -> Iterator[Stage]:
    """A codec's training step with everything on: LPIPS on VGG16, discriminator, adaptive weight."""
    paper = _paper()
    x = to_float(torch.randint(0, 256, (STEP_BATCH, 3, SIDE, SIDE), dtype=torch.uint8)).to(bench.device)

    def steps(precision: torch.dtype) -> Way:
        with tempfile.TemporaryDirectory() as folder:
            torch.save(torchvision.models.vgg16(weights=None).state_dict(), Path(folder) / "vgg16.pth")
            perceptual = build_perceptual("lpips-vgg", weights=Path(folder) / "vgg16.pth")
        assert perceptual is not None
        perceptual = perceptual.to(bench.device)
        state = start_codec(paper.build(bench), paper.discriminator, paper.train, bench.device, precision)
        now = Phase(discriminator=True, adversarial=1.0)
        rate = paper.train.learning_rate
        return lambda: codec_step(state, x, perceptual=perceptual, config=paper.train, now=now, learning_rate=rate)

    def theirs(peer: Peer) -> Way:
        return peer.codec_step(
            peer.codec(paper.build(bench), paper.discriminator, paper.train).to(bench.device).train(), x
        )

    def plain() -> Way:
        return steps(torch.float32)

    ways = bench.ways(theirs, plain=plain, ours=lambda: steps(bench.precision))
    yield Stage("codec step, everything on", "picture", STEP_BATCH, ways, lambda: bench.floor(plain()))


def _prior(kind: str, device: torch.device) -> GPT:
    """The paper's transformer, 24 layers, 305 M parameters: conditioned on a class, or on a segmentation's codes."""
    grid = ConditionSpec(kind="segmentation", vocabulary=1024, form="grid")
    config = PriorConfig(
        arch="published",
        n_layer=24,
        n_head=16,
        n_embd=1024,
        vocabulary="shared",
        codebook_size=1024,
        conditions=(grid if kind == "segmentation" else ConditionSpec(kind="class", vocabulary=1000),),
    )
    torch.manual_seed(0)
    return GPT(config).eval().requires_grad_(False).to(device)


def prior(bench: Bench) -> Iterator[Stage]:
    """A prior's training step."""
    codes = torch.randint(0, 1024, (STEP_BATCH, 16, 16))
    train = PriorTrainConfig(dropout=0.0, condition_dropout=0.0)

    def steps(precision: torch.dtype) -> Way:
        state = start_prior(_prior("segmentation", torch.device("cpu")), train, bench.device, precision)
        batch = TokenBatch(codes.flatten(1), codes.flatten(1), {"segmentation": codes})
        return lambda: prior_step(state, batch, train, train.learning_rate)

    def theirs(peer: Peer) -> Way:
        gpt = peer.prior(_prior("segmentation", torch.device("cpu"))).to(bench.device).train()
        return peer.prior_step(gpt, codes.flatten(1).repeat(1, 2).to(bench.device), 256, train.learning_rate)

    def plain() -> Way:
        return steps(torch.float32)

    ways = bench.ways(theirs, plain=plain, ours=lambda: steps(bench.precision))
    yield Stage("prior step, 305 M", "token", STEP_BATCH * 256, ways, lambda: bench.floor(plain()))


def cached(bench: Bench) -> Iterator[Stage]:
    """Sampling a window with the cache, for one picture and for sixteen."""

    def floor() -> float:
        gpt = _prior("class", torch.device("meta"))
        read = sum(p.numel() for p in gpt.parameters()) - gpt.tok_emb.weight.numel()
        return DRAWN * bench.precision.itemsize * read / read_rate(bench.device)

    for pictures in (1, 16):
        classes = torch.zeros(pictures, 1, dtype=torch.int64)

        def draw(gpt: GPT, classes: Tensor = classes) -> Way:
            return lambda: generate(
                gpt,
                size=(16, 16),
                samples=range(len(classes)),
                seed=0,
                decoding=DecodingConfig(),
                conditions={"class": classes},
            )

        def plain(draw: Callable[[GPT], Way] = draw) -> Way:
            return draw(_prior("class", bench.device))

        def ours(draw: Callable[[GPT], Way] = draw) -> Way:
            return draw(pack(_prior("class", bench.device).to(bench.precision)))

        def theirs(peer: Peer, classes: Tensor = classes) -> Way:
            gpt = peer.prior(_prior("class", bench.device)).to(bench.device).eval()
            return peer.cached(gpt, classes.to(bench.device), DRAWN)

        name = f"cached sampling, 305 M, {pictures} at once"
        yield Stage(name, "token", DRAWN * pictures, bench.ways(theirs, plain=plain, ours=ours), floor)


def window(bench: Bench) -> Iterator[Stage]:
    """The sliding window over 52 x 80 cells at several strides; timed on a part."""
    cells = LATENT[0] * LATENT[1]
    labels = torch.arange(cells).reshape(1, *LATENT) % 1024
    full = cells / FULL_CELLS

    def plain() -> Way:
        gpt = _prior("segmentation", bench.device)
        tokens = torch.zeros(1, 256, dtype=torch.int64, device=bench.device)

        @torch.no_grad()
        def forwards() -> None:
            for _ in range(FULL_CELLS):
                gpt(tokens, tokens)[:, -1].softmax(-1)

        return forwards

    def theirs(peer: Peer) -> Way:
        return peer.window(peer.prior(_prior("segmentation", bench.device)).to(bench.device).eval(), FULL_CELLS, 1)

    for stride in (1, 2, 4, 8):

        def sampler(gpt: GPT, stride: int = stride) -> Sampler:
            grid = CodeGrid.blank(
                gpt.config,
                size=LATENT,
                samples=1,
                conditions={"segmentation": labels},
                stride=stride,
                device=bench.device,
            )
            return Sampler(gpt, grid, samples=[0], attempts=None, seed=0, decoding=DecodingConfig(), known=None)

        def ours(sampler: Callable[[GPT], Sampler] = sampler) -> Way:
            drawing = sampler(pack(_prior("segmentation", bench.device).to(bench.precision)))
            waves = drawing.unknown_waves()
            widest = max(map(len, waves))
            buffers = DecodingBuffers(drawing.gpt, drawing.decoding, widest)

            @torch.inference_mode()
            def draw() -> None:
                for wave in evenly_spaced(waves):
                    for _ in drawing.draw_wave(wave, buffers, widest):
                        pass

            return draw

        waves = sampler(_prior("segmentation", torch.device("meta"))).unknown_waves()
        calls = {PLAIN: full, PEER: full, OURS: len(waves) / len(evenly_spaced(waves))}
        name = f"window, 52 x 80 cells, stride {stride}"
        yield Stage(name, "picture", 1, bench.ways(theirs, plain=plain, ours=ours), None, calls)


def evenly_spaced(waves: list[Any]) -> list[Any]:
    """About WAVES of them, evenly spread."""
    return waves[len(waves) // WAVES // 2 :: max(1, len(waves) // WAVES)]


def evaluation(bench: Bench) -> Iterator[Stage]:
    """Pictures seen by a feature network: one after the other, and as `eval` does it."""
    with tempfile.TemporaryDirectory() as folder:
        _write_jpegs(Path(folder), EVALUATED, (SIDE, SIDE))

        def looking(batch_size: int, workers: int) -> Way:
            network = features.build("efficientnet-lite0").to(bench.device)
            pictures = open_image_set(Path(folder), device=bench.device)
            assert isinstance(pictures, ImageSet)
            extractor = Extractor(network=network, batch_size=batch_size, workers=workers)
            return lambda: extract_features(pictures, extractor)

        ways = {PLAIN: lambda: looking(1, 1), OURS: lambda: looking(32, 2)}
        yield Stage("evaluation, efficientnet-lite0", "picture", EVALUATED, ways)


def tokens(bench: Bench) -> Iterator[Stage]:
    """A folder of JPEGs to a token file, tiny codec; the floor is what reading and encoding take by themselves."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_jpegs(root / "images", JPEGS, (640, 480))
        items = list_items([root / "images"]).items
        torch.manual_seed(0)
        codec = VQGAN(CodecConfig()).eval()
        save_model(root / "vq.safetensors", codec_file(codec, {"size": "128x128"}))

        def ours() -> Way:
            made = iter(range(10**6))
            device = str(bench.device)
            return lambda: tokenize(items, ckpt=root / "vq.safetensors", out=root / f"{next(made)}.h5", device=device)

        def parts() -> Way:
            used = codec.to(bench.device).to(memory_format=torch.channels_last)
            threads = torch.get_num_threads()

            def one_after_the_other() -> None:
                with closing(eval_batches(items, size=Size(128, 128), batch_size=16, workers=threads)) as batches:
                    read = [batch.images for batch in batches]
                for images in read:
                    tiles.encode(used, images)

            return one_after_the_other

        yield Stage("tokenising JPEGs, tiny codec", "picture", JPEGS, {PARTS: parts, OURS: ours})


def _write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Blurred colours with some grain, about as hard to decode as photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 8, (size[1], size[0], 1))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number:04d}.jpg", quality=90
        )


STAGES: dict[str, Callable[[Bench], Iterator[Stage]]] = {
    "encode": encode,
    "decode": decode,
    "step": step,
    "prior": prior,
    "cached": cached,
    "window": window,
    "evaluation": evaluation,
    "tokens": tokens,
}
