"""How codes become tokens: the rows of each vocabulary in the token table, and the prefix before a window.

With separate vocabularies, the table holds the image codes, then for each condition its codes and one row for "not
given", then, if there is no condition, one row for "start". In a shared table, as published, each code is its own row;
"start" is row `sos_token`, and there is no "not given".
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from taming_cli.config.fields import one_of
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError

NOT_GIVEN = -1
"""The code of a condition that is not given, and the label of unlabelled pictures."""


class KnownCells(NamedTuple):
    """Cells that are known before sampling: `codes` (n, h, w) or (1, h, w) int64, valid where `mask` (h, w) is true."""

    codes: Tensor
    mask: Tensor


def table_rows(config: PriorConfig) -> int:
    """The number of rows of the token table."""
    if config.vocabulary == "shared":
        largest = max([config.codebook_size, *(spec.vocabulary for spec in config.conditions)])
        return config.vocab_size or largest
    return config.codebook_size + (sum(spec.vocabulary + 1 for spec in config.conditions) or 1)


def offsets(config: PriorConfig) -> dict[str, int]:
    """The table row of each condition's code 0."""
    if config.vocabulary == "shared":
        return {spec.kind: 0 for spec in config.conditions}
    rows, start = {}, config.codebook_size
    for spec in config.conditions:
        rows[spec.kind] = start
        start += spec.vocabulary + 1
    return rows


def prefix(config: PriorConfig, conditions: Mapping[str, Tensor], batch: int, device: torch.device) -> Tensor:
    """The tokens before the image tokens of a window: (batch, prefix_length), int64.

    `conditions` maps kinds to codes, (batch, length) for a sequence and (batch, rows, columns) of the window for a
    grid. NOT_GIVEN and missing kinds become the token "not given".
    """
    if not config.conditions:
        start = config.sos_token if config.vocabulary == "shared" else config.codebook_size
        return torch.full((batch, 1), start, device=device)
    rows, parts = offsets(config), []
    for spec in config.conditions:
        codes = conditions.get(spec.kind)
        if codes is None:
            codes = torch.full((batch, config.tokens_of(spec)), NOT_GIVEN, device=device)
        codes = codes.reshape(batch, config.tokens_of(spec))
        parts.append(torch.where(codes == NOT_GIVEN, spec.vocabulary, codes) + rows[spec.kind])
    return torch.cat(parts, dim=1)


def check_conditions(config: PriorConfig, conditions: Mapping[str, Tensor], count: int, size: tuple[int, int]) -> None:
    """UsageError for conditions that a prior does not have, whose shape does not match `count` samples of `size` (rows,
    columns), or with codes beyond their vocabulary. Reads the values, and so waits for the device."""
    specs = {spec.kind: spec for spec in config.conditions}
    for kind in conditions:
        if kind not in specs:
            has = one_of(specs, kind) if specs else "it has no condition; leave it out"
            raise UsageError(f"this prior has no condition {kind!r}; {has}")
    for spec in config.conditions:
        if spec.kind in conditions:
            _check_codes(spec, conditions[spec.kind], count, size)
        given = spec.kind in conditions and bool((conditions[spec.kind] != NOT_GIVEN).all())
        if config.vocabulary == "shared" and not given:
            raise UsageError(f"this prior has no token for 'no {spec.kind}'; give it, and leave guidance at 1")


def _check_codes(spec: ConditionSpec, codes: Tensor, count: int, size: tuple[int, int]) -> None:
    expected = (count, *size) if spec.form == "grid" else (count, spec.length)
    if tuple(codes.shape) != expected:
        raise UsageError(f"condition {spec.kind} has shape {tuple(codes.shape)}; {expected} is needed here")
    check_range(codes, spec.vocabulary, spec.kind, lowest=NOT_GIVEN)


def check_guidance(config: PriorConfig, decoding: DecodingConfig) -> None:
    """UsageError for guidance of a prior that was not trained without its conditions."""
    if decoding.guided and (not config.conditions or config.vocabulary == "shared"):
        raise UsageError(
            f"guidance is {decoding.at(0).guidance:g}, but this prior was not trained without its condition; use 1"
        )


def check_range(codes: Tensor, count: int, name: str, *, lowest: int = 0, remedy: str = "") -> None:
    """UsageError for codes below `lowest` or from `count` on; `name` and `remedy` are for the message. Reads the
    values, and so waits for the device."""
    if codes.numel():
        low, high = int(codes.min()), int(codes.max())
        if low < lowest or high >= count:
            wrong = low if low < lowest else high
            raise UsageError(f"{name} {wrong} is out of range; this prior has 0 to {count - 1}{remedy}")
