"""PixelSNAIL (Chen et al. 2018) over codes: causal convolutions and causal attention predict each code from all those
before it in raster order. This is the form in which it models the codes of VQ-VAE-2 (Razavi et al. 2019).

Each module computes a whole grid, for training, or, given `CellSteps`, one cell from what the cells before it left
there: the operations are the same, so both have the same results up to rounding.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.prior.layout import NOT_GIVEN
from taming_cli.prior.networks.attention import cached_attention, causal_attention
from taming_cli.prior.predictions import Predictions, TokenBatch
from taming_cli.runtime.gradient_checkpointing import Recomputable

NOTHING = NOT_GIVEN
"""The code of a cell that is beyond the grid, not yet drawn, or not given: it adds nothing to a convolution."""


class Conv(nn.Module):
    """A convolution with normalised weights, g v / |v| for each output channel (Salimans & Kingma 2016).

    (B, in, H, W) -> (B, out, H, W), with zeros beyond the grid. `kernel` is (rows, columns).
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1), *, bias: bool = True) -> None:
        super().__init__()
        self.kernel = kernel
        like = nn.Conv2d(inputs, outputs, kernel, bias=bias)
        self.weight_v = nn.Parameter(like.weight.detach())
        self.weight_g = nn.Parameter(self.weight_v.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach())

    @property
    def weight(self) -> Tensor:
        """The normalised weights, (out, in, rows, columns)."""
        v = self.seen()
        norm: Tensor = v.flatten(1).norm(dim=1)
        return v * (self.weight_g / norm.view(-1, 1, 1, 1))

    def seen(self) -> Tensor:
        """The weights before normalisation."""
        return self.weight_v

    def forward(self, x: Tensor, steps: "CellSteps | None" = None) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.over(F.pad(x, self.padding()) if steps is None else x, steps)

    def padding(self) -> tuple[int, int, int, int]:
        """Cells beyond the grid: left, right, above, below."""
        rows, columns = self.kernel
        return columns // 2, columns // 2, rows // 2, rows // 2

    def over(self, x: Tensor, steps: "CellSteps | None") -> Tensor:
        """The convolution of what is padded already, or at one cell, of the cells around it."""
        if steps is None:
            return F.conv2d(x, self.weight, self.bias)
        return F.linear(x.flatten(1), steps.prepared(self), self.bias)[..., None, None]

    def prepared(self) -> Tensor:
        """The weights as `over` needs them at one cell: (out, in rows columns)."""
        return self.weight.flatten(1)


class CausalConv(Conv):
    """A convolution over a square of cells, of which it sees those before the cell in raster order: all rows above, and
    of its own row those to the left."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__(inputs, outputs, (side, side))
        self.build_mask()
        with torch.no_grad():
            self.weight_g.copy_(self.seen().flatten(1).norm(dim=1).view(-1, 1, 1, 1))

    def build_mask(self) -> None:
        """Compute which cells it sees: 1, and 0 for the others, (side, side)."""
        mask = torch.ones(self.kernel)
        mask[-1, self.kernel[1] // 2 :] = 0
        self.register_buffer("mask", mask, persistent=False)

    def seen(self) -> Tensor:  # noqa: D102 - as of Conv
        return self.weight_v * self.mask

    def padding(self) -> tuple[int, int, int, int]:  # noqa: D102
        side = self.kernel[0]
        return side // 2, side // 2, side - 1, 0

    def forward(self, x: Tensor, steps: "CellSteps | None" = None) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        return self.over(F.pad(x, self.padding()) if steps is None else steps.around(self, x), steps)


class CodeConv(Conv):
    """A convolution of one-hot codes: sums of rows of its weights, without the products with zeros."""

    def over(self, x: Tensor, steps: "CellSteps | None") -> Tensor:
        """Codes (B, H + rows - 1, W + columns - 1) int64, NOTHING beyond the grid -> (B, out, H, W)."""
        (rows, columns), tables = self.kernel, self.prepared() if steps is None else steps.prepared(self)
        around = x.unfold(1, rows, 1).unfold(2, columns, 1)  # (B, H, W, rows, columns)
        size = len(tables) // (rows * columns)
        index = torch.where(around == NOTHING, size - 1, around).flatten(3)
        index = index + size * torch.arange(rows * columns, device=x.device)
        sums = F.embedding_bag(index.flatten(0, 2), tables, mode="sum")
        y = sums.view(*index.shape[:3], -1).permute(0, 3, 1, 2)
        return y if self.bias is None else y + self.bias[:, None, None]

    def prepared(self) -> Tensor:
        """The rows to add: (rows columns (K + 1), out), those of the codes of one place after another, and a row of
        zeros after each K."""
        return F.pad(self.weight.permute(2, 3, 1, 0), (0, 0, 0, 1)).flatten(0, 2)


class GatedBlock(Recomputable):
    """x + a * sigmoid(b), where (a, b) are two convolutions of x, with `inner` channels between them.

    `causal` ones see the cells before; the others are of `side` x `side` cells. `aux` channels are added between the
    two, and `context` channels, of the conditions, after both.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        side: int,
        dropout: float,
        *,
        causal: bool = False,
        aux: int = 0,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.conv1: Conv = CausalConv(channels, inner, side) if causal else Conv(channels, inner, (side, side))
        self.aux = Conv(aux, inner) if aux else None
        self.drop = nn.Dropout(dropout)
        self.conv2: Conv = CausalConv(inner, 2 * channels, side) if causal else Conv(inner, 2 * channels, (side, side))
        self.condition = Conv(context, 2 * channels, bias=False) if context else None

    def forward(
        self, x: Tensor, aux: Tensor | None = None, context: Tensor | None = None, steps: "CellSteps | None" = None
    ) -> Tensor:
        """(B, C, H, W), and `aux` and `context` of the same cells -> (B, C, H, W)."""
        h = self.conv1(F.elu(x), steps)
        if self.aux is not None and aux is not None:
            h = h + self.aux(F.elu(aux), steps)
        h = self.conv2(self.drop(F.elu(h)), steps)
        if self.condition is not None and context is not None:
            h = h + self.condition(context, steps)
        return x + F.glu(h, dim=1)


class CellAttention(nn.Module):
    """Attention of each cell to those before it, in `heads` heads; the first cell, which has none, gets zeros.

    There is no dropout of attention weights, for which torch has no fast kernel: it would double the time of a step.
    """

    def __init__(self, queries: int, keys: int, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = Conv(queries, channels), Conv(keys, channels), Conv(keys, channels)

    def forward(self, query: Tensor, key: Tensor, steps: "CellSteps | None" = None) -> Tensor:
        """(B, queries, H, W) and (B, keys, H, W) -> (B, channels, H, W)."""
        q, k, v = (
            conv(x, steps).flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3).contiguous()
            for conv, x in ((self.query, query), (self.key, key), (self.value, key))
        )  # (B, heads, cells, channels / heads)
        if steps is None:
            y = F.pad(causal_attention(q[:, :, 1:], k[:, :, :-1], v[:, :, :-1]), (0, 0, 1, 0))
        else:
            y = steps.attend(self, q, k, v)
        return y.transpose(2, 3).flatten(1, 2).view(len(query), -1, *query.shape[2:])


class PixelBlock(nn.Module):
    """Causal residual blocks, then attention, or without it a convolution of a cell alone."""

    def __init__(self, config: PriorConfig, dropout: float) -> None:
        super().__init__()
        width, inner = config.n_embd, config.res_width or config.n_embd
        context = _context_width(config)
        self.resblocks = nn.ModuleList(
            GatedBlock(width, inner, config.kernel, dropout, causal=True, context=context)
            for _ in range(config.res_blocks)
        )
        self.attention: CellAttention | None = None
        if config.attention:
            self.key_resblock = GatedBlock(2 * width + 2, width, 1, dropout)
            self.query_resblock = GatedBlock(width + 2, width, 1, dropout)
            self.attention = CellAttention(width + 2, 2 * width + 2, width // 2, config.n_head)
            self.out_resblock = GatedBlock(width, width, 1, dropout, aux=width // 2)
        else:
            self.out = Conv(width + 2, width)

    def forward(self, x: Tensor, place: Tensor, context: Tensor | None, steps: "CellSteps | None" = None) -> Tensor:
        """(B, C, H, W), the position of each cell `place` (B, 2, H, W), and the context -> (B, C, H, W)."""
        h = x
        for block in self.resblocks:
            h = block(h, None, context, steps)
        if self.attention is None:
            return self.out(torch.cat((h, place), dim=1), steps)  # type: ignore[no-any-return]
        key = self.key_resblock(torch.cat((x, h, place), dim=1), None, None, steps)
        query = self.query_resblock(torch.cat((h, place), dim=1), None, None, steps)
        y: Tensor = self.out_resblock(h, self.attention(query, key, steps), None, steps)
        return y


class MapReader(nn.Module):
    """Codes of a condition grid -> features, which see the whole neighbourhood of a cell."""

    def __init__(self, spec: ConditionSpec, config: PriorConfig, dropout: float) -> None:
        super().__init__()
        width, side = _context_width(config), config.map_kernel
        self.scale = spec.scale
        self.conv = CodeConv(spec.vocabulary, width, (side, side))
        self.blocks = nn.ModuleList(GatedBlock(width, width, side, dropout) for _ in range(config.map_blocks))

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of all cells of the picture -> (B, C, h, w)."""
        padding = self.conv.padding()
        x = self.conv.over(F.pad(codes[:, :: self.scale, :: self.scale], padding, value=NOTHING), None)
        for block in self.blocks:
            x = block(x)
        return x if self.scale == 1 else F.interpolate(x, scale_factor=float(self.scale), mode="nearest")


class PixelSNAIL(nn.Module):
    """The network of a prior; see the module's docstring. It models grids of its window's size only."""

    background: Tensor

    def __init__(self, config: PriorConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        assert config.arch == "pixelsnail"
        self.config = config
        width, inner, side = config.n_embd, config.res_width or config.n_embd, config.kernel
        self.horizontal = CodeConv(config.codebook_size, width, (side // 2, side))
        self.vertical = CodeConv(config.codebook_size, width, ((side + 1) // 2, side // 2))
        grids = [spec for spec in config.conditions if spec.form == "grid"]
        self.maps = nn.ModuleDict({spec.kind: MapReader(spec, config, dropout) for spec in grids})
        self.class_emb = nn.Embedding(config.num_classes + 1, _context_width(config)) if config.num_classes else None
        self.blocks = nn.ModuleList(PixelBlock(config, dropout) for _ in range(config.n_layer))
        self.out = nn.ModuleList(GatedBlock(width, inner, 1, dropout) for _ in range(config.out_blocks))
        self.head = Conv(width, config.codebook_size)
        self.build_tables()

    def build_tables(self) -> None:
        """Compute what follows from the config and is in no file: the position of each cell, and the masks of causal
        convolutions. Call it for a network that was created on torch's meta device."""
        height, width = self.config.window.height, self.config.window.width
        rows, columns = torch.arange(height) / height - 0.5, torch.arange(width) / width - 0.5
        background = torch.stack((rows[:, None].expand(-1, width), columns.expand(height, -1)))
        self.register_buffer("background", background[None], persistent=False)
        for module in self.modules():
            if isinstance(module, CausalConv):
                module.build_mask()

    def predictions(self, batch: TokenBatch) -> Predictions:
        """The features of all cells of a batch."""
        codes = batch.inputs.view(-1, self.config.window.height, self.config.window.width)
        x = self.features(codes, self.context(batch.conditions, len(codes)))
        return Predictions(x.permute(0, 2, 3, 1).flatten(0, 2), batch.targets.flatten())

    def forward(self, codes: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Teacher forcing: codes (B, h, w) int64 and conditions by kind -> the logits of each cell given those before
        it, (B, h w, K)."""
        x = self.features(codes, self.context(conditions, len(codes)))
        return self.logits(x.flatten(2).transpose(1, 2))

    def logits(self, x: Tensor) -> Tensor:
        """Features (..., C) -> logits of the codes (..., K)."""
        return F.linear(x, self.head.weight[:, :, 0, 0], self.head.bias)

    def context(self, conditions: Mapping[str, Tensor], batch: int) -> Tensor | None:
        """What is known of the conditions, by kind, (B, 1) of a class and (B, h, w) of a grid: (B, C, h, w). None for a
        network without conditions. A condition that is NOTHING or left out is not given."""
        parts, device = [], self.horizontal.weight_g.device
        size = (self.config.window.height, self.config.window.width)
        for kind, reader in self.maps.items():
            codes = conditions.get(kind)
            parts.append(reader(torch.full((batch, *size), NOTHING, device=device) if codes is None else codes))
        if self.class_emb is not None:
            classes = conditions.get("class")
            index = torch.full((batch,), NOTHING, device=device) if classes is None else classes[:, 0]
            index = torch.where(index == NOTHING, self.config.num_classes, index)
            parts.append(self.class_emb(index)[..., None, None].expand(-1, -1, *size))
        return torch.stack(parts).sum(0) if parts else None

    def features(self, codes: Tensor, context: Tensor | None) -> Tensor:
        """Codes (B, h, w) and the context -> the features that predict each of them, (B, C, h, w)."""
        padded = F.pad(codes, code_margin(self.config), value=NOTHING)
        return self._run(padded, self.background.expand(len(codes), -1, -1, -1), context, None)

    def step(self, steps: "CellSteps") -> Tensor:
        """The logits (B, K) of the next cell in raster order, whose predecessors are in `steps.codes`. Call it for one
        cell after the other, each once."""
        row, column = steps.cell
        context = None if steps.context is None else steps.context[:, :, row, column]
        place = self.background[:, :, row, column].expand(len(steps.codes), -1, -1, -1)
        x = self._run(steps.around_code(), place, context, steps)
        steps.number += 1
        logits: Tensor = self.head(x, steps)
        return logits[:, :, 0, 0]

    def _run(self, codes: Tensor, place: Tensor, context: Tensor | None, steps: "CellSteps | None") -> Tensor:
        """Codes with the margin of `code_margin` -> features (B, C, H, W)."""
        (left, _, above, _), (rows, _) = code_margin(self.config), self.vertical.kernel
        height, width = place.shape[2:]
        x = place.new_zeros(len(codes), self.config.n_embd, height, width)
        # all columns of the rows above, of which the first row has none, then the columns to the left
        first = 0 if steps is not None and steps.number >= steps.width else 1
        if first < height:
            x[:, :, first:] += self.horizontal.over(codes[:, first : above + height - 1], steps)
        first = 0 if steps is not None and steps.number % steps.width else 1
        if first < width:
            x[:, :, :, first:] += self.vertical.over(codes[:, above - rows + 1 :, first : left + width - 1], steps)
        for block in self.blocks:
            x = block(x, place, context, steps)
        for block in self.out:
            x = block(x, None, None, steps)
        return F.elu(x)


class CellSteps:
    """What `PixelSNAIL.step` keeps between the cells of `batch` grids: their `codes` (B, h, w), to which the caller
    adds each one, the features that convolutions read around a cell, the keys and values of attention, and prepared
    weights. `context` is the network's, and `number` that of the next cell."""

    def __init__(self, network: PixelSNAIL, batch: int, context: Tensor | None) -> None:
        config, device = network.config, network.background.device
        self.context, self.number = context, 0
        self.height, self.width = config.window.height, config.window.width
        self._margin = left, right, above, below = code_margin(config)
        shape = (batch, above + self.height + below, left + self.width + right)
        self._padded = torch.full(shape, NOTHING, device=device)
        self.codes = self._padded[:, above : above + self.height, left : left + self.width]
        self._kept: dict[nn.Module, Tensor] = {}
        self._pairs: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._prepared = {module: module.prepared() for module in network.modules() if isinstance(module, Conv)}

    @property
    def cell(self) -> tuple[slice, slice]:
        """Row and column of the next cell, as slices of a grid."""
        row, column = divmod(self.number, self.width)
        return slice(row, row + 1), slice(column, column + 1)

    def prepared(self, module: Conv) -> Tensor:
        """The prepared weights of a convolution."""
        return self._prepared[module]

    def around_code(self) -> Tensor:
        """The codes around the next cell."""
        return self._around(self._padded, self._margin)

    def around(self, module: Conv, x: Tensor) -> Tensor:
        """Keep the input (B, C, 1, 1) of a convolution at the next cell -> what it reads there, (B, C, side, side)."""
        left, right, above, below = margin = module.padding()
        if module not in self._kept:
            shape = (*x.shape[:2], above + self.height + below, left + self.width + right)
            self._kept[module] = x.new_zeros(shape)
        kept, (row, column) = self._kept[module], divmod(self.number, self.width)
        kept[:, :, row + above, column + left] = x[:, :, 0, 0]
        return self._around(kept, margin)

    def attend(self, module: CellAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the next cell (B, heads, 1, C) to those before it, whose keys and values are kept."""
        if module not in self._pairs:
            shape = (*k.shape[:2], self.height * self.width, k.shape[3])
            self._pairs[module] = (k.new_zeros(shape), v.new_zeros(shape))
        keys, values = self._pairs[module]
        keys[:, :, self.number], values[:, :, self.number] = k[:, :, 0], v[:, :, 0]
        if self.number == 0:
            return torch.zeros_like(v)
        return cached_attention(q, keys[:, :, : self.number], values[:, :, : self.number])

    def _around(self, padded: Tensor, margin: tuple[int, int, int, int]) -> Tensor:
        """(..., rows, columns) with a margin -> what lies within the margin of the next cell."""
        left, right, above, below = margin
        row, column = divmod(self.number, self.width)
        return padded[..., row : row + above + 1 + below, column : column + left + 1 + right]


def code_margin(config: PriorConfig) -> tuple[int, int, int, int]:
    """Cells around a cell whose codes the first convolutions read: left, right, above, below."""
    side = config.kernel
    return side // 2, side // 2, side // 2, 0


def _context_width(config: PriorConfig) -> int:
    """Channels of the context; 0 without conditions."""
    return (config.map_width or config.n_embd) if config.conditions else 0
