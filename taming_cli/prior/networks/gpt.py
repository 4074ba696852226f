"""The prior: a transformer that predicts each code from the condition and the codes before it, in raster order.

There are two forms (see `blocks`). `published` is the network of the paper, with learned positions; its state-dict keys
are those of the released files. `modern` has rotary positions.

A sequence is the prefix (condition tokens, or "start"), then the codes of a window. The token at sequence index
`prefix_length - 1 + t` predicts cell t, so the last code is never read: at most `prefix_length + cells - 1` tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.layout import prefix, table_rows
from taming_cli.prior.networks.blocks import ModernBlock, PublishedBlock, initialise
from taming_cli.prior.networks.cache import KVCache
from taming_cli.prior.networks.rotary import Rotation, angles
from taming_cli.prior.predictions import Predictions, TokenBatch


class GPT(nn.Module):
    """The network of a prior; see the module's docstring."""

    kinds: Tensor
    query_angles: Tensor
    key_angles: Tensor

    def __init__(self, config: PriorConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        assert config.arch != "any-order"
        width, self.modern = config.n_embd, config.arch == "modern"
        block = ModernBlock if self.modern else PublishedBlock
        self.length = config.sequence_length
        self.tok_emb = nn.Embedding(table_rows(config), width)
        if self.modern:
            self.kind_emb = nn.Embedding(len(config.conditions) + 1, width)  # the last row is the image's
            self.build_tables()
        else:
            self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size or self.length, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(block(config, layer, dropout) for layer in range(config.n_layer))
        self.ln_f = block.norm(width)
        head_rows = table_rows(config) if config.vocabulary == "shared" else config.codebook_size
        self.head = nn.Linear(width, head_rows, bias=False)
        initialise(self, config.n_layer)

    def forward(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Teacher forcing: tokens (B, prefix_length) and codes (B, T), both int64 -> logits (B, T, K).

        The logits at t are those of cell t given the prefix and `codes[:, :t]`; the last code is not read. T is 1 to
        the number of the window's cells.
        """
        return self.logits(self.predicting(prefix, codes))

    def predicting(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Prefix (B, prefix_length) and codes (B, T) -> the features that predict each of the codes, (B, T, C)."""
        tokens = torch.cat((prefix, codes[:, :-1]), dim=1)
        return self._run(tokens, slice(0, tokens.shape[1]), None)[:, prefix.shape[1] - 1 :]

    def predictions(self, batch: TokenBatch) -> Predictions:
        """The features of all cells of a batch."""
        tokens = prefix(self.config, batch.conditions, len(batch.targets), batch.targets.device)
        return Predictions(self.predicting(tokens, batch.inputs).flatten(0, 1), batch.targets.flatten())

    def logits(self, x: Tensor) -> Tensor:
        """Features (..., C) -> logits of the image codes (..., K); other rows of a shared table are not image codes."""
        return self.head(x)[..., : self.config.codebook_size]  # type: ignore[no-any-return]

    def logits_at(self, prefix: Tensor, codes: Tensor, at: Tensor) -> Tensor:
        """As `forward`, for the cells `at` (B, n) int64 of each row only, below T: (B, n, K).

        The head does not run for the other cells: with a large codebook, it takes most of the memory.
        """
        x = self.predicting(prefix, codes)  # (B, T, C)
        return self.logits(x.gather(1, at[..., None].expand(-1, -1, x.shape[2])))

    def prefill(self, cache: KVCache, prefix: Tensor, codes: Tensor, known: Sequence[int]) -> Tensor:
        """Restart rows 0 to B - 1 of `cache` and predict the next cell of each: logits (B, K).

        `prefix` (B, prefix_length); `codes` (B, S) int64, of which row b has `known[b]` <= S cells. The codes behind
        them are arbitrary: causality hides them here, and the lengths of the cache hide them later.
        """
        lengths = [prefix.shape[1] + n for n in known]
        tokens = torch.cat((prefix, codes), dim=1)
        x = self._run(tokens, cache.start(lengths, tokens.shape[1]), cache)  # (B, P + S, C)
        if cache.even(len(lengths)):
            return self.logits(x[:, -1])
        return self.logits(x[torch.arange(len(x), device=x.device), cache.device_lengths - 1])

    def step(self, cache: KVCache, codes: Tensor) -> Tensor:
        """Append one code (B,) to rows 0 to B - 1 of `cache` and predict the next cell of each: logits (B, K).

        B may be smaller than at the prefill: the other rows are finished.
        """
        x = self._run(codes[:, None], cache.append(len(codes)), cache)  # (B, 1, C)
        cache.grow(len(codes))
        return self.logits(x[:, 0])

    def extend(self, cache: KVCache, codes: Tensor) -> Tensor:
        """Append T codes to each of rows 0 to B - 1 of `cache`, codes (B, T), and predict the cell behind each of them:
        logits (B, T, K). `cache.grow` then counts those that are kept."""
        return self.logits(self._run(codes, cache.append(len(codes), codes.shape[1]), cache))

    def step_at(self, cache: KVCache, codes: Tensor, lengths: Tensor, reach: int) -> Tensor:
        """As `extend`, for rows that hold `lengths` (B,) int64 tokens; all of them attend to the first `reach` at most.
        The lengths of the cache are neither used nor changed. The operations do not depend on the values of `lengths`,
        so they can be recorded as a CUDA graph."""
        return self.logits(self._run(codes, cache.append_at(lengths, codes.shape[1], reach), cache))

    def build_tables(self) -> None:
        """Compute the kinds and angles of the modern form, which follow from the config and are in no file. Call it for
        a network that was created on torch's meta device."""
        if not self.modern:
            return
        query, key = _positions(self.config)
        tables = {
            "kinds": _kinds(self.config),
            "query_angles": angles(query, self.config.head_size),
            "key_angles": angles(key, self.config.head_size),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def _run(self, tokens: Tensor, index: slice | Tensor, cache: KVCache | None) -> Tensor:
        """Tokens (B, T) -> features (B, T, C); `index` gives their sequence indices, T for all rows, or (B, T)."""
        x, rotation = self.tok_emb(tokens), None
        if self.modern:
            x = x + self.kind_emb(self.kinds[index])
            rotation = Rotation(_cos_sin(self.query_angles[index], index), _cos_sin(self.key_angles[index], index))
        else:
            x = x + self.pos_emb[0, index if isinstance(index, slice) else index.clamp(max=self.pos_emb.shape[1] - 1)]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, rotation, cache)
        return self.ln_f(x)  # type: ignore[no-any-return]


def _kinds(config: PriorConfig) -> Tensor:
    """The kind of each token of a sequence, (P + cells,): the conditions in order, then the image, as "start" too."""
    parts = [torch.full((config.tokens_of(spec),), i) for i, spec in enumerate(config.conditions)]
    image = torch.full((config.cells + (not config.conditions),), len(config.conditions))
    return torch.cat([*parts, image])


def _positions(config: PriorConfig) -> tuple[Tensor, Tensor]:
    """The (row, column) that each token of a sequence predicts, and the one that it holds: two of (P + cells, 2).

    Tokens of a grid condition lie on the cells of the window; those of a sequence in a row from its corner on. A token
    that predicts nothing, or the last cell, which is never read, takes its own position for both.
    """
    column = torch.arange(config.cells) % config.window.width
    grid = torch.stack((torch.arange(config.cells) // config.window.width, column), dim=1)
    line = [torch.stack((torch.zeros(spec.length), torch.arange(spec.length)), dim=1) for spec in config.conditions]
    parts = [grid if spec.form == "grid" else line[i] for i, spec in enumerate(config.conditions)]
    before = torch.cat(parts) if parts else torch.zeros(1, 2)
    holds = torch.cat((before, grid))
    predicts = torch.cat((before[:-1], grid, grid[-1:]))
    return predicts, holds


def _cos_sin(angles: Tensor, index: slice | Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin out of one table, shaped for (B, heads, T, head_size / 2)."""
    cos, sin = (angles if isinstance(index, slice) else angles[:, None]).chunk(2, dim=-1)
    return cos, sin
