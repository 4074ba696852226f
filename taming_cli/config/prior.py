"""The prior (stage 2): its architecture, which the model file keeps, and how it is trained."""

from dataclasses import dataclass
from typing import Literal

from taming_cli.config.fields import check, option
from taming_cli.config.size import Size
from taming_cli.errors import UsageError

Order = Literal["raster", "z-curve", "spiral-out", "spiral-in", "alternating"]


@dataclass(frozen=True, kw_only=True)
class ConditionSpec:
    """One condition that stands before the image tokens: its kind, its codes, and how many of them a window sees.

    Adding a kind is adding such a line of data; neither the network nor the sampler knows kinds by name.
    """

    kind: str = option("class", "What it is: class, segmentation, depth, ...")
    vocabulary: int = option(1, "How many codes it has.", low=1)
    form: Literal["sequence", "grid"] = option(
        "sequence", "sequence: so many tokens for the whole picture; grid: one for each cell of the window."
    )
    length: int = option(1, "Tokens of a sequence; a grid has one for each cell.", low=1)

    def __post_init__(self) -> None:
        check(self)
        if not self.kind:
            raise UsageError("kind is ''; a condition needs a name")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What the network is. Fields without a flag are filled from the token files, or by `taming import`."""

    arch: Literal["modern", "published"] = option(
        "modern",
        "modern: RMSNorm, SwiGLU, 2-D rotary positions, query/key norm; published: learned positions, LayerNorm, GELU.",
    )
    n_layer: int = option(4, "Transformer blocks.", low=1)
    n_head: int = option(4, "Attention heads.", low=1)
    n_embd: int = option(256, "Width of the network; a multiple of the heads.", low=1)
    window: Size = option(
        Size(16, 16),
        "Cells that the prior sees at once; a token file with smaller grids makes it smaller.",
        metavar="WxH",
    )
    codebook_size: int = option(1024, "Codes of the codec whose tokens it models.", low=1, hidden=True)
    conditions: tuple[ConditionSpec, ...] = option((), "What stands before the image tokens, in order.", hidden=True)
    vocabulary: Literal["separate", "shared"] = option(
        "separate",
        "separate: every condition has its own rows of the token table, one of them for 'not given'; shared: condition "
        "and image tokens use the same rows, as in the published files.",
        hidden=True,
    )
    vocab_size: int = option(0, "Rows of a shared table; 0: as many as its largest code needs.", low=0, hidden=True)
    order: Order = option("raster", "The order of the window's cells; only raster goes beyond one window.", hidden=True)
    sos_token: int = option(0, "Row of a shared table that says start where there is no condition.", low=0, hidden=True)
    block_size: int = option(0, "Learned positions; 0: as many as condition and window need.", low=0, hidden=True)

    def __post_init__(self) -> None:
        check(self)
        if self.n_embd % self.n_head:
            raise UsageError(f"n_embd is {self.n_embd}; it must be a multiple of n_head, which is {self.n_head}")
        if self.arch == "modern" and self.head_size % 4:
            raise UsageError(f"n_embd / n_head is {self.head_size}; 2-D rotary positions need a multiple of 4")
        if self.arch == "modern" and self.vocabulary == "shared":
            raise UsageError("vocabulary is 'shared', which only arch 'published' has; use 'separate'")
        if self.order != "raster" and self.arch == "modern":
            raise UsageError(f"order is {self.order!r}, which only arch 'published' has; use 'raster'")
        if self.order.startswith("spiral") and (self.window.width != self.window.height or self.window.width % 2):
            raise UsageError(f"window is {self.window}; the order {self.order!r} needs a square with even sides")
        kinds = [spec.kind for spec in self.conditions]
        if len(set(kinds)) < len(kinds):
            raise UsageError(f"conditions are {', '.join(kinds)}; each kind may be there once")
        largest = max([self.codebook_size, *(spec.vocabulary for spec in self.conditions)])
        if self.vocab_size and (self.vocabulary == "separate" or self.vocab_size < largest):
            raise UsageError(f"vocab_size is {self.vocab_size}; use 0, or for a shared table {largest} or more")
        rows = (self.vocab_size or largest) if self.vocabulary == "shared" and not self.conditions else 1
        if self.sos_token >= rows:
            raise UsageError(f"sos_token is {self.sos_token}; it must be below {rows}, the rows that can say start")
        needed = self.prefix_length + self.cells - 1
        if self.block_size and self.block_size < needed:
            raise UsageError(f"block_size is {self.block_size}; condition and window need {needed}")

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
        """Tokens before the first image token; with no condition, the one that says start."""
        return sum(self.tokens_of(spec) for spec in self.conditions) or 1

    @property
    def num_classes(self) -> int:
        """Classes of the class condition; 0 where there is none."""
        return next((spec.vocabulary for spec in self.conditions if spec.kind == "class"), 0)

    def tokens_of(self, spec: ConditionSpec) -> int:
        """Tokens that a condition puts before a window."""
        return self.cells if spec.form == "grid" else spec.length


@dataclass(frozen=True, kw_only=True)
class PriorTrainConfig:
    """How a prior is trained."""

    steps: int = option(0, "Optimiser updates; 0: as many as --minutes allow.", low=0, live=True)
    minutes: float = option(8.0, "Wall-clock minutes; 0: as long as --steps take.", low=0, live=True)
    batch_size: int = option(16, "Windows per step.", low=1)
    accumulate: int = option(
        1, "Parts that a step's windows are taken in, one after the other; their gradients are added up.", low=1
    )
    gradient_checkpointing: bool = option(
        False, "Make activations once more on the way back instead of keeping them: less memory, a third slower."
    )
    fsdp: bool = option(
        False,
        "Share weights, gradients and optimiser out among the processes (FSDP2): for priors that do not fit one.",
        live=True,
    )
    learning_rate: float = option(2e-3, "Peak learning rate.", low=0)
    betas: tuple[float, ...] = option((0.9, 0.95), "AdamW's two betas.", low=0, high=0.9999)
    weight_decay: float = option(0.05, "AdamW's decay, on the weights of linear layers only.", low=0)
    warmup: int = option(50, "Steps of linear warm-up.", low=0)
    final_lr: float = option(0.05, "Learning rate at the end as a share of its peak (cosine).", low=0, high=1)
    clip: float = option(1.0, "Largest gradient norm; 0: no limit.", low=0)
    ema: float = option(0.998, "Decay of the moving average of the weights; 0: none.", low=0, high=0.99999)

    dropout: float = option(
        0.1, "Share zeroed of embeddings and block outputs; if published, of attention weights too.", low=0, high=0.9
    )
    pkeep: float = option(
        1.0, "Probability that an input code is kept; the others become random codes, the targets stay.", low=0, high=1
    )
    condition_dropout: float = option(
        0.1,
        "Probability that a picture is shown without its conditions, and that of several one is left out; guidance "
        "needs some.",
        low=0,
        high=1,
    )

    cond: tuple[str, ...] = option(
        (), "Conditions to learn, of those that the token files have; none at all: `none`.", metavar="KIND"
    )
    held: float = option(0.05, "Share of the pictures held out.", low=0.001, high=0.9)
    val_every: float = option(0.1, "Share of the training between two validations.", low=0.001, high=1)
    val_windows: int = option(512, "Held-out windows looked at in each validation.", low=1)
    patience: int = option(
        0, "Validations without a better one after which training stops; 0: never.", low=0, live=True
    )
    save_every: float = option(5.0, "Minutes between two saves, besides those at each validation.", low=0.01, live=True)
    snapshots: bool = option(False, "Keep the model of each validation, as checkpoints/step_*.safetensors.", live=True)
    samples: int = option(16, "Pictures drawn at each validation; 0: none.", low=0)
    tensorboard: bool = option(False, "Write curves and pictures for TensorBoard too; needs tensorboardX.", live=True)
    seed: int = option(0, "Seed of everything random.", low=0, high=2**63 - 1)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", live=True, metavar="NAME")
    precision: Literal["auto", "fp32", "bf16"] = option("auto", "Arithmetic of the network; weights and loss are fp32.")
    init: str | None = option(None, "Prior to start from: a model file, whose architecture is used.", metavar="FILE")

    def __post_init__(self) -> None:
        check(self)
        if not self.steps and not self.minutes:
            raise UsageError("steps and minutes are both 0; say how long to train with --steps or --minutes")
        if len(self.betas) != 2:
            raise UsageError(f"betas is {self.betas}; give two, like 0.9,0.95")
