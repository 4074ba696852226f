"""Settings of the codec's training."""

from dataclasses import dataclass
from typing import Literal

from taming_cli.config.fields import check_training, option
from taming_cli.config.kinds import CodecKind
from taming_cli.config.ramp import Ramp
from taming_cli.config.size import Size
from taming_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CodecTrainConfig:
    """How a codec is trained."""

    kind: CodecKind = option("image", "Kind of the files: pictures, or the maps of a condition.")
    labels: int = option(
        0, "Number of labels of segmentation maps; 0: the largest label that occurs, plus one.", low=0, high=65536
    )
    unlabelled: bool = option(
        False, "255 marks unlabelled pixels of segmentation maps; they become label 0, and other labels increase by 1."
    )
    colours: str | None = option(
        None, "Colour table of segmentation maps in true colour: one line `#rrggbb name` per label.", metavar="FILE"
    )
    label_values: tuple[int, ...] = option(
        (),
        "Pixel values of segmentation maps that become labels 0, 1, 2 and so on; for masks, 0,255.",
        low=-(2**31),
        high=2**31 - 1,
    )
    missing: tuple[str, ...] = option(
        (),
        "Values that mark missing pixels of depth maps, like 0,65535 or nan; replaced by the nearest measured value.",
        metavar="VALUE",
    )
    depth_range: tuple[float, ...] = option(
        (0.0, 100.0),
        "Percentiles of a depth map that are mapped to -1 and 1; 2,98 ignores outliers.",
        low=0,
        high=100,
    )
    pictures: str | None = option(
        None,
        "Pictures of keypoint files that do not record picture sizes; paired by name.",
        metavar="PATH",
    )
    size: Size = option(Size(128, 128), "Size of the training crops, in pixels.", metavar="WxH")
    steps: int = option(0, "Number of optimiser steps; 0: no limit.", low=0, live=True)
    minutes: float = option(8.0, "Wall-clock time in minutes; 0: no limit.", low=0, live=True)
    batch_size: int = option(8, "Pictures per step.", low=1)
    accumulate: int = option(1, "Split each batch into this many parts and accumulate their gradients.", low=1)
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, a third slower."
    )
    learning_rate: float = option(3e-4, "Peak learning rate of the codec.", low=0)
    disc_learning_rate: float = option(2e-4, "Peak learning rate of the discriminator.", low=0)
    betas: tuple[float, ...] = option((0.5, 0.9), "Adam betas.", low=0, high=0.9999)
    warmup: int = option(50, "Steps of linear learning-rate warm-up.", low=0)
    final_lr: float = option(0.02, "Final learning rate as a fraction of the peak (cosine schedule).", low=0, high=1)
    disc_final_lr: float = option(
        1.0, "Final learning rate of the discriminator as a fraction of its peak; 1: constant.", low=0, high=1
    )
    clip: float = option(1.0, "Gradient norm of the codec above which gradients are clipped; 0: never.", low=0)
    ema: float = option(0.998, "Decay of the moving average of the weights; 0: none.", low=0, high=0.99999)

    l1_weight: float = option(1.0, "Weight of the L1 loss.", low=0)
    l2_weight: float = option(
        2.0, "Weight of the L2 loss; with a larger weight, large areas and colours are learned sooner.", low=0
    )
    perceptual: Literal["lpips-vgg", "lpips-alex", "lpips-squeeze", "efficientnet-lite0", "none"] = option(
        "efficientnet-lite0", "Perceptual network; all but efficientnet-lite0 and none need a download."
    )
    perceptual_weight: float = option(0.2, "Weight of the perceptual loss.", low=0)
    logits_weight: float = option(
        0.0, "Weight of the squared difference of class logits of efficientnet-lite0; try 0.001. 0: none.", low=0
    )
    codebook_weight: float = option(1.0, "Weight of the codebook and commitment losses.", low=0)
    beta: float = option(0.25, "Weight of the commitment loss relative to the codebook loss.", low=0)
    legacy: bool = option(False, "Apply beta to the codebook loss instead, as the published code did.")
    kl_weight: float = option(
        5e-4, "With --codebook gumbel: weight of the mean KL divergence of a cell's code from uniform.", low=0
    )
    kl_ramp: float = option(
        0.1, "Fraction of the training over which this weight grows from 0 (half a cosine).", low=0, high=1
    )
    relaxation: float | Ramp = option(
        Ramp(1.0, 1 / 16),
        "With --codebook gumbel: temperature at which codes are sampled in training, at the start and after "
        "--relaxation-ramp.",
        low=0.001,
        metavar="START:END",
    )
    relaxation_ramp: float = option(
        0.5, "Fraction of the training over which the temperature changes (half a cosine).", low=0, high=1
    )
    disc_weight: float = option(0.2, "Weight of the adversarial loss, multiplied by the adaptive weight.", low=0)
    disc_train_start: float = option(
        0.3, "Fraction of the training after which the discriminator starts to train.", low=0, high=1
    )
    disc_start: float = option(
        0.4, "Fraction of the training after which the adversarial loss is applied.", low=0, high=1
    )
    disc_ramp: float = option(
        0.1, "Fraction of the training over which the adversarial loss grows to its full weight.", low=0, high=1
    )

    lecam_weight: float = option(
        0.0, "Weight of the discriminator's LeCam regularisation, for few pictures; 0: none.", low=0
    )

    disc_augment: tuple[Literal["colour", "translation", "cutout"], ...] = option(
        (),
        "Random changes of what the discriminator sees, for few pictures: of brightness, saturation and contrast, of "
        "the position, and a hole; a picture and its reconstruction are changed alike.",
    )

    quantizer: Literal["ema", "vq", "simvq", "ibq", "fsq", "lfq"] = option(
        "ema",
        "How the codebook learns: by moving averages (ema), by its own loss (vq, as published), as a linear map of "
        "fixed entries (simvq), by the gradient of all entries (ibq); fsq and lfq have a fixed grid of codes.",
    )
    quantize_start: float = option(
        0.0,
        "Fraction of the training after which codes are used; before, the decoder reads the encoder's vectors.",
        low=0,
        high=0.9,
    )
    gradient: Literal["straight-through", "rotation"] = option(
        "straight-through",
        "With ema, vq and simvq: how the gradient of the decoder passes through the quantizer: unchanged, or by the "
        "rotation from vector to entry.",
    )
    entropy_weight: float = option(
        0.1, "With ibq and lfq: weight of the entropy of each cell's code minus that of all codes of a batch.", low=0
    )
    entropy_temperature: float = option(
        0.01, "With ibq and lfq: temperature of the logits whose entropy is measured.", low=1e-6
    )
    codebook_decay: float = option(0.9, "Decay of the moving averages of the ema quantizer.", low=0, high=0.99999)
    revive: float = option(
        0.1, "Replace entries used less than this fraction of the mean use; 0: never, as published.", low=0, high=1
    )

    crop_scale: tuple[float, ...] = option(
        (0.4, 1.0), "Smallest and largest area of a training crop, as fractions of the largest crop.", low=0.01, high=1
    )
    flip: bool = option(True, "Mirror half of the training crops.")
    held: float = option(0.05, "Fraction of the pictures that is held out, unless --val is given.", low=0.001, high=0.9)
    val_every: float = option(0.1, "Fraction of the training between two validations.", low=0.001, high=1)
    val_images: int = option(64, "Held-out pictures used in each validation.", low=1)
    save_every: float = option(5.0, "Minutes between two saves, besides those at each validation.", low=0.01, live=True)
    snapshots: bool = option(False, "Keep the model of each validation, as checkpoints/step_*.safetensors.", live=True)
    tensorboard: bool = option(False, "Also write event files for TensorBoard; needs tensorboardX.", live=True)
    seed: int = option(0, "Random seed.", low=0, high=2**63 - 1)
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:N or mps.", live=True, metavar="NAME")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision of the networks; losses and quantisation are in fp32."
    )
    workers: int = option(0, "Processes that read pictures; 0: one thread.", low=0, live=True)
    cache: int = option(1024, "Memory for decoded pictures, in MiB.", low=0, live=True)
    val: str | None = option(None, "Held-out pictures: a folder, file, archive or list of paths.", metavar="PATH")
    init: str | None = option(None, "Start from the weights and architecture of this codec.", metavar="FILE")
    train: Literal["all", "decoder"] = option(
        "all", "Parts to train; `decoder` keeps encoder and codebook, so that existing tokens and priors stay valid."
    )
    perturb: float = option(
        0.0,
        "With --train decoder: replace the codes of random cells before they are decoded, in each picture a fraction "
        "between 0 and this one; 0: none.",
        low=0,
        high=1,
    )
    perturb_prior: str | None = option(
        None,
        "With --perturb: draw the replaced codes from this prior, given the other cells; by default, they are near "
        "entries of the codebook.",
        flag="--prior",
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        check_training(self)
        if len(self.crop_scale) != 2 or self.crop_scale[0] > self.crop_scale[1]:
            raise UsageError(f"crop_scale is {self.crop_scale}; give smallest and largest, like 0.4,1")
        if self.gradient != "straight-through" and self.quantizer in ("ibq", "fsq", "lfq"):
            raise UsageError(
                f"gradient is {self.gradient!r}, but quantizer {self.quantizer!r} has its own; use --gradient "
                "straight-through"
            )
        if self.kind != "image" and (self.perceptual != "none" or self.disc_weight):
            raise UsageError(
                f"kind is {self.kind!r}: a codec of maps has neither a perceptual loss nor a discriminator; use "
                "--perceptual none and --disc-weight 0"
            )
        if not self.disc_weight and self.lecam_weight:
            raise UsageError(
                f"lecam_weight is {self.lecam_weight:g}, but there is no discriminator, since disc_weight is 0; leave "
                "lecam_weight out"
            )
        if not self.disc_weight and self.disc_augment:
            raise UsageError(
                f"disc_augment is {','.join(self.disc_augment)}, but there is no discriminator, since disc_weight is "
                "0; leave disc_augment out"
            )
        if self.logits_weight and self.perceptual == "none":
            raise UsageError(
                f"logits_weight is {self.logits_weight:g}, but perceptual is 'none'; use --perceptual "
                "efficientnet-lite0, with --perceptual-weight 0 for the logits alone"
            )
        if self.kind != "segmentation" and (self.labels or self.unlabelled or self.colours or self.label_values):
            raise UsageError(
                f"labels, unlabelled, colours and label_values are for segmentation maps, but kind is {self.kind!r}"
            )
        self._check_perturb()
        self._check_depth()
        if self.kind != "pose" and self.pictures is not None:
            raise UsageError(f"pictures is for keypoints, but kind is {self.kind!r}; leave it out")
        if self.label_values:
            self._check_label_values()

    def _check_perturb(self) -> None:
        if self.perturb and self.train != "decoder":
            raise UsageError(
                f"perturb is {self.perturb:g}, which is for the training of a decoder alone; use --train decoder, or "
                "leave it out"
            )
        if self.perturb_prior is not None and not self.perturb:
            raise UsageError(
                f"perturb_prior is {self.perturb_prior!r}, but perturb is 0, so that no code is replaced; use "
                "--perturb 0.5, or leave --prior out"
            )

    def _check_depth(self) -> None:
        if len(self.depth_range) != 2 or self.depth_range[0] >= self.depth_range[1]:
            value = ",".join(f"{each:g}" for each in self.depth_range)
            raise UsageError(f"depth_range is {value}; give two percentiles, the lower first, like 2,98")
        for value in self.missing:
            try:
                float(value)
            except ValueError:
                raise UsageError(f"missing is {value!r}; give numbers, nan, inf or -inf, like 0,65535") from None
        if self.kind != "depth" and (self.missing or self.depth_range != (0.0, 100.0)):
            raise UsageError(f"missing and depth_range are for depth maps, but kind is {self.kind!r}; leave them out")

    def _check_label_values(self) -> None:
        values = self.label_values
        if self.unlabelled or self.colours:
            other = "unlabelled" if self.unlabelled else "colours"
            raise UsageError(f"label_values and {other} both define the meaning of pixel values; leave one of them out")
        if len(set(values)) < len(values) or len(values) < 2:
            raise UsageError(f"label_values is {','.join(map(str, values))}; give two or more different values")
        if self.labels and self.labels != len(values):
            raise UsageError(f"labels is {self.labels}, but label_values lists {len(values)}; leave labels out")
