"""A training step of the codec or of the prior: what it does with values that are not finite, and how often it waits
for the device."""

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from taming_cli.codec import perturb, step
from taming_cli.codec import train as codec_training
from taming_cli.codec.adversarial import augmentation
from taming_cli.codec.adversarial.discriminator import Discriminator
from taming_cli.codec.perturb import Perturbation, near_entries
from taming_cli.codec.quantizers import gumbel, nearest
from taming_cli.codec.quantizers.averages import CodebookAverages
from taming_cli.codec.quantizers.nearest import Quantizer
from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.codec.state import CodecState, initial_state
from taming_cli.codec.step import Phase, codec_step
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.prior import PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import NonFiniteLossError
from taming_cli.prior import redraw
from taming_cli.prior import state as prior_state
from taming_cli.prior import train as prior_training
from taming_cli.prior.model import new_network
from taming_cli.runtime import pacing
from taming_cli.runtime.pacing import Pacing, Progress
from taming_cli.runtime.run.folder import Best, Place
from tests import test_prior_train as priors
from tests.test_codec_train import CODEC, DISCRIMINATOR, TRAIN, differing, fresh, take

FULL = Phase(discriminator=True, adversarial=1.0)


# --- values that are not finite ---------------------------------------------------------------------------------------


def refused(state: CodecState, train: CodecTrainConfig, now: Phase, what: str) -> None:
    """The step raises, and the whole state is afterwards bit for bit what it was before."""
    before = copy.deepcopy(state.state_dict())
    with pytest.raises(NonFiniteLossError, match=what):
        take(state, train, now)
    assert differing(before, state.state_dict()) == []


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("now", [Phase(discriminator=True, adversarial=0.0), FULL], ids=["learning", "counting"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_gradient_of_the_discriminator_updates_nothing(value: float, now: Phase, accumulate: int) -> None:
    train = replace(TRAIN, accumulate=accumulate)
    training = fresh(train)
    take(training, train, FULL)  # so that optimisers and averages hold something
    training.discriminator.main[0].weight.register_hook(lambda gradient: gradient * value)
    refused(training, train, now, r"step 2: disc_gradient is (nan|inf); .*--disc-learning-rate")


def test_an_overflow_in_the_discriminators_statistics_updates_nothing() -> None:
    """What a batch norm divides by an infinite variance is zero: loss and gradient stay finite."""
    training = fresh()
    with torch.no_grad():
        training.discriminator.main[2].weight.mul_(1e24)
    refused(training, TRAIN, FULL, "step 1: disc_statistics is (nan|inf)")


def test_a_non_finite_term_leaves_the_discriminators_statistics_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    training = fresh()
    take(training, TRAIN, FULL)
    monkeypatch.setattr("taming_cli.codec.losses.l1", lambda x, y: (x - y).abs().mean() * math.nan)
    refused(training, TRAIN, FULL, "step 2: l1 is nan")


def test_one_vector_alone_places_a_finite_codebook() -> None:
    """A batch of one picture of one code has no deviation."""
    quantizer = Quantizer(4, 2)
    averages = CodebookAverages(quantizer, decay=0.9, revive=0.1, learn=True)
    z = torch.ones(1, 2, 1, 1)
    averages.update(Quantized(z, z, torch.zeros(1, 1, 1, dtype=torch.int64)), torch.Generator())
    assert quantizer.embedding.weight.isfinite().all()


def test_what_is_not_requested_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("computed")

    for place in (
        "taming_cli.codec.losses.lecam",
        "taming_cli.codec.step.augmented",
        "taming_cli.codec.losses.class_distance",
        "taming_cli.codec.adversarial.discriminator.BlurredConv2d.forward",
    ):
        monkeypatch.setattr(place, never)
    training = fresh()
    report = take(training, TRAIN, FULL)
    assert set(report.terms) == {
        *("l1", "l2", "reconstruction", "codebook", "gradient"),
        *("discriminator", "generator", "adaptive", "logits_real", "logits_fake", "disc_gradient"),
    }
    assert training.logit_means == {}


# --- waiting ----------------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what waits for the device: reading from it by `to_host`, and plain copies from the CPU to it. Reading in
    any other way, torch itself refuses for the device `meta`, which has no values."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.steps = 0, list[int]()

    def on_step(self, progress: Progress) -> None:
        """As of a training: what has been counted since the step before."""
        if not progress.validation:
            self.steps.append(self.count)
            self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        moved = func is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("meta")
        self.count += moved and args[0].device.type == "cpu"
        return func(*args, **kwargs)


@contextlib.contextmanager
def device_without_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Trainings run on a device whose values cannot be read but through `to_host`, which gives threes."""
    waits = Waits()

    def to_host(tensor: Tensor) -> Tensor:
        waits.count += 1
        return torch.full(tensor.shape, 3.0, device="cpu")  # as many codes are to be revived

    def to_device(tensor: Tensor, device: torch.device) -> Tensor:
        moved = tensor.to(device)
        waits.count -= tensor.device.type == "cpu"
        return moved

    for module in (step, augmentation, gumbel, nearest, perturb, redraw, codec_training, prior_state, prior_training):
        for replacement in (to_host, to_device):
            if hasattr(module, replacement.__name__):
                monkeypatch.setattr(module, replacement.__name__, replacement)
    for module in (codec_training, prior_training):
        monkeypatch.setattr(module, "pick_device", lambda name: torch.device("meta"))
    monkeypatch.setattr(pacing, "best_of", lambda run, world: Best(run.last, 0, {}))  # nothing is saved
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which does not know `meta`
    with waits:
        yield waits


def without_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save reads the device, as a validation does; a line of the log comes every second step."""
    monkeypatch.setattr(Pacing, "_save", lambda _: None)
    monkeypatch.setattr(pacing, "LOG_EVERY", 2)


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"accumulate": 2, "disc_augment": ("colour", "translation", "cutout")}, 16),
        ({}, 4096),
    ],  # the second has fewer vectors than codes to place on them
    ids=["parts", "large"],
)
def test_a_codecs_step_waits_once_for_the_device(
    changes: dict[str, Any], codes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, train = replace(CODEC, codebook_size=codes), replace(TRAIN, **changes)
    with device_without_values(monkeypatch) as waits:
        with torch.device("meta"):
            training = initial_state(VQGAN(codec), VQGAN(codec), Discriminator(DISCRIMINATOR), train, torch.float32)
            x = torch.empty(2, 3, 32, 32)
        waits.count = 0
        codec_step(training, x, perceptual=None, config=train, now=FULL, learning_rate=1e-3)
        assert waits.count == 1
    assert [level.updates for level in training.codebook.levels] == [1]


@pytest.mark.parametrize("arch", [None, "modern", "any-order"], ids=["near", "raster", "any-order"])
def test_so_does_a_step_on_perturbed_codes(arch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = replace(TRAIN, train="decoder", init="codec.safetensors", perturb=0.5)
    prior = PriorConfig(arch=arch or "modern", n_layer=1, n_head=2, n_embd=16, window=Size(16, 16), codebook_size=16)
    with device_without_values(monkeypatch) as waits:
        with torch.device("meta"):
            training = initial_state(VQGAN(CODEC), VQGAN(CODEC), Discriminator(DISCRIMINATOR), train, torch.float32)
            network = new_network(prior).eval()
            x = torch.empty(2, 3, 32, 32)
        draw = partial(redraw.redraw, network) if arch else near_entries(training.codec.quantize.codebook)
        given = {"perceptual": None, "config": train, "now": FULL, "learning_rate": 1e-3}
        waits.count = 0
        codec_step(training, x, **given, perturb=Perturbation(share=0.5, seed=0, redraw=draw))
        assert waits.count == 1


def test_a_codecs_training_waits_once_a_step_and_once_more_for_each_line_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(4):
        Image.new("RGB", (32, 32), (60 * number, 90, 30)).save(tmp_path / f"{number}.png")
    train = replace(TRAIN, steps=3, disc_train_start=0.0, disc_start=0.0, disc_ramp=0.0)
    with device_without_values(monkeypatch) as waits:
        monkeypatch.setattr(codec_training, "_validate", lambda *_: None)
        without_saving(monkeypatch)
        place = Place(out=tmp_path / "run")
        codec_training.fit(
            [tmp_path], codec=CODEC, discriminator=DISCRIMINATOR, train=train, place=place, on_step=waits.on_step
        )
    assert waits.steps[1:] == [2, 1]  # before the first step the networks are copied


def test_a_priors_training_waits_once_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = priors.tokens(tmp_path / "t.h5")
    train = replace(priors.TRAIN, steps=4, accumulate=2)
    with device_without_values(monkeypatch) as waits:
        monkeypatch.setattr(prior_training, "_validate", lambda *_: None)
        without_saving(monkeypatch)
        given = {"prior": priors.PRIOR, "train": train, "codec": priors.CODEC, "place": Place(out=tmp_path / "run")}
        prior_training.fit([file], **given, on_step=waits.on_step)
    assert waits.steps[1:] == [1, 1, 1]
