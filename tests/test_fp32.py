"""Where fp32 is ieee_for, torch's settings of TF32 are off while it is computed, and afterwards as they were."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from taming_cli.cli.app import main
from taming_cli.codec import state as codec_state
from taming_cli.codec.autoencoder import Decoder, Encoder
from taming_cli.codec.quantizers.gumbel import GumbelQuantizer
from taming_cli.codec.quantizers.nearest import Quantizer
from taming_cli.codec.step import Phase, codec_step
from taming_cli.codec.tiling import tiles
from taming_cli.codec.vqgan import codec_file
from taming_cli.config.codec import DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.pretrained.classifiers import Classifier
from taming_cli.pretrained.perceptual import EfficientNetDistance
from taming_cli.prior import state as prior_state
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.predictions import TokenBatch
from taming_cli.runtime.checkpoint import save_model
from taming_cli.runtime.device import autocast
from taming_cli.sampling.pipeline import Pipeline
from tests.toys import CODEC, toy_codec

CPU = torch.device("cpu")
BACKENDS: Any = torch.backends


def settings() -> dict[str, Any]:
    """All that torch says of TF32, by either of its interfaces."""
    found = {
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": torch.backends.cudnn.allow_tf32,
        "cuda": torch.backends.cuda.matmul.allow_tf32,
    }
    if hasattr(getattr(BACKENDS.cudnn, "conv", None), "fp32_precision"):
        for name in ("cudnn.conv", "cudnn.rnn", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul"):
            place, _, operation = name.partition(".")
            found[name] = getattr(getattr(BACKENDS, place), operation).fp32_precision
    return found


def is_exact(found: dict[str, Any]) -> bool:
    new = {value for name, value in found.items() if "." in name}
    return found["matmul"] == "highest" and not found["cudnn"] and not found["cuda"] and new <= {"ieee"}


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """A host program that allows TF32 everywhere."""
    torch.set_float32_matmul_precision("high")
    before = settings()
    assert not is_exact(before)
    yield
    after = settings()
    torch.set_float32_matmul_precision("highest")
    assert after == before


class Seen:
    """What torch's settings were each time that one of these modules ran, or its gradient was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.by = monkeypatch, dict[str, list[bool]]()

    def watch(self, kind: type[nn.Module], name: str = "forward", *, backward: bool = False) -> None:
        seen, original = self.by.setdefault(kind.__name__, []), getattr(kind, name)

        def watched(module: nn.Module, x: Tensor, *rest: Any) -> Any:
            seen.append(is_exact(settings()))
            made = original(module, x, *rest)
            if backward and isinstance(made, Tensor) and made.requires_grad:
                made.register_hook(lambda _: seen.append(is_exact(settings())))
            return made

        self.monkeypatch.setattr(kind, name, watched)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def assert_all(seen: Seen) -> None:
    for name, found in seen.by.items():
        assert found, name
        assert all(found), name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model(Path("codec.safetensors"), codec_file(toy_codec(), {}))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        (["tokenize", "a.png", "--ckpt", "codec.safetensors", "-o", "t.h5"], Encoder),
        (["reconstruct", "a.png", "out", "--ckpt", "codec.safetensors"], Decoder),
        (["eval", "recon", "codec.safetensors", "a.png"], Decoder),
        (["eval", "codebook", "codec.safetensors", "a.png"], Encoder),
    ],
    ids=lambda line: " ".join(line[:2]) if isinstance(line, list) else "",
)
def test_commands_compute_in_fp32(line: list[str], runs: type[nn.Module], here: Path, seen: Seen) -> None:
    seen.watch(runs)
    if "recon" in line:
        seen.watch(EfficientNetDistance, "activations")
    assert main([*line, "--device", "cpu"]) == 0
    assert_all(seen)


@pytest.mark.parametrize(
    "call",
    [
        lambda codec: codec.encode(torch.zeros(1, 3, 32, 32)),
        lambda codec: codec.decode(torch.zeros(1, 4, 4, dtype=torch.int64)),
        lambda codec: tiles.encode(codec, torch.zeros(1, 3, 64, 64, dtype=torch.uint8), budget=2**20),
        lambda codec: tiles.decode(codec, torch.zeros(1, 32, 32, dtype=torch.int64), finish=lambda x: x, budget=2**20),
    ],
    ids=["encode", "decode", "encode in tiles", "decode in tiles"],
)
def test_the_library_computes_in_fp32(call: Callable[[Any], Any], seen: Seen) -> None:
    seen.watch(nn.Conv2d)
    call(toy_codec())
    assert_all(seen)


def test_a_pipeline_computes_in_the_precision_that_it_was_given(seen: Seen) -> None:
    gpt = GPT(PriorConfig(arch="modern", n_layer=1, n_head=1, n_embd=8, window=Size(2, 2), codebook_size=64))
    values: dict[str, Any] = {"encoders": {}, "about": {}, "path": Path("p"), "sha256": "", "device": CPU}
    pipeline = Pipeline(gpt=gpt, codec=toy_codec(), precision=torch.float32, **values)
    seen.watch(nn.Conv2d)
    pipeline.decode(torch.zeros(1, 4, 4, dtype=torch.int64))
    pipeline.encode(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert_all(seen)


@pytest.mark.parametrize("make", [lambda: Quantizer(8, 4), lambda: GumbelQuantizer(8, 4, 4)], ids=["nearest", "gumbel"])
def test_quantization_is_exact_under_any_autocast(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []
    for kind in (Quantizer, GumbelQuantizer):
        original = kind.lookup

        def lookup(module: Any, codes: Tensor, original: Any = original) -> Tensor:
            found.append(is_exact(settings()))
            made: Tensor = original(module, codes)
            return made

        monkeypatch.setattr(kind, "lookup", lookup)
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            make().eval()(torch.randn(1, 4, 2, 2))
    assert found == [True, True]


@pytest.mark.parametrize(("precision", "exact"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_training_in_fp32_is_exact_forward_and_back(precision: torch.dtype, exact: bool, seen: Seen) -> None:
    seen.watch(nn.Conv2d, backward=True)
    seen.watch(nn.Linear, backward=True)
    train = CodecTrainConfig(perceptual="none", revive=0.0, size=Size(32, 32))
    state = codec_state.start(toy_codec(CODEC).train(), DiscriminatorConfig(disc_ndf=8), train, CPU, precision)
    now = Phase(discriminator=True, adversarial=1.0)
    codec_step(state, torch.rand(2, 3, 32, 32), perceptual=None, config=train, now=now, learning_rate=1e-4)
    gpt = GPT(PriorConfig(arch="modern", n_layer=1, n_head=1, n_embd=8, window=Size(2, 2), codebook_size=64))
    settled = PriorTrainConfig(dropout=0.0)
    prior = prior_state.start(gpt, settled, CPU, precision)
    codes = torch.zeros(2, 4, dtype=torch.int64)
    prior_state.prior_step(prior, TokenBatch(codes, codes, {}), settled, 1e-4)
    for name, found in seen.by.items():
        assert len(found) > 4, name
        assert all(found) or not exact, name


def test_a_classifier_and_an_autocast_to_fp32_are_exact() -> None:
    found = []

    class Toy(Classifier):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.recipe: Any = lambda pictures: pictures.float()

        def logits(self, prepared: Tensor) -> Tensor:
            found.append(is_exact(settings()))
            return prepared.flatten(1)

    Toy()(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with autocast(CPU, torch.float32), autocast(CPU, torch.float32):
        found.append(is_exact(settings()))
    with pytest.raises(ZeroDivisionError), autocast(CPU, torch.float32):
        _ = 1 / 0
    assert found == [True, True]


@pytest.mark.parametrize("level", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_whatever_the_host_program_has_set_comes_back(level: str, convolutions: bool) -> None:
    was = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(level)
    torch.backends.cudnn.allow_tf32 = convolutions
    try:
        before = settings()
        with autocast(CPU, torch.float32):
            assert is_exact(settings())
        assert settings() == before
    finally:
        torch.backends.cudnn.allow_tf32 = was
        torch.set_float32_matmul_precision("high")


def test_one_threads_end_does_not_cut_anothers_short() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with autocast(CPU, torch.float32):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with autocast(CPU, torch.float32):
        thread.start()
        entered.wait(10)
    inside = is_exact(settings())
    leave.set()
    thread.join()
    assert inside
    assert not is_exact(settings())
