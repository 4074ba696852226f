"""The prior: a transformer that predicts each code from the condition and the codes before it, in raster order.

One class, two forms. `published` is the network of the paper (minGPT's), whose state-dict keys are those of the
released files. `modern` is RMSNorm, SwiGLU, rotary positions and query/key norm, without biases.

A sequence is the prefix (condition tokens, or "start"), then a window's codes. The token at sequence index
`prefix_length - 1 + t` predicts cell t, so the last code is never read: at most `prefix_length + cells - 1` tokens.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.layout import table_rows
from taming_cli.prior.networks.attention import causal_attention
from taming_cli.prior.networks.cache import KVCache
from taming_cli.runtime.gradient_checkpointing import Recomputable

ROTARY_BASE = 100.0  # windows are tens of cells wide: with the 10,000 of text, most channels would hardly turn

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (B, heads, T, head_size) of the new tokens -> (B, heads, T, head_size)."""


class Turn(NamedTuple):
    """cos and sin of the rotary angles of some tokens, each (T, head_size / 2), or (B, 1, 1, head_size / 2).

    Queries turn by the cell that is to be predicted, keys by the cell that they hold: so the cell above, the cell to
    the left, and the condition of this very cell are always at the same offset, also across the end of a row.
    """

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


class GPT(nn.Module):
    """The network; see the module's text."""

    kinds: Tensor
    query_turn: Tensor
    key_turn: Tensor

    def __init__(self, config: PriorConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        width, modern = config.n_embd, config.arch == "modern"
        self.length = config.prefix_length + config.cells - 1
        self.tok_emb = nn.Embedding(table_rows(config), width)
        if modern:
            self.kind_emb = nn.Embedding(len(config.conditions) + 1, width)  # the last is the image's
            self.build_tables()
        else:
            self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size or self.length, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.n_layer))
        self.ln_f = _norm(config, width)
        head_rows = table_rows(config) if config.vocabulary == "shared" else config.codebook_size
        self.head = nn.Linear(width, head_rows, bias=False)
        self._initialise()

    def forward(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Teacher forcing: tokens (B, prefix_length) and codes (B, T), both int64, to logits (B, T, K).

        The logits at t are those of cell t given the prefix and `codes[:, :t]`; the last code is not read. 1 <= T <=
        the window's cells.
        """
        return self.logits(self.predicting(prefix, codes))

    def predicting(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Prefix (B, prefix_length) and codes (B, T) -> the features that predict each of the codes, (B, T, C)."""
        first, batch = prefix.shape[1] - 1, slice(0, prefix.shape[1] + codes.shape[1] - 1)
        dropout = self.drop.p if self.training and self.config.arch == "published" else 0.0
        attend = [partial(causal_attention, dropout=dropout)] * len(self.blocks)
        return self._run(torch.cat((prefix, codes[:, :-1]), dim=1), batch, attend)[:, first:]

    def logits(self, x: Tensor) -> Tensor:
        """Features (..., C) -> logits of the image codes (..., K); a shared table's other rows are no image codes."""
        return self.head(x)[..., : self.config.codebook_size]  # type: ignore[no-any-return]

    def logits_at(self, prefix: Tensor, codes: Tensor, at: Tensor) -> Tensor:
        """As `forward`, but only the logits of the cells `at` (B, n) int64 of each row, below T: (B, n, K).

        The head is not run for the others: with a large codebook, it takes most of the memory.
        """
        x = self.predicting(prefix, codes)  # (B, T, C)
        return self.logits(x.gather(1, at[..., None].expand(-1, -1, x.shape[2])))

    def prefill(self, cache: KVCache, prefix: Tensor, codes: Tensor, known: Sequence[int]) -> Tensor:
        """Start rows 0 to B - 1 of `cache` afresh and predict the next cell of each: logits (B, K).

        `prefix` (B, prefix_length); `codes` (B, S) int64, of which row b has `known[b]` <= S cells. What lies behind
        them is any code: causality hides it here, the cache's lengths hide it later.
        """
        lengths = [prefix.shape[1] + n for n in known]
        tokens = torch.cat((prefix, codes), dim=1)
        cache.start(lengths)
        attend = [partial(cache.fill, layer) for layer in range(len(self.blocks))]
        x = self._run(tokens, slice(0, tokens.shape[1]), attend)  # (B, P + S, C)
        last = (
            x[:, -1] if cache.even(len(lengths)) else x[torch.arange(len(x), device=x.device), cache.device_lengths - 1]
        )
        return self.logits(last)

    def step(self, cache: KVCache, codes: Tensor) -> Tensor:
        """Append one code (B,) to rows 0 to B - 1 of `cache` and predict the next cell of each: logits (B, K).

        B may be smaller than at the prefill: the rows beyond are finished.
        """
        rows = len(codes)
        index = slice(cache.longest(rows), cache.longest(rows) + 1) if cache.even(rows) else cache.device_lengths[:rows]
        attend = [partial(cache.extend, layer) for layer in range(len(self.blocks))]
        x = self._run(codes[:, None], index, attend)  # (B, 1, C)
        cache.grow(rows)
        return self.logits(x[:, 0])

    def step_at(self, cache: KVCache, codes: Tensor, lengths: Tensor, reach: int) -> Tensor:
        """As `step`, for rows that hold `lengths` (B,) int64 tokens, all below `reach`; the cache's own count of them
        is neither used nor changed. The same operations whatever the lengths are, so that they can be recorded."""
        attend = [partial(cache.extend_at, layer, lengths, reach) for layer in range(len(self.blocks))]
        return self.logits(self._run(codes[:, None], lengths, attend)[:, 0])

    def build_tables(self) -> None:
        """The modern form's kinds and angles, which follow from the config alone and are in no file: for a network
        that was made on torch's meta device."""
        query, key = _positions(self.config)
        tables = {
            "kinds": _kinds(self.config),
            "query_turn": _angles(query, self.config.head_size),
            "key_turn": _angles(key, self.config.head_size),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def decay_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Parameter groups for AdamW: the weights of linear layers decay; nothing else does, as published."""
        decayed = {id(module.weight) for module in self.modules() if isinstance(module, nn.Linear)}
        return [
            {"params": [p for p in self.parameters() if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters() if id(p) not in decayed], "weight_decay": 0.0},
        ]

    def _run(self, tokens: Tensor, index: slice | Tensor, attend: Sequence[Attend]) -> Tensor:
        """Tokens (B, T) at sequence indices `index` (T of them for all rows, or one per row) -> features (B, T, C)."""
        x = self.tok_emb(tokens)
        turn = None
        if self.config.arch == "modern":
            x = x + _shaped(self.kind_emb(self.kinds[index]), index)
            turn = Turn(_pair(self.query_turn[index], index), _pair(self.key_turn[index], index))
        else:
            x = x + _shaped(self.pos_emb[0, index], index)
        x = self.drop(x)
        for block, attend_here in zip(self.blocks, attend, strict=True):
            x = block(x, turn, attend_here)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Normal(0, 0.02) and zero biases, as published; the modern form scales what enters the residual stream by
        1/sqrt(2 n_layer) (Radford et al. 2019)."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if self.config.arch == "modern":
            for block in self.blocks:
                assert isinstance(block, Block)
                assert isinstance(block.mlp, SwiGLU)
                for linear in (block.attn.proj, block.mlp.down):
                    nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))


class Block(Recomputable):
    """Pre-norm attention and feed-forward, each added to its input."""

    def __init__(self, config: PriorConfig, dropout: float) -> None:
        super().__init__()
        self.ln1 = _norm(config, config.n_embd)
        self.ln2 = _norm(config, config.n_embd)
        self.attn = Attention(config, dropout)
        self.mlp = SwiGLU(config.n_embd, dropout) if config.arch == "modern" else _gelu_mlp(config.n_embd, dropout)

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln1(x), turn, attend)
        return x + self.mlp(self.ln2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention; what is attended to is the caller's business."""

    def __init__(self, config: PriorConfig, dropout: float) -> None:
        super().__init__()
        width, modern = config.n_embd, config.arch == "modern"
        self.n_head = config.n_head
        self.key = nn.Linear(width, width, bias=not modern)
        self.query = nn.Linear(width, width, bias=not modern)
        self.value = nn.Linear(width, width, bias=not modern)
        self.proj = nn.Linear(width, width, bias=not modern)
        self.query_norm = _norm(config, config.head_size) if modern else nn.Identity()
        self.key_norm = _norm(config, config.head_size) if modern else nn.Identity()
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        batch, length, width = x.shape
        q, k, v = (
            each.view(batch, length, self.n_head, -1).transpose(1, 2)  # (B, heads, T, head_size)
            for each in self.projections(x)
        )
        q, k = self.query_norm(q), self.key_norm(k)
        if turn is not None:
            q, k = _rotate(q, turn.query).to(v.dtype), _rotate(k, turn.key).to(v.dtype)
        y = attend(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return self.drop(self.proj(y))  # type: ignore[no-any-return]

    def projections(self, x: Tensor) -> Sequence[Tensor]:
        """(B, T, C) -> queries, keys and values, each (B, T, C)."""
        return self.query(x), self.key(x), self.value(x)


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight (Zhang & Sennrich 2019), in the weight's dtype: under autocast, in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) (Shazeer 2020), 8/3 as wide as its input: as many weights as a fourfold GELU layer."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        hidden = math.ceil(8 * width / 3 / 32) * 32
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.drop(self.down(F.silu(self.gate(x)) * self.up(x)))  # type: ignore[no-any-return]


def _norm(config: PriorConfig, width: int) -> nn.Module:
    return RMSNorm(width, eps=1e-6) if config.arch == "modern" else nn.LayerNorm(width)


def _gelu_mlp(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))


def _kinds(config: PriorConfig) -> Tensor:
    """Which kind each token of a sequence is, (P + cells,): the conditions in order, then the image; so is "start"."""
    parts = [torch.full((config.tokens_of(spec),), i) for i, spec in enumerate(config.conditions)]
    image = torch.full((config.cells + (not config.conditions),), len(config.conditions))
    return torch.cat([*parts, image])


def _positions(config: PriorConfig) -> tuple[Tensor, Tensor]:
    """(row, column) that each token of a sequence predicts, and that it holds: two of (P + cells, 2).

    Tokens of a grid condition lie on the window's cells; those of a sequence in a row from its corner on. What predicts
    nothing asks from where it lies, and so does the token of the last cell, which is never read.
    """
    column = torch.arange(config.cells) % config.window.width
    grid = torch.stack((torch.arange(config.cells) // config.window.width, column), dim=1)
    line = [torch.stack((torch.zeros(spec.length), torch.arange(spec.length)), dim=1) for spec in config.conditions]
    parts = [grid if spec.form == "grid" else line[i] for i, spec in enumerate(config.conditions)]
    before = torch.cat(parts) if parts else torch.zeros(1, 2)
    holds = torch.cat((before, grid))
    predicts = torch.cat((before[:-1], grid, grid[-1:]))
    return predicts, holds


def _angles(positions: Tensor, head_size: int) -> Tensor:
    """cos and sin, (L, head_size), of the rotary angles (Su et al. 2021): half turn by row, half by column."""
    pairs = head_size // 4
    speed = ROTARY_BASE ** -(torch.arange(pairs) / pairs)  # (head_size / 4,)
    angle = (positions[:, :, None] * speed).flatten(1)  # (L, head_size / 2)
    return torch.cat((angle.cos(), angle.sin()), dim=1)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs (i, i + head_size/2) of (B, heads, T, head_size)."""
    (a, b), (cos, sin) = x.chunk(2, dim=-1), turn
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _shaped(rows: Tensor, index: slice | Tensor) -> Tensor:
    """(T, C) as it is, for all rows alike; (B, C), one token per row, to (B, 1, C)."""
    return rows if isinstance(index, slice) else rows[:, None]


def _pair(angles: Tensor, index: slice | Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin from one table, shaped for (B, heads, T, head_size / 2)."""
    cos, sin = (angles if isinstance(index, slice) else angles[:, None, None]).chunk(2, dim=-1)
    return cos, sin
