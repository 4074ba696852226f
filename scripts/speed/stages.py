"""The stages that are timed: each in plain fp32, as the tool does it, and by the authors' code."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from peer import Peer
from PIL import Image
from torch import Tensor
from turns import OURS, PEER, PLAIN, Stage, Way

from taming_cli.codec import tiles
from taming_cli.codec.state import start as start_codec
from taming_cli.codec.step import Phase, codec_step
from taming_cli.codec.tokenize import tokenize
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.codec import CodecConfig, CodecTrainConfig, CriticConfig
from taming_cli.config.evaluate import FeatureConfig
from taming_cli.config.presets import preset
from taming_cli.config.prior import ConditionSpec, PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.data.batches import eval_batches
from taming_cli.data.images import to_float
from taming_cli.data.sources import list_items
from taming_cli.evaluate.look import Look, look
from taming_cli.evaluate.sides import side
from taming_cli.judges import features, perceptual
from taming_cli.prior.batches import Batch
from taming_cli.prior.canvas import Canvas
from taming_cli.prior.generate import Given, Sampler, generate
from taming_cli.prior.gpt import GPT
from taming_cli.prior.packed import pack
from taming_cli.prior.state import prior_step
from taming_cli.prior.state import start as start_prior
from taming_cli.runtime.checkpoint import save_model
from taming_cli.runtime.cost import cost
from taming_cli.runtime.device import autocast

SIDE = 256
"""Pixels of the codec's pictures."""
CODEC_BATCH, STEP_BATCH = 4, 2
DRAWN = 64
"""Cells that are drawn of a window of 256 with the cache."""
LATENT = (52, 80)
"""Rows and columns of a 1280 x 832 picture's codes."""
WAVES = 12
"""Waves of the plan that are timed, evenly spread; the rest by count."""
FULL_CELLS = 2
"""Cells that are timed where each takes a full forward; the rest by count."""
JPEGS = 192


@dataclass(frozen=True)
class Bench:
    """Where it runs, and beside whom."""

    device: torch.device
    precision: torch.dtype
    peer: Peer | None
    flops: float
    reads: float

    def floor(self, run: Way) -> float:
        """Seconds that the multiply-adds of a call take at the machine's rate."""
        return cost(run).flops / self.flops


def _codec(bench: Bench) -> tuple[VQGAN, VQGAN, Tensor, Any]:
    """The paper's codec, plain and as it is used; pictures; and the authors' twin."""
    config, critic, train = _paper()
    plain = VQGAN(config).eval().to(bench.device)
    theirs = bench.peer.codec(plain, critic, train).eval().to(bench.device) if bench.peer else None
    ours = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (CODEC_BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    return plain, ours, images, theirs


def _paper() -> tuple[CodecConfig, CriticConfig, CodecTrainConfig]:
    values = preset("f16-1024").codec
    kinds = (CodecConfig, CriticConfig, CodecTrainConfig)
    return tuple(kind(**{k: v for k, v in values.items() if k in kind.__dataclass_fields__}) for kind in kinds)  # type: ignore[return-value]


def encode(bench: Bench) -> Iterator[Stage]:
    """Pictures to codes."""
    plain, ours, images, theirs = _codec(bench)
    x = to_float(images).to(bench.device)

    def used() -> None:
        with autocast(bench.device, bench.precision):
            tiles.encode(ours, images)

    def peers() -> None:
        with torch.no_grad():
            theirs.encode(x)

    ways: dict[str, Way] = {PLAIN: lambda: plain.encode(x), OURS: used}
    if theirs:
        ways[PEER] = peers
    floor = bench.floor(lambda: plain.encode(x[:1])) * CODEC_BATCH
    yield Stage("encode, f16, ch 128, 256 x 256", "picture", CODEC_BATCH, ways, floor)


def decode(bench: Bench) -> Iterator[Stage]:
    """Codes to pictures."""
    plain, ours, _, theirs = _codec(bench)
    codes = torch.randint(0, ours.config.codebook_size, (CODEC_BATCH, SIDE // 16, SIDE // 16), device=bench.device)

    def used() -> None:
        with autocast(bench.device, bench.precision):
            tiles.pictures(ours, codes)

    def peers() -> None:
        with torch.no_grad():
            theirs.decode(theirs.quantize.get_codebook_entry(codes.flatten(), (*codes.shape, ours.config.codebook_dim)))

    ways: dict[str, Way] = {PLAIN: lambda: plain.decode(codes), OURS: used}
    if theirs:
        ways[PEER] = peers
    floor = bench.floor(lambda: plain.decode(codes[:1])) * CODEC_BATCH
    yield Stage("decode, f16, ch 128, 256 x 256", "picture", CODEC_BATCH, ways, floor)


def step(bench: Bench) -> Iterator[Stage]:
    """A codec's training step with everything on: LPIPS on VGG16, critic, adaptive weight."""
    config, critic, train = _paper()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(torchvision.models.vgg16(weights=None).state_dict(), Path(folder) / "vgg16.pth")
        judge = perceptual.build("lpips-vgg", weights=Path(folder) / "vgg16.pth")
    assert judge is not None
    judge = judge.to(bench.device)
    x = to_float(torch.randint(0, 256, (STEP_BATCH, 3, SIDE, SIDE), dtype=torch.uint8)).to(bench.device)

    first = VQGAN(config)
    state = start_codec(copy.deepcopy(first), critic, train, bench.device, bench.precision)
    now = Phase(critic=True, adversarial=1.0)

    def steps(precision: torch.dtype) -> Way:
        def run() -> None:
            state.precision = precision
            codec_step(state, x, judge=judge, config=train, now=now, learning_rate=train.learning_rate)

        return run

    ways: dict[str, Way] = {PLAIN: steps(torch.float32), OURS: steps(bench.precision)}
    if bench.peer:
        ways[PEER] = bench.peer.codec_step(bench.peer.codec(first, critic, train).to(bench.device).train(), x)
    yield Stage("codec step, everything on", "picture", STEP_BATCH, ways, bench.floor(ways[PLAIN]))


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
    return GPT(config).eval().requires_grad_(False).to(device)


def prior(bench: Bench) -> Iterator[Stage]:
    """A prior's training step."""
    first = _prior("segmentation", torch.device("cpu"))
    codes = torch.randint(0, 1024, (STEP_BATCH, 16, 16))
    batch = Batch(codes.flatten(1), codes.flatten(1), {"segmentation": codes})
    train = PriorTrainConfig(dropout=0.0, condition_dropout=0.0)

    theirs = bench.peer.prior(first).to(bench.device).train() if bench.peer else None
    state = start_prior(first, train, bench.device, bench.precision)

    def steps(precision: torch.dtype) -> Way:
        def run() -> None:
            state.precision = precision
            prior_step(state, batch, train, train.learning_rate)

        return run

    ways: dict[str, Way] = {PLAIN: steps(torch.float32), OURS: steps(bench.precision)}
    if bench.peer:
        tokens = codes.flatten(1).repeat(1, 2).to(bench.device)
        ways[PEER] = bench.peer.prior_step(theirs, tokens, 256, train.learning_rate)
    yield Stage("prior step, 305 M", "token", STEP_BATCH * 256, ways, bench.floor(ways[PLAIN]))


def cached(bench: Bench) -> Iterator[Stage]:
    """Sampling a window with the cache, for one picture and for sixteen."""
    plain = _prior("class", bench.device)
    ours = pack(copy.deepcopy(plain).to(bench.precision))
    theirs = bench.peer.prior(plain).to(bench.device).eval() if bench.peer else None
    rows = DRAWN // 16
    keep = torch.arange(16)[:, None].expand(16, 16) >= rows
    weights = bench.precision.itemsize * (sum(p.numel() for p in plain.parameters()) - plain.tok_emb.weight.numel())
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
                given=Given(torch.zeros(1, 16, 16, dtype=torch.int64), keep),
            )

        ways: dict[str, Way] = {PLAIN: draw(plain), OURS: draw(ours)}
        if bench.peer:
            ways[PEER] = bench.peer.cached(theirs, classes.to(bench.device), DRAWN)
        floor = DRAWN * weights / bench.reads
        yield Stage(f"cached sampling, 305 M, {pictures} at once", "token", DRAWN * pictures, ways, floor)


def window(bench: Bench) -> Iterator[Stage]:
    """The sliding window over 52 x 80 cells at several strides; timed on a part."""
    plain = _prior("segmentation", bench.device)
    ours = pack(copy.deepcopy(plain).to(bench.precision))
    theirs = bench.peer.prior(plain).to(bench.device).eval() if bench.peer else None
    cells = LATENT[0] * LATENT[1]
    labels = torch.randint(0, 1024, (1, *LATENT))
    tokens = torch.zeros(1, 256, dtype=torch.int64, device=bench.device)

    @torch.no_grad()
    def full() -> None:
        for _ in range(FULL_CELLS):
            plain(tokens, tokens)[:, -1].softmax(-1)

    for stride in (1, 2, 4, 8):
        canvas = Canvas.blank(
            ours.config, size=LATENT, samples=1, conditions={"segmentation": labels}, stride=stride, device=bench.device
        )
        sampler = Sampler(ours, canvas, samples=[0], attempts=None, seed=0, decoding=DecodingConfig(), given=None)
        waves = sampler.unknown_parts()
        some = waves[len(waves) // WAVES // 2 :: max(1, len(waves) // WAVES)]

        @torch.inference_mode()
        def draw(sampler: Sampler = sampler, some: list[Any] = some, widest: int = max(map(len, waves))) -> None:
            cache = sampler.cache(widest)
            for wave in some:
                for _ in sampler.fill(wave, cache, widest):
                    pass

        ways: dict[str, Way] = {PLAIN: full, OURS: draw}
        parts = {PLAIN: cells / FULL_CELLS, OURS: len(waves) / len(some), PEER: cells / FULL_CELLS}
        if bench.peer:
            ways[PEER] = bench.peer.window(theirs, FULL_CELLS, 1)
        yield Stage(f"window, 52 x 80 cells, stride {stride}", "picture", 1, ways, None, parts)


def evaluation(bench: Bench) -> Iterator[Stage]:
    """Pictures seen by a feature network."""
    with tempfile.TemporaryDirectory() as folder:
        _write_jpegs(Path(folder), 64, (SIDE, SIDE))
        network = features.build("efficientnet-lite0").to(bench.device)
        pictures = side(Path(folder), device=bench.device)
        config = FeatureConfig(features="efficientnet-lite0")
        assert not config.size
        one = Look(network=network, batch_size=1, workers=1)
        yield Stage(
            "evaluation, efficientnet-lite0",
            "picture",
            64,
            {PLAIN: lambda: look(pictures, one), OURS: lambda: look(pictures, replace(one, batch_size=32, workers=2))},  # type: ignore[arg-type]
        )


def tokens(bench: Bench) -> Iterator[Stage]:
    """A folder of JPEGs to a token file, tiny codec; the floor is what the parts take by themselves on all cores."""
    codec = VQGAN(CodecConfig()).eval()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_jpegs(root / "images", JPEGS, (640, 480))
        items = list_items([root / "images"]).items
        save_model(root / "vq.safetensors", codec_file(codec, {"size": "128x128"}))
        made = iter(range(10**6))

        def run() -> None:
            tokenize(items, ckpt=root / "vq.safetensors", out=root / f"{next(made)}.h5", device=str(bench.device))

        used = codec.to(bench.device).to(memory_format=torch.channels_last)
        images = torch.randint(0, 256, (16, 3, 128, 128), dtype=torch.uint8)
        read = _seconds(lambda: [None for _ in eval_batches(items[:64], size=Size(128, 128), batch_size=16)], 5) / 64
        encoded = _seconds(lambda: tiles.encode(used, images), 5) / 16
        floor = JPEGS * (read / torch.get_num_threads() + encoded)
        yield Stage("tokenising JPEGs, tiny codec", "picture", JPEGS, {OURS: run}, floor)


def _seconds(run: Way, repeats: int) -> float:
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


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
