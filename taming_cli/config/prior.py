"""Settings of the prior: its architecture, which the model file keeps, and its training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from taming_cli.config import former
from taming_cli.config.fields import check, check_training, from_dict, option
from taming_cli.config.levels import SCALE, TOP_CONDITION, Level
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

Order = Literal["raster", "z-curve", "spiral-out", "spiral-in", "alternating"]


@dataclass(frozen=True, kw_only=True)
class ConditionSpec:
    """One condition before the image tokens: its kind, its number of codes, and its tokens per window.

    A new kind needs only a new value of this class: neither the network nor the sampler depends on the names of kinds.
    """

    kind: str = option("class", "Kind of the condition: class, segmentation, depth, ...")
    vocabulary: int = option(1, "Number of codes.", low=1)
    form: Literal["sequence", "grid"] = option(
        "sequence", "sequence: a number of tokens for the whole picture; grid: one token for each cell of the window."
    )
    length: int = option(1, "Tokens of a sequence; a grid has one token per cell.", low=1)
    scale: int = option(1, "Cells of the picture along each side of a grid's own cell, which all have its code.", low=1)

    def __post_init__(self) -> None:
        check(self)
        if not self.kind:
            raise UsageError("kind is ''; a condition needs a name")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """The architecture of a prior. Fields without a flag are set from the token files, or by `taming import`."""

    arch: Literal["any-order", "modern", "published", "pixelsnail"] = option(
        "any-order",
        "any-order: groups of cells are drawn at once, in any order; modern: one cell after another, in raster order, "
        "with RMSNorm, SwiGLU, 2-D rotary positions and query/key norm; published: as modern, with learned positions, "
        "LayerNorm and GELU; pixelsnail: in raster order, causal convolutions with attention, pictures of one size.",
    )
    level: Level = option(
        "single",
        "With a codec of two levels of codes, the one to model: top, or bottom, which follows from the top one.",
    )
    n_layer: int = option(4, "Transformer blocks, or blocks of --arch pixelsnail.", low=1, high=2**10)
    n_head: int = option(4, "Attention heads.", low=1)
    n_embd: int = option(256, "Width of the network; a multiple of --n-head.", low=1, high=2**17)
    window: Size = option(
        Size(16, 16),
        "Context of the prior, in cells; reduced to the grid of the token files where that is smaller.",
        metavar="WxH",
    )
    reach: int = option(
        10,
        "With --arch any-order: distance in cells at which cells see one another; the first ones are seen from afar.",
        low=1,
    )
    neighbour_features: int = option(
        32,
        "With --arch any-order: what a token knows of each code around its cell, besides a weighted sum of them.",
        low=0,
        hidden=True,
    )
    res_blocks: int = option(
        4, "With --arch pixelsnail: causal residual blocks before each attention.", low=1, high=2**10
    )
    kernel: int = option(5, "With --arch pixelsnail: side of the causal kernels, an odd number.", low=3)
    res_width: int = option(
        0, "With --arch pixelsnail: channels within residual blocks; 0: --n-embd.", low=0, hidden=True
    )
    attention: bool = option(True, "With --arch pixelsnail: whether blocks have attention.", hidden=True)
    out_blocks: int = option(
        0, "With --arch pixelsnail: residual blocks before the head.", low=0, high=2**10, hidden=True
    )
    map_blocks: int = option(
        3, "With --arch pixelsnail: residual blocks that read a condition grid.", low=0, high=2**10, hidden=True
    )
    map_width: int = option(
        0, "With --arch pixelsnail: channels of what is read of the conditions; 0: --n-embd.", low=0, hidden=True
    )
    map_kernel: int = option(
        3, "With --arch pixelsnail: side of the kernels that read a condition grid.", low=1, hidden=True
    )
    codebook_size: int = option(1024, "Codes of the codec whose tokens are modelled.", low=1, hidden=True)
    conditions: tuple[ConditionSpec, ...] = option((), "Conditions before the image tokens, in order.", hidden=True)
    vocabulary: Literal["separate", "shared"] = option(
        "separate",
        "separate: each condition has its own rows of the token table, one of them for 'not given'; shared: condition "
        "and image tokens use the same rows, as in the published files.",
        hidden=True,
    )
    vocab_size: int = option(0, "Rows of a shared table; 0: as many as its largest code needs.", low=0, hidden=True)
    order: Order = option("raster", "Order of the window's cells; only raster extends beyond one window.", hidden=True)
    sos_token: int = option(0, "Row of a shared table for 'start', where there is no condition.", low=0, hidden=True)
    block_size: int = option(0, "Learned positions; 0: as many as condition and window need.", low=0, hidden=True)

    def __post_init__(self) -> None:
        check(self)
        if self.n_embd % self.n_head:
            raise UsageError(f"n_embd is {self.n_embd}; it must be a multiple of n_head, which is {self.n_head}")
        if self.arch == "pixelsnail":
            self._check_pixelsnail()
        elif self.arch != "published" and self.head_size % 4:
            raise UsageError(f"n_embd / n_head is {self.head_size}; 2-D rotary positions need a multiple of 4")
        if self.arch != "published" and self.vocabulary == "shared":
            raise UsageError("vocabulary is 'shared', which only arch 'published' has; use 'separate'")
        if self.order != "raster" and self.arch != "published":
            raise UsageError(f"order is {self.order!r}, which only arch 'published' has; use 'raster'")
        if self.order.startswith("spiral") and (self.window.width != self.window.height or self.window.width % 2):
            raise UsageError(f"window is {self.window}; the order {self.order!r} needs a square with even sides")
        kinds = [spec.kind for spec in self.conditions]
        if TOP_CONDITION in kinds and (self.window.width % SCALE or self.window.height % SCALE):
            raise UsageError(
                f"window is {self.window}; its sides must be even, as each code of the top level has 2 x 2"
            )
        if len(set(kinds)) < len(kinds):
            raise UsageError(f"conditions are {', '.join(kinds)}; each kind may occur once")
        largest = max([self.codebook_size, *(spec.vocabulary for spec in self.conditions)])
        if self.vocab_size and (self.vocabulary == "separate" or self.vocab_size < largest):
            raise UsageError(f"vocab_size is {self.vocab_size}; use 0, or for a shared table {largest} or more")
        rows = (self.vocab_size or largest) if self.vocabulary == "shared" and not self.conditions else 1
        if self.sos_token >= rows:
            raise UsageError(f"sos_token is {self.sos_token}; it must be below {rows}, the number of rows for 'start'")
        needed = self.sequence_length
        if self.block_size and self.block_size < needed:
            raise UsageError(f"block_size is {self.block_size}; condition and window need {needed}")

    def _check_pixelsnail(self) -> None:
        for name, value in (("kernel", self.kernel), ("map_kernel", self.map_kernel)):
            if value % 2 == 0:
                raise UsageError(f"{name} is {value}; it must be odd, so that a kernel has a middle")
        if self.n_embd // 2 % self.n_head:
            raise UsageError(
                f"n_embd is {self.n_embd}; with --arch pixelsnail, half of it must be a multiple of n_head, which is "
                f"{self.n_head}"
            )

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.n_embd // self.n_head

    @property
    def cells(self) -> int:
        """Cells of the window."""
        return self.window.width * self.window.height

    @property
    def prefix_length(self) -> int:
        """Tokens before the first image token; without conditions, the token "start"."""
        return sum(self.tokens_of(spec) for spec in self.conditions) or 1

    @property
    def sequence_length(self) -> int:
        """Tokens that run through the network for one window in training."""
        if self.arch == "pixelsnail":
            return self.cells
        return 2 * self.cells if self.arch == "any-order" else self.prefix_length + self.cells - 1

    @property
    def num_classes(self) -> int:
        """Number of classes of the class condition; 0 where there is none."""
        return next((spec.vocabulary for spec in self.conditions if spec.kind == "class"), 0)

    def tokens_of(self, spec: ConditionSpec) -> int:
        """Number of tokens of a condition before a window."""
        return self.cells if spec.form == "grid" else spec.length


def recorded_prior(values: Mapping[str, Any], where: str) -> PriorConfig:
    """The architecture that a file records. UsageError, which names `where`, for an unknown key or a bad value."""
    return from_dict(PriorConfig, {**former.PRIOR, **values}, where)


@dataclass(frozen=True, kw_only=True)
class PriorTrainConfig:
    """How a prior is trained."""

    steps: int = option(0, "Number of optimiser steps; 0: no limit.", low=0, live=True)
    minutes: float = option(8.0, "Wall-clock time in minutes; 0: no limit.", low=0, live=True)
    batch_size: int = option(16, "Windows per step.", low=1)
    accumulate: int = option(1, "Split each batch into this many parts and accumulate their gradients.", low=1)
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, a third slower."
    )
    compile: bool = option(
        False,
        "Compile the transformer blocks (torch.compile): steps in bf16 are about 1.4 times as fast on a CPU, after a "
        "minute of preparation. Needs a C++ compiler.",
        live=True,
    )
    fsdp: bool = option(
        False,
        "Shard weights, gradients and optimiser across the processes (FSDP2), for priors that do not fit on one GPU.",
        live=True,
    )
    learning_rate: float = option(2e-3, "Peak learning rate.", low=0)
    betas: tuple[float, ...] = option((0.9, 0.95), "AdamW betas.", low=0, high=0.9999)
    weight_decay: float = option(0.05, "Weight decay of AdamW, on the weights of linear layers only.", low=0)
    warmup: int = option(50, "Steps of linear learning-rate warm-up.", low=0)
    final_lr: float = option(0.05, "Final learning rate as a fraction of the peak (cosine schedule).", low=0, high=1)
    clip: float = option(1.0, "Gradient norm above which gradients are clipped; 0: never.", low=0)
    ema: float = option(0.998, "Decay of the moving average of the weights; 0: none.", low=0, high=0.99999)

    dropout: float = option(
        0.1, "Dropout on embeddings and block outputs, and with --arch published on attention weights.", low=0, high=0.9
    )
    pkeep: float = option(
        1.0, "Probability of keeping an input code; others are replaced by random codes. Targets stay.", low=0, high=1
    )
    condition_dropout: float = option(
        0.1,
        "Probability of dropping all conditions of a picture, and of dropping each one of several. Guidance needs a "
        "value above 0.",
        low=0,
        high=1,
    )

    cond: tuple[str, ...] = option(
        (),
        "Conditions of the token files to train on; `none`: without conditions. Default: all of them.",
        metavar="KIND",
    )
    held: float = option(0.05, "Fraction of the pictures that is held out.", low=0.001, high=0.9)
    val_every: float = option(0.1, "Fraction of the training between two validations.", low=0.001, high=1)
    val_windows: int = option(512, "Held-out windows used in each validation.", low=1)
    patience: int = option(
        0, "Number of validations without improvement after which training stops; 0: never.", low=0, live=True
    )
    save_every: float = option(5.0, "Minutes between two saves, besides those at each validation.", low=0.01, live=True)
    snapshots: bool = option(False, "Keep the model of each validation, as checkpoints/step_*.safetensors.", live=True)
    samples: int = option(16, "Pictures drawn at each validation; 0: none.", low=0)
    tensorboard: bool = option(False, "Also write event files for TensorBoard; needs tensorboardX.", live=True)
    seed: int = option(0, "Random seed.", low=0, high=2**63 - 1)
    device: str = option("auto", "Device: auto, cpu, cuda, cuda:N or mps.", live=True, metavar="NAME")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Precision of the network; weights and loss are in fp32."
    )
    init: str | None = option(None, "Start from the weights and architecture of this prior.", metavar="FILE")

    def __post_init__(self) -> None:
        check_training(self)
