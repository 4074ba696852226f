"""The prior for any order: a transformer that predicts a group of cells at once, from the cells known so far.

A *content* token holds the code of a known cell, a *query* token asks for an unknown one. Both carry their cell (2-D
rotary positions), the class, the condition maps around the cell, and the known codes next to it. There is no prefix,
and the grid may have any size. Which token sees which is in `reach`. Sources: RandAR (Pang et al. 2024), ARPG (Li et
al. 2025) and LPD (Zhang et al. 2025); the blocks are those of the modern raster prior.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taming_cli.config.prior import PriorConfig
from taming_cli.prior.layout import NOT_GIVEN, offsets, table_rows
from taming_cli.prior.networks.blocks import ModernBlock, RMSNorm, initialise
from taming_cli.prior.networks.group_attention import GroupAttention, GroupCache
from taming_cli.prior.networks.neighbours import Neighbours
from taming_cli.prior.networks.reach import MOST_LEVELS, Places, joined
from taming_cli.prior.networks.rotary import Rotation, angles
from taming_cli.prior.networks.surroundings import Mixer, Surroundings
from taming_cli.prior.predictions import Predictions, TokenBatch

CONTENT, QUERY = 0, 1
"""Rows of the table of roles."""


class AnyOrder(nn.Module):
    """The network of a prior for any order; see the module's docstring."""

    def __init__(self, config: PriorConfig, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        width = config.n_embd
        self.tok_emb = nn.Embedding(table_rows(config), width)
        self.role_emb = nn.Embedding(2, width)
        grids = any(spec.form == "grid" for spec in config.conditions)
        self.surroundings = Surroundings(width) if grids else nn.Identity()
        self.neighbours = Neighbours(width, config.neighbour_features)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(ModernBlock(config, layer, dropout) for layer in range(config.n_layer))
        self.ln_f = RMSNorm(width)
        self.head = nn.Linear(width, config.codebook_size, bias=False)
        self._initialise()

    def context(self, conditions: Mapping[str, Tensor], batch: int, size: tuple[int, int]) -> Tensor:
        """What each cell of a grid of `size` (h, w) knows from the start: (B, h w, C).

        `conditions` holds codes by kind, (B, 1) for a sequence and (B, h, w) for a grid; NOT_GIVEN and missing kinds
        are "not given".
        """
        config, device, rows = self.config, self.head.weight.device, offsets(self.config)
        height, width = size
        whole = torch.zeros(batch, 1, 1, config.n_embd, device=device)
        grids: list[Tensor] = []
        if not config.conditions:
            whole = whole + self.tok_emb.weight[config.codebook_size]
        for spec in config.conditions:
            codes = conditions.get(spec.kind)
            if codes is None:
                shape = (batch, height, width) if spec.form == "grid" else (batch, 1)
                codes = torch.full(shape, NOT_GIVEN, device=device)
            embedded = self.tok_emb(torch.where(codes == NOT_GIVEN, spec.vocabulary, codes) + rows[spec.kind])
            if spec.form == "grid":
                grids.append(embedded)
            else:
                whole = whole + embedded[:, :, None]
        if grids:
            whole = whole + self.surroundings(torch.stack(grids).sum(0))
        return whole.expand(-1, height, width, -1).flatten(1, 2)

    def forward(self, codes: Tensor, conditions: Mapping[str, Tensor], groups: Tensor, levels: Tensor) -> Tensor:
        """Teacher forcing: codes (B, h, w) int64, `groups` and `levels` (B, h, w) or (1, h, w) as of a plan -> logits
        (B, h w, K) of each cell given the groups before its own. Those of known cells, of group 0, mean nothing."""
        return self.logits(self.predicting(codes, conditions, groups, levels))

    def predictions(self, batch: TokenBatch) -> Predictions:
        """The features of all cells of a batch. Known cells have no weight, and each picture has the same, so that
        shapes do not depend on values."""
        assert batch.groups is not None
        assert batch.levels is not None
        x = self.predicting(batch.inputs.view(batch.groups.shape), batch.conditions, batch.groups, batch.levels)
        unknown = batch.groups.flatten(1) > 0
        weights = unknown / (unknown.sum(1, keepdim=True) * len(unknown))
        return Predictions(x.flatten(0, 1), batch.targets.flatten(), weights.flatten())

    def predicting(self, codes: Tensor, conditions: Mapping[str, Tensor], groups: Tensor, levels: Tensor) -> Tensor:
        """As `forward`, the features that predict each cell: (B, h w, C)."""
        batch, height, width = codes.shape
        context = self.context(conditions, batch, (height, width))
        content = self._content(context, self.tok_emb(codes.flatten(1)))
        x = torch.stack((content, self._query(context)), dim=1)
        x = x + self.neighbours(codes, self._code_table, groups, levels)
        cells = groups.flatten(1).argsort(dim=1, stable=True)  # attention is computed in this order
        groups, levels = groups.flatten(1).gather(1, cells), levels.flatten(1).gather(1, cells)
        places = self._places(cells, width, levels, 2 * groups)
        queries = places._replace(times=places.times - 1)
        index = cells.expand(batch, -1)[:, :, None].expand(-1, -1, x.shape[-1])
        x = x.gather(2, index[:, None].expand(-1, 2, -1, -1)).flatten(1, 2)
        x = self._run(x, joined(places, queries), GroupAttention(places, queries), height * width)
        return torch.empty_like(x).scatter(1, index, x)

    def step(
        self, cache: GroupCache, context: Tensor, levels: Tensor, drawn: Tensor, codes: Tensor, asked: Tensor
    ) -> Tensor:
        """Add the codes (B, F) of the cells `drawn` (F,) to `cache`, and predict the cells `asked` (A,): the features
        (B, A, C) from which their `logits` follow. Cells are numbers on the grid of the cache, int64; `context`
        (B, h w, C) is that of `context`, and `levels` (h w,) are those of the cells."""
        cells = torch.cat((drawn, asked))
        cache.put(drawn, codes)
        content = self._content(context[:, drawn], self.tok_emb(codes))
        x = torch.cat((content, self._query(context[:, asked])), dim=1)
        x = x + self.neighbours.at(cells, levels[cells], cache.codes, cache.known, self._code_table, cache.size)
        places = self._places(cells[None], cache.size[1], levels[cells][None], torch.zeros_like(cells)[None])
        queries = places.take(slice(len(drawn), None))
        cache.begin(places.take(slice(len(drawn))), queries._replace(times=queries.times + 1))
        x = self._run(x, places, cache, len(drawn))
        cache.keep()
        return x

    def logits(self, x: Tensor) -> Tensor:
        """Features (..., C) -> logits of the image codes (..., K)."""
        return self.head(x)  # type: ignore[no-any-return]

    @property
    def _code_table(self) -> Tensor:
        """The rows of the image codes."""
        return self.tok_emb.weight[: self.config.codebook_size]

    def _content(self, context: Tensor, embedded: Tensor) -> Tensor:
        return context + embedded + self.role_emb.weight[CONTENT]

    def _query(self, context: Tensor) -> Tensor:
        return context + self.role_emb.weight[QUERY]

    def _places(self, cells: Tensor, width: int, levels: Tensor, times: Tensor) -> Places:
        """Cells of a grid of this width, their levels and their times, each (B, T) or (1, T)."""
        rows, columns = cells // width, cells % width
        reach = self.config.reach << levels.clamp(max=MOST_LEVELS)
        return Places(rows.int(), columns.int(), reach.int(), times.int())

    def _run(self, x: Tensor, places: Places, attention: GroupAttention | GroupCache, content: int) -> Tensor:
        """(B, T, C) -> the features of the queries, which come after `content` tokens: (B, T - content, C). The last
        block reads the content, and computes nothing for it."""
        positions = torch.stack((places.rows, places.columns), dim=-1)
        cos, sin = angles(positions, self.config.head_size)[:, None].chunk(2, dim=-1)
        rotation = Rotation((cos, sin), (cos, sin))
        x = self.drop(x)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, rotation, attention, content if number == len(self.blocks) else 0)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """As the modern raster prior; the convolutions keep torch's own values."""
        initialise(self, self.config.n_layer)
        std = 0.02 / math.sqrt(2 * self.config.n_layer)
        self.neighbours.initialise(std)
        for module in self.modules():
            if isinstance(module, Mixer):
                nn.init.normal_(module.down.weight, std=std)
