"""Presets: named sets of settings. A preset lists the settings that differ from the fields' defaults.

`f16-1024` and `f16-16384` are the codecs of the paper, and the prior of `f16-1024` is its 24-layer transformer (Esser,
Rombach, Ommer 2021, appendix A, tables 6 and 8), with the corrections listed in the changelog.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import one_of
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

CONFIGS: Mapping[str, Mapping[str, type[Any]]] = MappingProxyType(
    {
        "train-vqgan": {"codec": CodecConfig, "discriminator": DiscriminatorConfig, "train": CodecTrainConfig},
        "train-prior": {"prior": PriorConfig, "train": PriorTrainConfig},
    }
)
"""The config classes of each training command, by their group in a run's config.json. Presets have values for these."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A description, and the values by field name for each training command."""

    about: str
    codec: Mapping[str, Any]
    prior: Mapping[str, Any]

    def of(self, command: str) -> Mapping[str, Any]:
        """The values for `train-vqgan` or `train-prior`; empty for other commands."""
        return {"train-vqgan": self.codec, "train-prior": self.prior}.get(command, {})


_PAPER_CODEC = MappingProxyType(
    {
        "ch": 128,
        "ch_mult": (1, 1, 2, 2, 4),
        "num_res_blocks": 2,
        "norm_groups": 32,
        "attn_resolutions": (16,),
        "z_channels": 256,
        "resolution": 256,
        "codebook_size": 1024,
        "codebook_dim": 256,
        "disc_ndf": 64,
        "disc_num_layers": 3,
        "size": Size(256, 256),
        "batch_size": 12,
        "steps": 500_000,
        "minutes": 0.0,
        "learning_rate": 5.4e-5,
        "disc_learning_rate": 5.4e-5,
        "final_lr": 1.0,
        "warmup": 0,
        "ema": 0.9999,
        "l2_weight": 0.0,
        "perceptual": "lpips-vgg",
        "perceptual_weight": 1.0,
        "disc_weight": 0.8,
        "quantizer": "vq",
        "disc_train_start": 0.45,
        "disc_start": 0.5,
        "disc_ramp": 0.05,
        "crop_scale": (0.6, 1.0),
        "val_every": 0.02,
        "save_every": 15.0,
        "workers": 8,
    }
)

_PAPER_PRIOR = MappingProxyType(
    {
        "arch": "published",
        "batch_size": 16,
        "steps": 500_000,
        "minutes": 0.0,
        "learning_rate": 7.2e-5,
        "weight_decay": 0.01,
        "warmup": 0,
        "final_lr": 1.0,
        "dropout": 0.0,
        "condition_dropout": 0.0,
        "ema": 0.0,
    }
)

_WIDE_CODEC = MappingProxyType(
    {
        "ch": 64,
        "ch_mult": (1, 1, 2, 2, 4),
        "num_res_blocks": 2,
        "norm_groups": 16,
        "z_channels": 128,
        "resolution": 256,
        "codebook_size": 4096,
        "disc_ndf": 64,
        "disc_num_layers": 3,
        "size": Size(256, 256),
        "minutes": 0.0,
        "learning_rate": 4e-4,
        "ema": 0.999,
        "workers": 8,
    }
)

_FAST_CODEC = MappingProxyType({"patch_size": 2, "ch_mult": (1, 2, 4), "shortcut": True})
"""Nothing is computed at full resolution, and colours are learned at once; compared in `scripts/RESULTS.md`."""

PLAIN_CODEC: Mapping[str, Any] = MappingProxyType({name: getattr(CodecConfig, name) for name in _FAST_CODEC})
"""Values in place of these for a network that has neither."""

MAPS: Mapping[str, Any] = MappingProxyType({"perceptual": "none", "disc_weight": 0.0})
"""Values for a codec of condition maps, with every preset."""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "tiny": Preset(about="two CPU cores, minutes, no download; f8, 3.1 M parameters", codec=_FAST_CODEC, prior={}),
        "scale-2": Preset(
            about="two to eight CPU cores, half an hour; f8, 7 M parameters",
            codec={**_FAST_CODEC, "ch": 48, "batch_size": 12, "warmup": 100, "minutes": 30.0},
            prior={
                "n_layer": 6,
                "n_head": 5,
                "n_embd": 320,
                "batch_size": 24,
                "minutes": 30.0,
                "learning_rate": 1.4e-3,
                "warmup": 100,
            },
        ),
        "scale-3": Preset(
            about="many CPU cores or a small GPU, an hour; f8, 15 M parameters",
            codec={**_FAST_CODEC, "ch": 72, "batch_size": 18, "warmup": 200, "minutes": 60.0, "workers": 4},
            prior={
                "n_layer": 8,
                "n_head": 7,
                "n_embd": 448,
                "batch_size": 28,
                "minutes": 60.0,
                "learning_rate": 8e-4,
                "warmup": 200,
            },
        ),
        "scale-4": Preset(
            about="one GPU, an hour or two; f16 at 256 x 256, 14 M parameters",
            codec={**_WIDE_CODEC, "num_res_blocks": 1, "batch_size": 14, "steps": 20_000, "warmup": 300},
            prior={
                "n_layer": 10,
                "n_head": 10,
                "n_embd": 640,
                "batch_size": 36,
                "steps": 30_000,
                "minutes": 0.0,
                "learning_rate": 5e-4,
                "warmup": 500,
            },
        ),
        "small": Preset(
            about="one GPU, an evening, no download; f16 at 256 x 256",
            codec={**_WIDE_CODEC, "batch_size": 32, "steps": 50_000, "warmup": 500},
            prior={
                "n_layer": 12,
                "n_head": 12,
                "n_embd": 768,
                "batch_size": 64,
                "steps": 50_000,
                "minutes": 0.0,
                "learning_rate": 4e-4,
                "warmup": 1000,
            },
        ),
        "scale-6": Preset(
            about="one large GPU or several, a day; f16 at 256 x 256, 41 M parameters",
            codec={
                **_WIDE_CODEC,
                "ch": 96,
                "z_channels": 256,
                "batch_size": 48,
                "steps": 100_000,
                "warmup": 1000,
            },
            prior={
                "n_layer": 18,
                "n_head": 16,
                "n_embd": 1024,
                "batch_size": 72,
                "steps": 100_000,
                "minutes": 0.0,
                "learning_rate": 3e-4,
                "warmup": 2000,
            },
        ),
        "vq-vae": Preset(
            about="tiny, trained as a VQ-VAE: squared error alone, without perceptual loss or discriminator",
            codec={**_FAST_CODEC, "l1_weight": 0.0, "l2_weight": 1.0, **MAPS},
            prior={},
        ),
        "vq-vae-2": Preset(
            about="two levels of codes, f4 and f8, at the published width; squared error alone; 1.5 M parameters",
            codec={
                "network": "vq-vae-2",
                "ch": 128,
                "num_res_blocks": 2,
                "codebook_size": 512,
                "codebook_dim": 64,
                "l1_weight": 0.0,
                "l2_weight": 1.0,
                **MAPS,
            },
            prior={},
        ),
        "dvae": Preset(
            about="DALL-E's discrete VAE at a fourth of its width; f8, 3.2 M parameters",
            codec={
                "network": "dvae",
                "codebook": "gumbel",
                "ch": 64,
                "ch_mult": (1, 2, 4, 8),
                "codebook_dim": 128,
                "kl_weight": 6.6 / 192,
                "learning_rate": 1e-3,
                "betas": (0.9, 0.999),
                **MAPS,
            },
            prior={},
        ),
        "palette": Preset(
            about="each pixel by itself: 512 colours found by k-means, as in Image GPT; f1, in seconds",
            codec={
                "network": "palette",
                "ch_mult": (1,),
                "codebook_size": 512,
                "codebook_dim": 3,
                "size": Size(32, 32),
                "steps": 50,
                "minutes": 0.0,
                "batch_size": 256,
                "learning_rate": 0.0,
                "val_every": 1.0,
                **MAPS,
            },
            prior={},
        ),
        "f16-1024": Preset(
            about="the paper's codec with 1,024 codes; days on several GPUs; needs the weights of lpips-vgg",
            codec=_PAPER_CODEC,
            prior={**_PAPER_PRIOR, "n_layer": 24, "n_head": 16, "n_embd": 1024},
        ),
        "f16-16384": Preset(
            about="the paper's codec with 16,384 codes; days on several GPUs; needs the weights of lpips-vgg",
            codec={**_PAPER_CODEC, "codebook_size": 16384},
            prior={**_PAPER_PRIOR, "n_layer": 48, "n_head": 24, "n_embd": 1536},
        ),
    }
)


SCALES: tuple[str, ...] = ("tiny", "scale-2", "scale-3", "scale-4", "small", "scale-6")
"""The presets of `--scale` 1 to 6. A training step of each takes about three times the operations of one of the scale
before. Rates and warm-up of the scales between `tiny` and `small` lie between theirs."""


def of_scale(scale: int) -> str:
    """The name of the preset of a scale, 1 to 6. UsageError for any other number."""
    if not 1 <= scale <= len(SCALES):
        raise UsageError(f"scale is {scale}; give 1 (tiny) to {len(SCALES)}")
    return SCALES[scale - 1]


def preset(name: str) -> Preset:
    """The preset of that name. UsageError with the nearest one otherwise."""
    if name not in PRESETS:
        raise UsageError(f"preset {name!r} is unknown; {one_of(PRESETS, name)}")
    return PRESETS[name]
