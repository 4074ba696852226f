"""Training a codec: exact resume, what is refused, what the step computes, and what ends up in the files."""

import copy
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from taming_cli.codec import losses
from taming_cli.codec import train as training
from taming_cli.codec.setup import held_out, set_up
from taming_cli.codec.state import CodecState, start
from taming_cli.codec.step import Phase, codec_step, phase
from taming_cli.codec.train import TrainedCodec, fit
from taming_cli.codec.validate import validate
from taming_cli.codec.vqgan import VQGAN, codec_from
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import from_dict
from taming_cli.config.size import Size
from taming_cli.data.batches import train_batches
from taming_cli.data.images import to_float
from taming_cli.data.split import digest
from taming_cli.errors import Interrupted, NonFiniteLossError, UsageError
from taming_cli.pretrained.perceptual import build as build_perceptual
from taming_cli.runtime.checkpoint import load_model, load_trainer
from taming_cli.runtime.cost import cost
from taming_cli.runtime.pacing import Progress
from taming_cli.runtime.run.folder import Place, read_settings
from tests import toys

CODEC = replace(toys.CODEC, dropout=0.1, codebook_size=16)
DISCRIMINATOR = DiscriminatorConfig(disc_ndf=4, disc_num_layers=2, disc_loss="hinge")
DVAE = {"network": "dvae", "codebook": "gumbel", "ch": 8, "ch_mult": (1, 2)}
VQ_VAE_2 = {"network": "vq-vae-2", "ch": 8, "n_res_channel": 4}
TRAIN = CodecTrainConfig(
    size=Size(32, 32),
    steps=12,
    minutes=0.0,
    batch_size=2,
    learning_rate=2e-3,
    disc_learning_rate=1e-3,
    warmup=2,
    clip=1.0,
    ema=0.9,
    perceptual="none",
    disc_weight=0.5,
    disc_train_start=0.25,
    disc_start=0.5,
    disc_ramp=0.25,
    quantizer="ema",
    codebook_decay=0.9,
    revive=0.3,
    held=0.3,
    val_every=0.25,
    save_every=60.0,
    seed=3,
    device="cpu",
    precision="fp32",
    workers=0,
    cache=16,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of smooth random colours, in two folders."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(10):
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = folder / ("even", "odd")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(small).resize((44, 36), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> Callable[..., TrainedCodec]:
    def train_as(name: str, *, train: CodecTrainConfig = TRAIN, **options: Any) -> TrainedCodec:
        place = Place(name=name, root=tmp_path / "runs")
        return fit(
            [pictures], **{"codec": CODEC, "discriminator": DISCRIMINATOR, "train": train, "place": place, **options}
        )

    return train_as


@pytest.fixture(scope="module")
def first(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedCodec:
    """One undisturbed training that several tests start from, or compare with; every step is in its log."""
    place = Place(out=tmp_path_factory.mktemp("first") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 1)
        return fit([pictures], codec=CODEC, discriminator=DISCRIMINATOR, train=TRAIN, place=place)


@pytest.fixture
def taken(first: TrainedCodec, tmp_path: Path) -> Path:
    """A copy of that run, under the name `taken`."""
    folder = tmp_path / "runs" / "train-vqgan" / "taken"
    shutil.copytree(first.run, folder)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_at(step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step and not progress.validation:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping from dotted names to leaves."""
    if isinstance(value, Mapping):
        value = [(key, value[key]) for key in sorted(value, key=str)]
    elif isinstance(value, list | tuple):
        value = list(enumerate(value))
    else:
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, one in value:
        leaves |= flat(one, f"{name}.{key}" if name else str(key))
    return leaves


def differing(one: Any, other: Any) -> list[str]:
    """The names under which two nested states are not bit for bit the same."""
    a, b = flat(one), flat(other)
    same = {
        name
        for name in a.keys() & b.keys()
        if (torch.equal(a[name], b[name]) if isinstance(a[name], Tensor) else a[name] == b[name])
    }
    return sorted((a.keys() | b.keys()) - same)


def lines(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if line["kind"] == kind]


def assert_same_end(one: TrainedCodec, other: TrainedCodec) -> None:
    for name in ("last", "best"):
        a, b = load_model(getattr(one, name)), load_model(getattr(other, name))
        assert differing(a.tensors, b.tensors) == []
        assert (a.config, a.about) == (b.config, b.about)
    assert set(differing(*(load_trainer(done.run / "trainer.pt") for done in (one, other)))) <= {"seconds"}
    assert one.validation == other.validation


# --- stop and resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantizer": "vq", "revive": 0.0},
        {"perceptual": "efficientnet-lite0", "steps": 6, "val_every": 0.5},
        {"codec": {"codebook": "gumbel"}},
        {"codec": DVAE, "disc_weight": 0.0},
        {"codec": {"patch_size": 2, "shortcut": True}, "accumulate": 2},
        {"codec": VQ_VAE_2},
        {"codec": VQ_VAE_2, "quantizer": "vq", "disc_weight": 0.0, "accumulate": 2},
        {
            "steps": 6,
            "val_every": 0.5,
            "quantize_start": 0.5,
            "lecam_weight": 0.5,
            **{"perceptual": "efficientnet-lite0", "logits_weight": 0.1},
            "disc_augment": ("colour", "translation", "cutout"),
        },
    ],
    ids=["ema", "vq", "perceptual", "gumbel", "dvae", "patches-shortcut", "vq-vae-2", "vq-vae-2-vq", "elements"],
)
def test_a_stopped_and_resumed_training_ends_bit_for_bit_like_an_undisturbed_one(
    changes: dict[str, Any], run: Callable[..., TrainedCodec], first: TrainedCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 1)
    changes = {**changes}
    codec = replace(CODEC, **changes.pop("codec", {}))
    settings = {"train": replace(TRAIN, **changes), "codec": codec}
    whole = run("whole", **settings) if (changes, codec) != ({}, CODEC) else first
    for step in (2, 5) if changes.get("steps") == 6 else (1, 7, 11):
        with pytest.raises(
            Interrupted, match=f"after step {step}, everything is saved; resume with: taming train-vqgan"
        ):
            run("parts", **settings, on_step=stop_at(step))
    parts = run("parts", **settings)
    assert_same_end(whole, parts)
    for kind in ("train", "validation"):
        timeless = {"seconds": 0, "images_per_second": 0, "waiting_seconds": 0}
        logged = [[{**line, **timeless} for line in lines(done.run, kind)] for done in (whole, parts)]
        assert logged[0] == logged[1]


@pytest.mark.parametrize("part", ["codebook.sums", "discriminator_optimizer.state.0.exp_avg"])
def test_a_resume_that_forgot_something_would_be_noticed(
    part: str, run: Callable[..., TrainedCodec], first: TrainedCodec, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run("parts", on_step=stop_at(10))
    trainer = tmp_path / "runs" / "train-vqgan" / "parts" / "trainer.pt"
    state = load_trainer(trainer)
    flat(state)[part].zero_()
    torch.save(state, trainer)
    assert differing(load_trainer(first.run / "trainer.pt"), load_trainer(run("parts").run / "trainer.pt"))


def test_a_finished_run_started_again_is_left_as_it_is(
    run: Callable[..., TrainedCodec], first: TrainedCodec, taken: Path
) -> None:
    before = {path: data for path, data in contents(taken).items() if path.suffix in (".safetensors", ".pt", ".jsonl")}
    again = run("taken")
    assert (again.step, again.validation) == (first.step, first.validation)
    assert before.items() <= contents(taken).items()


def test_snapshots_keep_the_model_of_each_validation(run: Callable[..., TrainedCodec]) -> None:
    done = run("kept", train=replace(TRAIN, snapshots=True))
    kept = sorted(done.run.glob("checkpoints/step_*.safetensors"))
    assert [path.name for path in kept] == [f"step_{step:07d}.safetensors" for step in (3, 6, 9, 12)]
    assert [load_model(path).about["step"] for path in kept] == [3, 6, 9, 12]
    assert differing(load_model(kept[-1]).tensors, load_model(done.last).tensors) == []
    assert differing(load_model(kept[0]).tensors, load_model(done.last).tensors)


@pytest.mark.usefixtures("taken")
def test_more_steps_go_on_with_a_finished_run(run: Callable[..., TrainedCodec]) -> None:
    longer = run("taken", train=replace(TRAIN, steps=15))
    assert (longer.step, load_model(longer.last).about["images_seen"]) == (15, 30)


@pytest.mark.parametrize("missing", ["last", "best", "both"])
def test_what_a_kill_after_the_trainer_file_left_unwritten_is_written_on_resume(
    missing: str, run: Callable[..., TrainedCodec]
) -> None:
    train = replace(TRAIN, steps=2, val_every=1.0)
    whole = run("whole", train=train)
    assert load_model(whole.best).about["step"] == 2  # the only validation is the best: one save writes both
    damaged = whole.run.parent / "damaged"
    shutil.copytree(whole.run, damaged)
    for name in ("last", "best"):
        if missing in (name, "both"):
            (damaged / "checkpoints" / f"{name}.safetensors").unlink()
    assert_same_end(whole, run("damaged", train=train))


def test_a_trainer_file_without_later_members_is_read() -> None:
    state = fresh()
    take(state, TRAIN, Phase(discriminator=True, adversarial=1.0))
    saved = state.state_dict()
    del saved["logit_means"]
    again = fresh()
    again.load_state_dict(saved)
    assert differing(again.state_dict(), state.state_dict()) == []


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"train": replace(TRAIN, batch_size=3)}, "batch_size"),
        ({"codec": replace(CODEC, codebook_size=32)}, "codebook_size"),
        ({"discriminator": replace(DISCRIMINATOR, disc_ndf=8)}, "disc_ndf"),
    ],
)
def test_another_config_under_the_same_name_is_refused(
    changes: dict[str, Any], word: str, run: Callable[..., TrainedCodec], taken: Path
) -> None:
    before = contents(taken)
    with pytest.raises(UsageError, match=word):
        run("taken", **changes)
    assert contents(taken) == before


def test_other_pictures_under_the_same_name_are_refused(pictures: Path, taken: Path, tmp_path: Path) -> None:
    others, before = tmp_path / "others", contents(taken)
    shutil.copytree(pictures, others)
    (others / "odd" / "1.png").unlink()
    place = Place(name="taken", root=tmp_path / "runs")
    with pytest.raises(UsageError, match=r"0 added, 1 gone in .*others\).* --init .*taken/checkpoints/last"):
        fit([others], codec=CODEC, discriminator=DISCRIMINATOR, train=TRAIN, place=place)
    assert contents(taken) == before


def test_a_size_that_f_does_not_divide_is_refused_before_anything_is_made(
    run: Callable[..., TrainedCodec], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"nearest .* 3[24]x3[24]"):
        run("odd", train=replace(TRAIN, size=Size(33, 33)))
    assert not (tmp_path / "runs").exists()


# --- init and decoder -------------------------------------------------------------------------------------------------


def test_training_the_decoder_alone_keeps_the_codec_hash_and_the_codes(
    first: TrainedCodec, run: Callable[..., TrainedCodec], pictures: Path
) -> None:
    tuned = run("decoder", train=replace(TRAIN, train="decoder", init=str(first.best), disc_start=0.0))
    before, after = load_model(first.best), load_model(tuned.last)
    assert after.about["codec_sha256"] == before.about["codec_sha256"]
    changed = differing(before.tensors, after.tensors)
    assert changed
    assert {name.split(".")[0] for name in changed} == {"decoder", "post_quant_conv"}
    with Image.open(pictures / "even" / "0.png") as image:
        x = to_float(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
    old, new = codec_from(before, "before"), codec_from(after, "after")
    assert torch.equal(old.encode(x), new.encode(x))
    assert new.sha256() == before.about["codec_sha256"]


def test_decoder_without_init_is_refused(run: Callable[..., TrainedCodec]) -> None:
    with pytest.raises(UsageError, match="--init"):
        run("decoder", train=replace(TRAIN, train="decoder"))


def test_init_starts_from_the_given_weights(first: TrainedCodec, run: Callable[..., TrainedCodec]) -> None:
    still = replace(TRAIN, init=str(first.last), steps=1, learning_rate=0.0, ema=0.0, quantizer="vq", revive=0.0)
    done = run("still", train=still)
    assert differing(load_model(first.last).tensors, load_model(done.last).tensors) == []
    other = run("other", train=replace(still, init=None))
    assert differing(load_model(first.last).tensors, load_model(other.last).tensors)


def test_init_keeps_what_the_codebook_has_learnt(first: TrainedCodec, run: Callable[..., TrainedCodec]) -> None:
    """Fine-tuning goes on from the codebook: one step on the same pictures moves it a little, not to a new place."""
    still = replace(TRAIN, init=str(first.last), steps=1, learning_rate=0.0, ema=0.0, codebook_decay=0.99)
    before = load_model(first.last).tensors["quantize.embedding.weight"]
    after = load_model(run("still", train=still).last).tensors["quantize.embedding.weight"]
    moved = (after - before).norm(dim=1) / before.std(0).norm()
    assert moved.median() < 0.1, moved


def test_a_run_continues_from_another_folder_and_without_its_init_file(
    first: TrainedCodec,
    run: Callable[..., TrainedCodec],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(first.last, tmp_path / "init.safetensors")
    monkeypatch.chdir(tmp_path)
    val = os.path.relpath(pictures, tmp_path)
    done = run("tuned", train=replace(TRAIN, init="init.safetensors", val=val))
    Path("init.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorded = from_dict(CodecTrainConfig, read_settings(done.run)["config"]["train"], "config.json")
    assert run("tuned", train=replace(recorded, steps=TRAIN.steps + 1)).step == TRAIN.steps + 1


def test_init_of_another_architecture_is_refused(first: TrainedCodec, run: Callable[..., TrainedCodec]) -> None:
    with pytest.raises(UsageError, match="codebook_size"):
        run("other", codec=replace(CODEC, codebook_size=32), train=replace(TRAIN, init=str(first.best)))


# --- the discriminator's timing ---------------------------------------------------------------------------------------


def test_the_discriminator_trains_first_and_its_term_then_ramps_in() -> None:
    assert phase(TRAIN, 0.0)[:2] == (False, 0.0)
    assert phase(TRAIN, 0.2499)[:2] == (False, 0.0)
    assert phase(TRAIN, 0.25)[:2] == (True, 0.0)
    assert phase(TRAIN, 0.4999)[:2] == (True, 0.0)
    assert phase(TRAIN, 0.625)[:2] == (True, 0.5)
    assert phase(TRAIN, 0.75)[:2] == (True, 1.0)
    assert phase(TRAIN, 1.0)[:2] == (True, 1.0)


def test_without_a_ramp_the_term_counts_at_once_and_without_weight_there_is_no_discriminator() -> None:
    assert phase(replace(TRAIN, disc_ramp=0.0), 0.5)[:2] == (True, 1.0)
    assert phase(replace(TRAIN, disc_ramp=0.0), 0.4999)[:2] == (True, 0.0)
    assert phase(replace(TRAIN, disc_weight=0.0), 0.9)[:2] == (False, 0.0)


def test_a_discriminator_never_starts_after_its_term_counts() -> None:
    late = replace(TRAIN, disc_train_start=0.9, disc_start=0.5)
    assert phase(late, 0.6).discriminator


def test_the_log_shows_discriminator_and_generator_from_their_steps_on(first: TrainedCodec) -> None:
    logged = lines(first.run)
    assert [line["step"] for line in logged] == list(range(1, 13))
    assert [line["step"] for line in logged if "discriminator" in line] == list(range(4, 13))
    # At step 7 half is spent, and the ramp is at its foot, where the term has no weight yet.
    assert [line["step"] for line in logged if "adaptive" in line] == list(range(8, 13))


# --- one step ---------------------------------------------------------------------------------------------------------


def fresh(train: CodecTrainConfig = TRAIN, codec: CodecConfig = CODEC) -> CodecState:
    torch.manual_seed(5)
    return start(VQGAN(replace(codec, dropout=0.0)), DISCRIMINATOR, train, torch.device("cpu"), torch.float32)


def batch(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)


def take(
    state: CodecState, train: CodecTrainConfig, now: Phase, images: Tensor | None = None, rate: float = 1e-3
) -> Any:
    images = batch() if images is None else images
    return codec_step(state, to_float(images), perceptual=None, config=train, now=now, learning_rate=rate)


@pytest.mark.parametrize("loss", ["hinge", "vanilla"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_gradients_are_those_of_the_whole_loss_differentiated_at_once(legacy: bool, loss: Any) -> None:
    weights = {"l1_weight": 0.7, "l2_weight": 0.3, "codebook_weight": 1.5}
    train = replace(TRAIN, quantizer="vq", revive=0.0, clip=0.0, legacy=legacy, **weights)
    torch.manual_seed(5)
    codec = VQGAN(replace(CODEC, dropout=0.0))
    state = start(codec, replace(DISCRIMINATOR, disc_loss=loss), train, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        state.codec.quantize.embedding.weight.normal_()
    twin, discriminator = copy.deepcopy(state.codec), copy.deepcopy(state.discriminator)
    report = take(state, train, Phase(discriminator=True, adversarial=0.5), rate=0.0)

    x = to_float(batch())
    x_rec, quantized = twin(x)
    rec = 0.7 * (x - x_rec).abs().mean() + 0.3 * (x - x_rec).square().mean()
    gen = -discriminator(x_rec).mean()
    last = twin.decoder.conv_out.weight
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (rec, gen)]
    adaptive = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4)
    z_e, z_q = quantized.z_e, quantized.z_q
    to_codebook, to_encoder = (z_q - z_e.detach()).square().mean(), (z_e - z_q.detach()).square().mean()
    codebook = 0.25 * to_codebook + to_encoder if legacy else to_codebook + 0.25 * to_encoder
    (rec + 0.5 * 0.5 * adaptive.detach() * gen + 1.5 * codebook).backward()

    torch.testing.assert_close(report.terms["adaptive"], adaptive)
    torch.testing.assert_close(report.terms["codebook"], codebook.detach())
    for (name, ours), theirs in zip(state.codec.named_parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-3, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
    norm = torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(report.terms["gradient"], norm, rtol=1e-3, atol=1e-6)


def test_the_discriminator_learns_from_the_same_reconstruction_by_its_own_loss() -> None:
    train = replace(TRAIN, quantizer="vq", revive=0.0)
    state = fresh(train)
    twin, discriminator = copy.deepcopy(state.codec), copy.deepcopy(state.discriminator)
    take(state, train, Phase(discriminator=True, adversarial=0.0))
    x = to_float(batch())
    real, fake = discriminator(x), discriminator(twin(x).x_rec.detach())
    ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()).div(2).backward()
    for ours, theirs in zip(state.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_the_lecam_term_compares_with_averages_of_the_steps_before() -> None:
    train = replace(TRAIN, lecam_weight=0.5, quantizer="vq", revive=0.0)
    state = fresh(train)
    now, x = Phase(discriminator=True, adversarial=0.0), to_float(batch())
    seen = [take(state, train, now).terms for _ in range(2)]
    means = {
        name: 0.99 * float(seen[0][f"logits_{name}"]) + 0.01 * float(seen[1][f"logits_{name}"])
        for name in ("real", "fake")
    }
    assert seen[0]["lecam"] == 0
    assert state.logit_means == pytest.approx(means, rel=1e-12)
    twin, discriminator = copy.deepcopy(state.codec), copy.deepcopy(state.discriminator)
    third = take(state, train, now).terms

    real, fake = discriminator(x), discriminator(twin(x).x_rec.detach())
    lecam = (real - means["fake"]).clamp(min=0).square().mean() + (means["real"] - fake).clamp(min=0).square().mean()
    hinge = ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()).div(2)
    (hinge + 0.5 * lecam).backward()
    torch.testing.assert_close(third["lecam"], lecam.detach(), rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(state.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("quantizer", ["ema", "vq"])
def test_before_quantisation_codec_is_an_autoencoder_and_the_codebook_follows_its_vectors(quantizer: str) -> None:
    train = replace(TRAIN, quantizer=quantizer, clip=0.0, quantize_start=0.5)
    state = fresh(train)
    for number in range(2):
        twin, x = copy.deepcopy(state.codec), to_float(batch(number))
        vectors = twin.quantized(x).z_e
        x_rec = twin.decoder(twin.post_quant_conv(vectors))
        ((x - x_rec).abs().mean() + 2 * (x - x_rec).square().mean()).backward()
        report = take(state, train, phase(train, 0.0), batch(number))
        torch.testing.assert_close(report.terms["l1"], (x - x_rec).abs().mean().detach())
        for (name, ours), theirs in zip(state.codec.named_parameters(), twin.parameters(), strict=True):
            expected = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
            grad = expected if ours.grad is None else ours.grad
            torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
        rows = vectors.detach().permute(0, 2, 3, 1).flatten(0, 2)
        for codec in (state.codec, state.average):
            assert (codec.entries().detach()[:, None] - rows).abs().sum(2).min(1).values.max() < 1e-5
    twin = copy.deepcopy(state.codec)
    found, expected = take(state, train, phase(train, 0.5), batch(1)).terms["l1"], twin(x).x_rec
    torch.testing.assert_close(found, (x - expected).abs().mean().detach())
    assert state.codebook.levels[0].updates == 2  # not placed anew


def test_one_autoencoder_forward_serves_both_optimisers() -> None:
    state, calls = fresh(), []
    state.codec.encoder.register_forward_hook(lambda *_: calls.append("encoder"))
    state.codec.decoder.conv_out.register_forward_hook(lambda *_: calls.append("decoder"))
    take(state, TRAIN, Phase(discriminator=True, adversarial=1.0))
    assert calls == ["encoder", "decoder"]


def test_a_discriminator_whose_term_does_not_count_changes_nothing_of_the_codec() -> None:
    alone, watched, criterion = fresh(), fresh(), fresh()
    discriminator = copy.deepcopy(watched.discriminator.state_dict())
    for state, now in ((alone, Phase(False, 0.0)), (watched, Phase(True, 0.0)), (criterion, Phase(True, 1.0))):
        take(state, TRAIN, now)
    assert differing(alone.codec.state_dict(), watched.codec.state_dict()) == []
    assert differing(alone.codec.state_dict(), criterion.codec.state_dict())
    assert differing(discriminator, watched.discriminator.state_dict())
    assert differing(discriminator, alone.discriminator.state_dict()) == []


def four() -> Tensor:
    return torch.cat([batch(1), batch(2)])


def gradients(state: CodecState) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in state.codec.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("accumulate", [2, 3, 9])
def test_the_parts_of_a_step_add_up_to_the_whole(accumulate: int) -> None:
    train = replace(TRAIN, quantizer="vq", clip=0.0)
    now = Phase(discriminator=False, adversarial=0.0)
    whole, parted = fresh(train), fresh(train)
    reports = [
        take(state, replace(train, accumulate=parts), now, four())
        for state, parts in ((whole, 1), (parted, accumulate))
    ]
    assert torch.equal(reports[0].codes, reports[1].codes)
    torch.testing.assert_close(reports[1].terms, reports[0].terms, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients(parted), gradients(whole), rtol=1e-3, atol=1e-6)
    assert parted.images_seen == 4


def test_a_perceptual_network_looks_at_each_picture_alike_in_one_part_and_in_two() -> None:
    perceptual = build_perceptual("efficientnet-lite0", classify=True)
    terms = []
    for parts in (1, 2):
        weights = {"perceptual": "efficientnet-lite0", "logits_weight": 0.3}
        train, now = replace(TRAIN, accumulate=parts, **weights), Phase(discriminator=False, adversarial=0.0)
        x = to_float(four())
        terms.append(codec_step(fresh(), x, perceptual=perceptual, config=train, now=now, learning_rate=0.0).terms)
    torch.testing.assert_close(terms[1], terms[0], rtol=1e-3, atol=1e-6)
    x_rec, shown = fresh().codec(x).x_rec, perceptual.features
    logits = [shown(each, 0).logits for each in (x, x_rec)]
    torch.testing.assert_close(terms[0]["logits"], (logits[0] - logits[1]).square().sum() / 4000, rtol=1e-3, atol=1e-6)
    weighted = {"l1": 1.0, "l2": 2.0, "perceptual": 0.2, "logits": 0.3}
    total = sum(weight * terms[0][name] for name, weight in weighted.items())
    torch.testing.assert_close(terms[0]["reconstruction"], total)


def test_activations_made_again_are_the_same_and_fewer_are_kept() -> None:
    codec = replace(CODEC, num_res_blocks=2)
    now, kept, found = Phase(discriminator=True, adversarial=1.0), [], []
    for again in (False, True):
        train = replace(TRAIN, gradient_checkpointing=again)
        torch.manual_seed(5)
        state = start(VQGAN(codec), DISCRIMINATOR, train, torch.device("cpu"), torch.float32)  # with dropout
        torch.manual_seed(6)
        kept.append(cost(lambda state=state, train=train: take(state, train, now)).peak)
        found.append(state.codec.state_dict())
    assert differing(*found) == []
    assert kept[1] < 0.7 * kept[0]


def test_the_average_follows_the_weights_by_its_formula() -> None:
    train = replace(TRAIN, ema=0.5, quantizer="vq", revive=0.0)
    state = fresh(train)
    expected = {name: p.detach().clone() for name, p in state.codec.named_parameters()}
    for step in range(1, 8):
        take(state, train, Phase(False, 0.0), batch(step))
        decay = min(0.5, (1 + step) / (10 + step))
        for name, p in state.codec.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
    for name, p in state.average.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("term", ["l1", "codebook", "discriminator", "generator"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_term_stops_before_the_update_and_is_named(
    term: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = {
        "l1": "l1",
        "codebook": "codebook_loss",
        "discriminator": "discriminator_loss",
        "generator": "generator_loss",
    }[term]
    state = fresh()
    take(state, TRAIN, Phase(True, 1.0))
    before = copy.deepcopy(state.state_dict())
    true = getattr(losses, function)
    monkeypatch.setattr(f"taming_cli.codec.losses.{function}", lambda *a, **k: true(*a, **k) * value)
    with pytest.raises(NonFiniteLossError, match=rf"step 2: {term} is -?(nan|inf); .*--learning-rate"):
        take(state, TRAIN, Phase(True, 1.0))
    assert differing(before, state.state_dict()) == []


def test_a_non_finite_gradient_of_finite_losses_stops_too(monkeypatch: pytest.MonkeyPatch) -> None:
    state = fresh()
    before = copy.deepcopy(state.state_dict())
    state.codec.encoder.conv_in.weight.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NonFiniteLossError, match="step 1: gradient is nan"):
        take(state, TRAIN, Phase(False, 0.0))
    assert differing(before, state.state_dict()) == []


def test_a_non_finite_loss_leaves_the_saved_run_as_it_was(
    run: Callable[..., TrainedCodec], first: TrainedCodec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "taming_cli.runtime.pacing.LOG_EVERY", 1
    )  # as for `first`: the trainer file keeps what is unlogged
    true = codec_step

    def breaks_at_8(state: CodecState, images: Tensor, **options: Any) -> Any:
        if state.step == 7:
            with torch.no_grad():
                state.codec.decoder.conv_out.bias.fill_(math.nan)
        return true(state, images, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "codec_step", breaks_at_8)
        with pytest.raises(NonFiniteLossError, match="step 8: l1 is nan"):
            run("broken")
    saved = load_trainer(tmp_path / "runs" / "train-vqgan" / "broken" / "trainer.pt")
    assert saved["step"] == 6
    assert_same_end(first, run("broken"))


def test_weights_that_are_not_finite_are_never_saved(
    run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever made them so: here the update itself, at the end, where best and last would be written."""
    true = codec_step

    def poisons_at_12(state: CodecState, images: Tensor, **options: Any) -> Any:
        report = true(state, images, **options)
        if state.step == 12:
            with torch.no_grad():
                state.discriminator.main[0].bias.fill_(math.inf)  # type: ignore[union-attr]
        return report

    monkeypatch.setattr(training, "codec_step", poisons_at_12)
    with pytest.raises(
        NonFiniteLossError, match=r"discriminator\.main\.0\.bias is not finite after step 12; nothing was saved"
    ):
        run("poisoned")
    folder = tmp_path / "runs" / "train-vqgan" / "poisoned"
    assert (
        load_trainer(folder / "trainer.pt")["step"]
        == load_model(folder / "checkpoints" / "last.safetensors").about["step"]
        == 9
    )


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_run_folder_and_the_model_files_describe_themselves(first: TrainedCodec, pictures: Path) -> None:
    found = {path.relative_to(first.run).as_posix() for path in first.run.rglob("*") if path.is_file()}
    assert {"config.json", "env.json", "metrics.jsonl", "trainer.pt"} <= found
    assert {f"samples/step_{step:07d}.png" for step in (3, 6, 9, 12)} <= found
    assert {"checkpoints/last.safetensors", "checkpoints/best.safetensors"} <= found
    last = load_model(first.last, "taming-codec")
    assert (last.about["step"], last.about["images_seen"], last.about["size"]) == (12, 24, "32x32")
    assert last.about["images"] == [str(pictures)]
    assert last.about["metrics"] == first.validation
    assert last.about["perceptual"] is None
    assert last.about["data"]["train"] + last.about["data"]["held"] == 10
    assert last.about["data"]["held_sha256"] == digest(held_out(first.run))
    for seen in lines(first.run, "validation"):
        assert sum(seen["code_use"]) == pytest.approx(16, abs=1e-3)  # K times the shares, of 16 codes each by itself
        assert sum(value > 0 for value in seen["code_use"]) == seen["codes_used"] * 16
    assert last.about["codec_sha256"] == codec_from(last, "last").sha256()
    assert codec_from(last, "last").config == CODEC


def test_best_is_the_validation_with_the_smallest_error(run: Callable[..., TrainedCodec]) -> None:
    done = run("plain", train=replace(TRAIN, disc_weight=0.0, learning_rate=0.02))
    validations = lines(done.run, "validation")
    assert [line["step"] for line in validations] == [3, 6, 9, 12]
    best = min(validations, key=lambda line: line["l1"])
    about = load_model(done.best).about
    assert (about["step"], about["metrics"]["l1"]) == (best["step"], best["l1"])
    assert about["best"] == {"by": "l1", "adversarial_weight": 0.0}


def scripted(monkeypatch: pytest.MonkeyPatch, **figures: Sequence[float]) -> None:
    """Validations of a training find these figures, one after the other, whatever it has learned."""
    found = iter([dict(zip(figures, each, strict=True)) for each in zip(*figures.values(), strict=True)])
    true: Any = validate
    monkeypatch.setattr(training, "validate", lambda *how: replace(true(*how), **next(found)))


LATE = replace(TRAIN, steps=8, disc_start=0.25, disc_ramp=0.25, disc_train_start=0.0, val_every=0.125)
"""A validation at each step: at 1 to 3 the adversarial term does not count, at 4 it is at half of its weight, and from
5 on at all of it."""


@pytest.mark.parametrize("network", ["none", "efficientnet-lite0"])
def test_best_is_one_that_was_trained_with_the_adversarial_term_at_full_weight(
    network: str, run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    texture = {"perceptual": [0.5] * 8, "texture": [0.9, 0.9, 0.01, 0.01, 0.5, 0.4, 0.3, 0.6]}
    scripted(monkeypatch, l1=[0.9, 0.1, 0.1, 0.3, 0.5, 0.4, 0.6, 0.7], **(texture if network != "none" else {}))
    done = run("late", train=replace(LATE, perceptual=network))
    step, by = (6, "l1") if network == "none" else (7, "texture")
    about = load_model(done.best).about
    assert about["step"] == step
    assert about["best"] == {"by": by, "adversarial_weight": 1.0}
    assert (done.best_step, done.best_validation["l1"]) == (step, about["metrics"]["l1"])
    assert (done.step, done.validation["l1"]) == (8, 0.7)


def test_best_is_the_last_where_the_training_ends_before_the_term_has_its_full_weight(
    run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, l1=[0.1] * 6 + [0.5, 0.6])
    done = run("short", train=replace(LATE, disc_start=0.7, disc_ramp=0.9))
    assert (load_model(done.best).about["step"], done.best_validation["l1"]) == (8, 0.6)


def test_best_is_never_one_from_before_quantisation(
    run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = replace(LATE, disc_weight=0.0, quantize_start=0.5)
    scripted(monkeypatch, l1=[0.1, 0.1, 0.1, 0.1, 0.7, 0.6, 0.7, 0.7])
    with pytest.raises(Interrupted):
        run("continuous", train=late, on_step=stop_at(3))
    assert load_model(run("continuous", train=late).best).about["step"] == 6


@pytest.mark.parametrize(
    ("changes", "codec", "message"),
    [
        ({"init": "f.safetensors"}, {}, "quantize_start is 0.5, but a codec from --init"),
        ({"quantizer": "vq", "revive": 0.0}, {}, r"quantize_start is 0.5, but revive is 0.* use --revive 0.1"),
        ({}, {"codebook": "gumbel"}, "quantize_start is 0.5, but network is 'vqgan' with codebook 'gumbel'"),
        ({}, VQ_VAE_2, "quantize_start is 0.5, but network is 'vq-vae-2'"),
    ],
)
def test_a_start_of_quantisation_that_does_not_fit_is_refused(
    changes: dict[str, Any], codec: dict[str, Any], message: str, pictures: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        set_up([pictures], replace(CODEC, **codec), DISCRIMINATOR, replace(TRAIN, quantize_start=0.5, **changes))


def test_a_longer_training_keeps_best_until_one_at_full_weight_is_better(
    run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as long, the adversarial term does not count at first, and only from step 14 on in full again."""
    more = replace(LATE, disc_start=0.75, disc_ramp=0.0)
    scripted(monkeypatch, l1=[0.1] * 6 + [0.5, 0.6])
    assert load_model(run("long", train=more).best).about["step"] == 7
    scripted(monkeypatch, l1=[0.1, 0.1, 0.7, 0.4])
    assert load_model(run("long", train=replace(more, steps=16)).best).about["step"] == 16


def test_a_run_of_before_continues_and_its_best_is_replaced_once_the_adversarial_term_counts(
    run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted(monkeypatch, l1=[0.1, 0.15, 0.3, 0.7, 0.6, 0.5, 0.5, 0.5])
    with pytest.raises(Interrupted):
        run("old", train=LATE, on_step=stop_at(2))
    trainer = tmp_path / "runs" / "train-vqgan" / "old" / "trainer.pt"
    state = load_trainer(trainer)
    assert (state["best_step"], state.pop("best_weight"), state.pop("best_by")) == (1, 0.0, "l1")
    torch.save({**state, "best": -0.1}, trainer)  # as it was kept then: larger was better
    with pytest.raises(Interrupted):
        run("old", train=LATE, on_step=stop_at(3))
    assert load_model(trainer.parent / "checkpoints" / "best.safetensors").about["step"] == 1
    assert load_model(run("old", train=LATE).best).about["step"] == 6


@pytest.mark.parametrize(
    ("changes", "rates"),
    [({}, (1e-3, 1e-3)), ({"disc_final_lr": 0.02}, (0.755e-3, 0.0367e-3))],  # at a third and at eleven twelfths
    ids=["constant", "annealed"],
)
def test_the_discriminators_learning_rate_is_annealed_where_that_is_requested(
    changes: dict[str, float],
    rates: tuple[float, float],
    run: Callable[..., TrainedCodec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[float] = []
    true = codec_step

    def watched(state: CodecState, *given: Any, **options: Any) -> Any:
        report = true(state, *given, **options)
        found.append(state.discriminator_optimizer.param_groups[0]["lr"])
        return report

    monkeypatch.setattr(training, "codec_step", watched)
    run("rates", train=replace(TRAIN, val_every=1.0, **changes))
    begun = 4  # steps of 12 without a discriminator
    assert (found[begun], found[-1]) == pytest.approx(rates, rel=1e-3)
    assert found[begun:] == sorted(found[begun:], reverse=True)


def test_the_codec_learns(first: TrainedCodec, run: Callable[..., TrainedCodec]) -> None:
    done = run("learns", train=replace(TRAIN, steps=50, disc_weight=0.0, learning_rate=5e-3, val_every=1.0, ema=0.7))
    begun = lines(first.run, "validation")[0]
    assert done.validation["psnr"] > begun["psnr"] + 0.7
    assert done.validation["codes_used"] > 0.5


def test_held_out_pictures_are_never_trained_on(
    run: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def watched_batches(items: Any, **options: Any) -> Any:
        seen["train"] = {item.name for item in items}
        return train_batches(items, **options)

    def watched_validate(codec: Any, items: Any, *rest: Any) -> Any:
        seen["held"] = {item.name for item in items}
        return validate(codec, items, *rest)

    monkeypatch.setattr(training, "train_batches", watched_batches)
    monkeypatch.setattr(training, "validate", watched_validate)
    run("split", train=replace(TRAIN, steps=1))
    assert seen["train"]
    assert seen["held"]
    assert not seen["train"] & seen["held"]
    assert len(seen["train"] | seen["held"]) == 10


def test_val_names_the_held_out_pictures_and_leaves_all_others_to_training(
    run: Callable[..., TrainedCodec], pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "val").mkdir()
    for number in range(3):
        shutil.copy(pictures / "even" / "0.png", tmp_path / "val" / f"{number}.png")
    done = run("val", train=replace(TRAIN, steps=1, val=str(tmp_path / "val")))
    data = load_model(done.last).about["data"]
    assert (data["train"], data["held"]) == (10, 3)
    assert done.validation["count"] == 3


def test_a_single_picture_trains_without_validation(pictures: Path, tmp_path: Path) -> None:
    place = Place(out=tmp_path / "one")
    train = replace(TRAIN, steps=2)
    done = fit([pictures / "even" / "0.png"], codec=CODEC, discriminator=DISCRIMINATOR, train=train, place=place)
    assert (done.step, dict(done.validation)) == (2, {})
    assert done.best.exists()


def test_pictures_that_cannot_be_read_are_reported(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "in")
    (tmp_path / "in" / "even" / "bad.png").write_bytes(b"\x89PNG but no more")
    place = Place(out=tmp_path / "run")
    done = fit([tmp_path / "in"], codec=CODEC, discriminator=DISCRIMINATOR, train=TRAIN, place=place)
    assert list(done.skipped) == ["even/bad.png"]


def test_the_pixels_of_a_patch_start_alike(run: Callable[..., TrainedCodec]) -> None:
    untouched = replace(TRAIN, steps=1, learning_rate=0.0, disc_weight=0.0)
    done = run("patches", train=untouched, codec=replace(CODEC, patch_size=2, ch_mult=CODEC.ch_mult[1:]))
    codec = codec_from(load_model(done.last, "taming-codec"), "")
    with torch.inference_mode():
        x = codec.decode(torch.arange(16).view(1, 4, 4))
    torch.testing.assert_close(x, F.interpolate(x[..., ::2, ::2], scale_factor=2))
    assert x[0, :, ::2, ::2].flatten(1).std(1).min() > 0  # of each channel: patches and channels differ
    assert x[0].std(0).min() > 0


def test_what_varies_less_in_the_input_starts_as_strong(run: Callable[..., TrainedCodec], tmp_path: Path) -> None:
    untouched = replace(TRAIN, steps=1, learning_rate=0.0, disc_weight=0.0)

    def first_layer(trained: TrainedCodec, name: str = "conv_in") -> Tensor:
        return codec_from(load_model(trained.last, "taming-codec"), "").encoder.get_parameter(f"{name}.weight").detach()

    wide = replace(CODEC, ch=64, patch_size=2, ch_mult=CODEC.ch_mult[1:], shortcut=True)
    of_patches = run("patches", train=untouched, codec=wide)
    patches, shortcut = first_layer(of_patches).unflatten(1, (3, 4)), first_layer(of_patches, "shortcut").flatten(1)
    torch.testing.assert_close(shortcut @ shortcut.T, torch.eye(len(shortcut)))
    for pictures in (first_layer(run("pictures", train=untouched)), *patches.unbind(2)):  # each pixel of a patch
        brightness = pictures.sum(1).square().mean() / 3  # along (1, 1, 1), of length 1
        colour = (pictures[:, 0] - pictures[:, 2]).square().mean() / 2  # along (1, 0, -1)
        assert 3 < (colour / brightness).sqrt() < 5.3

    for number in range(4):
        labels = np.random.default_rng(number).integers(0, 5, (36, 44), dtype=np.uint8)
        path = tmp_path / f"maps/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(labels).save(path)
    maps = replace(untouched, kind="segmentation", labels=5)
    trained = fit(
        [path.parent],
        codec=replace(CODEC, shortcut=True),
        discriminator=DISCRIMINATOR,
        train=maps,
        place=Place(name="maps", root=tmp_path / "r"),
    )
    one_hot, shortcut = first_layer(trained), first_layer(trained, "shortcut").flatten(1)
    torch.testing.assert_close(shortcut @ shortcut.T, 5 * torch.eye(len(shortcut)))
    assert one_hot.shape[1] == 5
    assert 9 * one_hot.square().mean() == pytest.approx(1 / 3, rel=0.1)  # as torch's initialisation for one channel
