"""Codec, losses and discriminator against a model in the published format with recorded inputs and outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taming_cli.codec import losses
from taming_cli.codec.adversarial.discriminator import Discriminator
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig

GOLDEN = Path(__file__).parent / "golden"
CONFIG = CodecConfig(
    ch=32,
    ch_mult=(1, 1, 2),
    num_res_blocks=1,
    norm_groups=32,
    attn_resolutions=(16,),
    z_channels=32,
    resolution=64,
    codebook_size=128,
    codebook_dim=16,
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "vqgan.safetensors")


@pytest.fixture(scope="module")
def codec(tensors: dict[str, torch.Tensor]) -> VQGAN:
    codec = VQGAN(CONFIG)
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}
    codec.load_state_dict(own, strict=True)
    return codec.eval()


@pytest.fixture(scope="module")
def discriminator(tensors: dict[str, torch.Tensor]) -> Discriminator:
    discriminator = Discriminator(DiscriminatorConfig(disc_ndf=16, disc_num_layers=3))
    prefix = "loss.discriminator."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    discriminator.load_state_dict(own, strict=True)
    return discriminator.eval()


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "vqgan_io.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def test_codes_are_equal_and_reconstruction_is_close(codec: VQGAN, recorded: dict[str, torch.Tensor]) -> None:
    x_rec, quantized = codec(recorded["x"])
    assert torch.equal(quantized.codes, recorded["indices"].long())
    torch.testing.assert_close(quantized.z_e, recorded["z_e"], rtol=0, atol=1e-4)
    torch.testing.assert_close(quantized.z_q, recorded["z_q"], rtol=0, atol=1e-4)
    torch.testing.assert_close(x_rec, recorded["x_rec"], rtol=0, atol=1e-4)
    torch.testing.assert_close(codec.decode(quantized.codes), recorded["x_rec"], rtol=0, atol=1e-4)


def test_channels_last_gives_the_same_codes(codec: VQGAN, recorded: dict[str, torch.Tensor]) -> None:
    codes = codec.encode(recorded["x"].to(memory_format=torch.channels_last))
    assert torch.equal(codes, recorded["indices"].long())


def test_legacy_codebook_term_is_the_published_one(codec: VQGAN, recorded: dict[str, torch.Tensor]) -> None:
    quantized = codec.quantized(recorded["x"])
    term = losses.codebook_loss(quantized.z_e, quantized.z_q, 0.25, legacy=True)
    torch.testing.assert_close(term, recorded["codebook_term"].to(term), rtol=1e-5, atol=0)


def test_discriminator_logits_are_the_published_ones(
    discriminator: Discriminator, recorded: dict[str, torch.Tensor]
) -> None:
    torch.testing.assert_close(discriminator(recorded["x"]), recorded["disc_logits"], rtol=0, atol=1e-4)


def test_training_losses_are_the_published_ones(
    codec: VQGAN, discriminator: Discriminator, recorded: dict[str, torch.Tensor]
) -> None:
    expected = json.loads((GOLDEN / "vqgan_losses.json").read_text())
    discriminator.train()
    x = recorded["x"]
    x_rec, quantized = codec(x)
    rec = losses.l1(x, x_rec)
    gen = losses.generator_loss(discriminator(x_rec))
    last = codec.decoder.conv_out.weight
    (grad_rec,) = torch.autograd.grad(rec, last, retain_graph=True)
    (grad_gen,) = torch.autograd.grad(gen, last, retain_graph=True)
    weight = 0.8 * losses.adaptive_weight(grad_rec, grad_gen)
    term = losses.codebook_loss(quantized.z_e, quantized.z_q, 0.25, legacy=True)
    logits = losses.DiscriminatorLogits(discriminator(x), discriminator(x_rec.detach()))
    discriminator.eval()
    found = {
        "quant_loss": term,
        "nll_loss": rec,
        "d_weight": weight,
        "g_loss": gen,
        "total_loss": rec + weight * gen + term,
        "disc_loss": losses.discriminator_loss(logits, "hinge"),
        "logits_real": logits.real.mean(),
        "logits_fake": logits.fake.mean(),
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: expected[name] for name in found}, rel=1e-4
    )
