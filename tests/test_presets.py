"""Presets: complete, buildable, and the paper's where they say so."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from taming_cli.cli.settings import Settings
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.presets import PRESETS, SCALES, of_scale, preset
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.resolve import Layer, resolve
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.model import new_network
from taming_cli.runtime.cost import cost, fake_tensors

NAMES = [
    "tiny",
    "scale-2",
    "scale-3",
    "scale-4",
    "small",
    "scale-6",
    "vq-vae",
    "vq-vae-2",
    "dvae",
    "palette",
    "f16-1024",
    "f16-16384",
]
STAGES: dict[str, tuple[type[Any], ...]] = {
    "codec": (CodecConfig, DiscriminatorConfig, CodecTrainConfig),
    "prior": (PriorConfig, PriorTrainConfig),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_every_preset_builds_both_stages(name: str, stage: str) -> None:
    resolved = resolve(STAGES[stage], [Layer(f"preset {name}", getattr(preset(name), stage))])
    if stage == "codec":
        codec, _, train = resolved.configs
        codec.latent(train.size)  # divides by f
    assert preset(name).about


def test_there_are_no_other_presets() -> None:
    assert list(PRESETS) == NAMES


def test_values_for_one_network_are_not_those_of_another() -> None:
    def codec(preset: str = "tiny", **flags: str) -> CodecConfig:
        settings = Settings(command="train-vqgan", flags=flags, preset=preset)
        config = settings.resolve(*STAGES["codec"]).configs[0]
        assert isinstance(config, CodecConfig)
        return config

    tiny = codec()
    assert (tiny.patch_size, tiny.ch_mult, tiny.shortcut, tiny.downsample_factor) == (2, (1, 2, 4), True, 8)
    assert codec(network="dvae", codebook="gumbel") == CodecConfig(network="dvae", codebook="gumbel")
    assert codec(network="vq-vae-2") == CodecConfig(network="vq-vae-2")
    assert codec("small", network="dvae", codebook="gumbel").downsample_factor == codec("small").downsample_factor == 16
    assert replace(tiny, patch_size=1, ch_mult=(1, 1, 2, 4), shortcut=False) == CodecConfig()


@pytest.mark.parametrize("stage", STAGES)
def test_each_scale_takes_three_times_the_operations_of_the_last(stage: str) -> None:
    """Of a forward pass of the network itself; a step adds those of its losses."""

    def flops(scale: int) -> int:
        configs = resolve(STAGES[stage], [Layer("scale", getattr(preset(of_scale(scale)), stage))]).configs
        train = configs[-1]
        with fake_tensors():
            if stage == "codec":
                codec, x = VQGAN(configs[0]), torch.rand(1, 3, train.size.height, train.size.width)
                return train.batch_size * cost(lambda: codec(x)).flops
            prior = new_network(replace(configs[0], arch="modern"))
            prefix, codes = (
                torch.zeros(1, n, dtype=torch.int64) for n in (prior.config.prefix_length, prior.config.cells)
            )
            return train.batch_size * cost(lambda: prior(prefix, codes)).flops

    steps = [after / before for before, after in pairwise(map(flops, range(1, len(SCALES) + 1)))]
    assert all(2.5 < step < 3.5 for step in steps), steps


def test_a_scale_is_one_of_six() -> None:
    assert (of_scale(1), of_scale(5)) == ("tiny", "small")
    for scale in (0, 7):
        with pytest.raises(UsageError, match=rf"scale is {scale}; give 1 \(tiny\) to 6"):
            of_scale(scale)


@pytest.mark.parametrize("name", NAMES[:-2])
def test_the_presets_for_first_use_need_no_download(name: str) -> None:
    train = resolve(STAGES["codec"], [Layer("preset", preset(name).codec)]).configs[2]
    assert train.perceptual in ("efficientnet-lite0", "none")


@pytest.mark.parametrize(("name", "codes"), [("f16-1024", 1024), ("f16-16384", 16384)])
def test_the_paper_presets_are_the_papers(name: str, codes: int) -> None:
    codec, discriminator, train = resolve(STAGES["codec"], [Layer("preset", preset(name).codec)]).configs
    assert codec.downsample_factor == 16
    assert (codec.ch, codec.ch_mult, codec.num_res_blocks) == (128, (1, 1, 2, 2, 4), 2)
    assert (codec.z_channels, codec.codebook_dim, codec.codebook_size) == (256, 256, codes)
    assert (codec.attn_resolutions, codec.resolution, train.size) == ((16,), 256, Size(256, 256))
    assert (discriminator.disc_ndf, discriminator.disc_num_layers, discriminator.disc_loss) == (64, 3, "hinge")
    assert (train.perceptual, train.perceptual_weight, train.disc_weight) == ("lpips-vgg", 1.0, 0.8)
    prior, _ = resolve(STAGES["prior"], [Layer("preset", preset(name).prior)]).configs
    assert prior.arch == "published"
    if name == "f16-1024":
        assert (prior.n_layer, prior.n_head, prior.n_embd) == (24, 16, 1024)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'f16-1024'"):
        preset("f16-1025")


def test_a_preset_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(TypeError):
        PRESETS["mine"] = PRESETS["tiny"]  # type: ignore[index]
