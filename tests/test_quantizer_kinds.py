"""The other quantizers and gradients: against vector-quantize-pytorch, by brute force, and in a training."""

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch
from PIL import Image
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from taming_cli.codec.quantizers.linear import LinearCodebook
from taming_cli.codec.quantizers.quantized import by_index, rotated
from taming_cli.codec.quantizers.scalar import FSQ, LFQ
from taming_cli.codec.quantizers.terms import quantizer_terms
from taming_cli.codec.setup import set_up
from taming_cli.codec.train import TrainedCodec, fit
from taming_cli.codec.vqgan import VQGAN, codec_file, codec_from
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.size import Size
from taming_cli.errors import Interrupted, UsageError
from taming_cli.interop.compvis_export import export_checkpoint
from taming_cli.interop.load import import_file
from taming_cli.runtime.checkpoint import load_model, load_trainer, save_model
from taming_cli.runtime.pacing import Progress
from taming_cli.runtime.run.folder import Place
from tests import toys
from tests.test_quantizers import filled, seeded

LEVELS = [(8, 5, 5, 5), (2, 3), (7, 5, 5, 5, 5), (4,), (8, 6, 5)]


def vectors(dim: int, *, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(3, dim, 4, 5, generator=seeded(seed))


# --- fixed grids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [each for each in LEVELS if 2 not in each], ids=str)
def test_fsq_is_that_of_vector_quantize_pytorch(levels: tuple[int, ...]) -> None:
    own, theirs = FSQ(levels), vector_quantize_pytorch.FSQ(list(levels))
    z, slope = vectors(len(levels)).requires_grad_(), torch.randn(3, len(levels), 4, 5, generator=seeded(1))
    got = own(z)
    expected, codes = theirs(z)
    assert torch.equal(got.codes, codes.long())
    torch.testing.assert_close(got.z_q, expected)
    torch.testing.assert_close(own.lookup(got.codes), theirs.indices_to_codes(codes))
    gradients = [torch.autograd.grad((out * slope).sum(), z)[0] for out in (got.to_decoder(), expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("bound", ["tanh", "sigmoid"])
def test_an_fsq_reaches_all_its_codes_and_their_entries_are_their_own(levels: tuple[int, ...], bound: Any) -> None:
    quantizer = FSQ(levels, bound)
    book = quantizer.codebook
    assert book.shape == (math.prod(levels), len(levels))
    assert len(set(map(tuple, book.tolist()))) == len(book)
    assert book.abs().max() <= 1
    per_channel = torch.linspace(-8, 8, 4001)[None, None, None]
    for channel, count in enumerate(levels):
        z = torch.zeros(1, len(levels), 1, 4001)
        z[:, channel] = per_channel
        assert len(quantizer(z).codes.unique()) == count
    zero = quantizer(torch.zeros(1, len(levels), 1, 1))
    assert torch.equal(zero.z_q, torch.zeros_like(zero.z_q))


def test_a_normal_variable_is_nearly_uniform_with_a_sigmoid() -> None:
    z = torch.randn(1, 1, 100, 1000, generator=seeded())

    def off(bound: Any) -> float:
        """The largest difference between the distribution of a bounded channel and the uniform one."""
        values = FSQ((17,), bound)(z).z_e.flatten().sort().values
        return (values - torch.linspace(-1, 1, len(values))).abs().max().item() / 2

    assert off("sigmoid") < 0.02
    assert off("tanh") > 0.04


def test_lfq_is_that_of_vector_quantize_pytorch() -> None:
    weights = {"entropy_loss_weight": 1.0, "commitment_loss_weight": 1.0}
    own, theirs = LFQ(6), vector_quantize_pytorch.LFQ(dim=6, codebook_size=64, **weights)
    z = vectors(6, scale=0.02).requires_grad_()
    got = own(z)
    (expected, codes, _), (sample, batch, commitment) = theirs(z, inv_temperature=100.0, return_loss_breakdown=True)
    assert torch.equal(got.codes, codes)
    torch.testing.assert_close(got.z_q, expected)
    torch.testing.assert_close(own.lookup(codes), theirs.indices_to_codes(codes))
    config = CodecTrainConfig(quantizer="lfq", entropy_temperature=0.01, beta=1.0)
    terms = quantizer_terms(own, got, config)
    torch.testing.assert_close(terms["entropy"].value, sample - batch, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["codebook"].value, commitment)

    exact = z.detach().double().requires_grad_()
    logits = 2 * torch.einsum("bdhw,kd->bhwk", exact, own.codebook.double()) / 0.01
    mean = logits.softmax(-1).mean((0, 1, 2))
    expected = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean() + (mean * mean.log()).sum()
    (own_gradient,) = torch.autograd.grad(terms["entropy"].value, z)
    (gradient,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(own_gradient.double(), gradient, rtol=1e-3, atol=1e-5)
    assert gradient.abs().max() > 0.01


def test_the_joint_distribution_of_many_bits_is_that_of_groups() -> None:
    z = vectors(12, scale=0.01)
    config = CodecTrainConfig(quantizer="lfq")
    whole = quantizer_terms(LFQ(12), LFQ(12)(z), config)["entropy"].value
    parts = [
        quantizer_terms(LFQ(n), LFQ(n)(part), config)["entropy"].value
        for n, part in zip((10, 2), z.split(10, 1), strict=True)
    ]
    torch.testing.assert_close(whole, sum(parts))


# --- gradients --------------------------------------------------------------------------------------------------------


def test_a_rotated_gradient_is_that_of_vector_quantize_pytorch() -> None:
    z_e, z_q = vectors(4).requires_grad_(), vectors(4, seed=1)
    slope = torch.randn(z_e.shape, generator=seeded(2))
    got = rotated(z_e, z_q)
    assert torch.equal(got, z_q)
    last = [z.movedim(1, -1) for z in (z_e, z_q)]
    expected = rotate_to(*last).movedim(-1, 1)
    gradients = [torch.autograd.grad((out * slope).sum(), z_e)[0] for out in (got, expected)]
    torch.testing.assert_close(*gradients)


def test_a_rotated_gradient_keeps_its_angle_and_is_scaled() -> None:
    """The encoder's gradient and vector have the angle of the decoder's gradient and the entry, as the paper says."""
    z_e, z_q, slope = (torch.randn(1, 3, 1, 1, dtype=torch.float64, generator=seeded(n)) for n in range(3))
    z_e.requires_grad_()
    (gradient,) = torch.autograd.grad((rotated(z_e, z_q) * slope).sum(), z_e)
    angles = [F.cosine_similarity(a, b, dim=1).item() for a, b in ((gradient, z_e), (slope, z_q))]
    assert angles[0] == pytest.approx(angles[1], abs=1e-9)
    assert (gradient.norm() / slope.norm()).item() == pytest.approx((z_q.norm() / z_e.norm()).item())


def test_a_vector_opposite_to_its_entry_or_zero_has_a_finite_gradient() -> None:
    z_e = torch.stack((torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([1.0, 0.0])), 1)[None, :, :, None]
    z_e.requires_grad_()
    z_q = torch.stack((torch.tensor([-1.0, -2.0]), torch.ones(2), torch.zeros(2)), 1)[None, :, :, None]
    got = rotated(z_e, z_q)
    assert torch.equal(got, z_q)
    got.sum().backward()
    assert z_e.grad is not None
    assert z_e.grad.isfinite().all()
    assert torch.equal(z_e.grad[0, :, 0, 0], torch.ones(2))


def test_index_backpropagation_is_the_published_formula() -> None:
    """one_hot - stop(soft) + soft, times the codebook, in float64."""
    z = vectors(3).double().requires_grad_()
    book = torch.randn(7, 3, dtype=torch.float64, generator=seeded(3)).requires_grad_()
    logits = 2 * torch.einsum("bdhw,kd->bkhw", z, book) - book.pow(2).sum(1)[:, None, None]
    codes = logits.argmax(1)
    soft, hard = logits.softmax(1), F.one_hot(codes, 7).movedim(-1, 1).double()
    expected = torch.einsum("bkhw,kd->bdhw", hard - soft.detach() + soft, book)
    got = by_index(logits, F.embedding(codes, book).movedim(-1, 1), book)
    torch.testing.assert_close(got, expected)
    slope = torch.randn(z.shape, dtype=torch.float64, generator=seeded(4))
    for one, other in zip(
        *(torch.autograd.grad((out * slope).sum(), (z, book), retain_graph=True) for out in (got, expected)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("normalize", [False, True])
def test_with_index_backpropagation_codes_are_nearest_and_every_entry_learns(normalize: bool) -> None:
    quantizer, z = filled(16, 3, normalize=normalize), vectors(3)
    plain = quantizer.train()(z)
    quantizer.gradient = "index"
    got = quantizer(z)
    assert got.logits is not None
    assert torch.equal(got.codes, plain.codes)
    assert (got.logits.argmax(1) == got.codes).double().mean() > 0.99
    terms = quantizer_terms(quantizer, got, CodecTrainConfig(quantizer="ibq"))
    assert set(terms) == {"codebook", "entropy"}
    torch.testing.assert_close(terms["codebook"].value, 2.25 * F.mse_loss(got.z_e, got.z_q))
    (got.to_decoder() * vectors(3, seed=5)).sum().backward()
    assert quantizer.embedding.weight.grad is not None
    assert quantizer.embedding.weight.grad.norm(dim=1).min() > 0
    assert quantizer.eval()(z).estimate is None


def test_entropies_of_logits_are_those_of_the_definition() -> None:
    quantizer, z = filled(5, 3).train(), vectors(3)
    quantizer.gradient = "index"
    got = quantizer(z)
    assert got.logits is not None
    p = (got.logits.double() / 0.5).softmax(1)
    sample = -(p * p.log()).sum(1).mean()
    mean = p.mean((0, 2, 3))
    expected = sample + (mean * mean.log()).sum()
    terms = quantizer_terms(quantizer, got, CodecTrainConfig(quantizer="ibq", entropy_temperature=0.5))
    assert terms["entropy"].value.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_linear_map_has_the_gradient_of_its_entries() -> None:
    quantizer = filled(9, 4)
    linear = LinearCodebook(quantizer)
    basis = quantizer.embedding.weight.detach().clone()
    z = vectors(4)
    quantizer(z).z_q.square().sum().backward()
    linear.take_gradient()
    assert quantizer.embedding.weight.grad is None
    own = torch.eye(4).requires_grad_()
    codes = quantizer(z).codes
    F.embedding(codes, basis @ own).square().sum().backward()
    torch.testing.assert_close(linear.map.grad, own.grad)
    with torch.no_grad():
        linear.map.add_(1.0)
    linear.update_entries()
    torch.testing.assert_close(quantizer.embedding.weight.detach(), basis @ (torch.eye(4) + 1))


# --- in a training ----------------------------------------------------------------------------------------------------

CODEC = replace(toys.CODEC, codebook_size=16)
TRAIN = CodecTrainConfig(
    size=Size(32, 32),
    steps=6,
    minutes=0.0,
    batch_size=2,
    accumulate=2,
    warmup=0,
    perceptual="none",
    disc_weight=0.0,
    held=0.3,
    val_every=0.5,
    device="cpu",
    precision="fp32",
    cache=16,
)
KINDS: dict[str, dict[str, Any]] = {
    "rotation": {"gradient": "rotation"},
    "simvq": {"quantizer": "simvq"},
    "ibq": {"quantizer": "ibq"},
    "fsq": {"quantizer": "fsq"},
    "lfq": {"quantizer": "lfq"},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, values in enumerate(torch.randint(256, (8, 6, 6, 3), generator=seeded(), dtype=torch.uint8)):
        Image.fromarray(values.numpy()).resize((40, 36)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def train(pictures: Path, tmp_path: Path) -> Callable[..., TrainedCodec]:
    def fitted(name: str, *, stop: int = 0, codec: CodecConfig = CODEC, **changes: Any) -> TrainedCodec:
        def on_step(progress: Progress) -> None:
            if progress.step == stop and not progress.validation:
                os.kill(os.getpid(), signal.SIGINT)

        return fit(
            [pictures],
            codec=codec,
            discriminator=DiscriminatorConfig(disc_ndf=4),
            train=replace(TRAIN, **changes),
            place=Place(out=tmp_path / name, resume=(tmp_path / name).exists()),
            on_step=on_step if stop else None,
        )

    return fitted


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_and_resumes_exactly(
    kind: str, train: Callable[..., TrainedCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 1)
    whole = train("whole", **KINDS[kind])
    codec = codec_from(load_model(whole.last), "codec")
    x = torch.rand(1, 3, 32, 32, generator=seeded()) * 2 - 1
    codes = codec.encode(x)
    torch.testing.assert_close(codec.decode(codes), codec(x).x_rec)
    assert codes.max() < codec.config.codebook_size
    with pytest.raises(Interrupted):
        train("parts", stop=3, **KINDS[kind])
    parts = train("parts", **KINDS[kind])
    for name, tensor in load_model(whole.last).tensors.items():
        assert torch.equal(tensor, load_model(parts.last).tensors[name]), name
    states = [load_trainer(done.run / "trainer.pt") for done in (whole, parts)]
    assert [("linear" in state) for state in states] == [kind == "simvq"] * 2
    lines = (whole.run / "metrics.jsonl").read_text().splitlines()
    logged = set().union(*map(json.loads, lines))
    assert ("codebook" in logged, "entropy" in logged) == (kind != "fsq", kind in ("ibq", "lfq"))


def test_the_map_of_a_linear_codebook_is_learned_and_its_file_is_that_of_any_codebook(
    train: Callable[..., TrainedCodec],
) -> None:
    done = train("linear", quantizer="simvq", ema=0.0)
    state = load_trainer(done.run / "trainer.pt")
    basis, learned = state["linear"]["basis"], state["linear"]["map"]
    assert not torch.equal(learned, torch.eye(4))
    tensors = load_model(done.last).tensors
    torch.testing.assert_close(tensors["quantize.embedding.weight"], basis @ learned)
    assert set(tensors) == set(VQGAN(CODEC).state_dict())


def test_a_fixed_grid_has_the_published_levels_near_the_codebooks_size(pictures: Path) -> None:
    def resolved(size: int, **changes: Any) -> CodecConfig:
        codec = replace(CODEC, codebook_size=size)
        return set_up([pictures], codec, DiscriminatorConfig(), replace(TRAIN, **changes)).codec

    for size, levels in ((16, (8, 6, 5)), (1024, (8, 5, 5, 5)), (4096, (7, 5, 5, 5, 5)), (2**20, (8, 8, 8, 5, 5, 5))):
        codec = resolved(size, quantizer="fsq")
        assert (codec.codebook, codec.fsq_levels) == ("fsq", levels)
        assert (codec.codebook_size, codec.codebook_dim) == (math.prod(levels), len(levels))
    codec = resolved(1024, quantizer="lfq")
    assert (codec.codebook, codec.codebook_size, codec.codebook_dim) == ("lfq", 1024, 10)


@pytest.mark.parametrize(
    ("codec", "changes", "message"),
    [
        ({"codebook_size": 1000}, {"quantizer": "lfq"}, "codebook_size is 1000; .* power of two"),
        ({"codebook": "gumbel"}, {"quantizer": "simvq"}, "quantizer 'simvq' .* is for 'vqgan' with 'nearest'"),
        ({"codebook": "gumbel"}, {"quantizer": "fsq"}, "quantizer 'fsq' is for 'vqgan'"),
        ({"network": "vq-vae-2"}, {"gradient": "rotation"}, "network is 'vq-vae-2'.*gradient 'rotation'"),
        ({"normalize": True}, {"quantizer": "lfq"}, "leave --normalize out"),
        ({"fsq_levels": (3, 3)}, {}, "fsq_levels are for 'fsq'"),
        ({}, {"quantizer": "lfq", "gradient": "rotation"}, "quantizer 'lfq' has its own"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    codec: dict[str, Any], changes: dict[str, Any], message: str, pictures: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        set_up([pictures], replace(CODEC, **codec), DiscriminatorConfig(), replace(TRAIN, **changes))


def test_training_goes_on_from_a_codec_of_a_fixed_grid(train: Callable[..., TrainedCodec]) -> None:
    first = train("first", quantizer="fsq")
    config = codec_from(load_model(first.last), "codec").config
    second = train("second", codec=config, init=str(first.last))
    assert codec_from(load_model(second.last), "codec").config == config


# --- files of others --------------------------------------------------------------------------------------------------


def test_an_lfq_is_exported_with_its_entries_listed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    codec = VQGAN(replace(CODEC, codebook="lfq", norm_groups=32)).eval()
    export_checkpoint(codec_file(codec, {}), tmp_path / "lfq.ckpt")
    found = import_file(tmp_path / "lfq.ckpt")
    save_model(tmp_path / "back.safetensors", found.model, found.tensors)
    back = codec_from(load_model(tmp_path / "back.safetensors"), "back")
    assert back.config.codebook == "nearest"
    x = torch.rand(1, 3, 32, 32, generator=seeded()) * 2 - 1
    assert torch.equal(back.encode(x), codec.encode(x))
    torch.testing.assert_close(back.decode(codec.encode(x)), codec.decode(codec.encode(x)))


def test_an_fsq_cannot_be_exported(tmp_path: Path) -> None:
    codec = VQGAN(replace(CODEC, codebook="fsq", fsq_levels=(4, 4), codebook_dim=2, norm_groups=32))
    with pytest.raises(UsageError, match=r"codebook is 'fsq'.*cannot be exported"):
        export_checkpoint(codec_file(codec, {}), tmp_path / "fsq.ckpt")
    assert not list(tmp_path.iterdir())
