"""Adds conditions to a trained prior, so that training can continue from its weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.prior.layout import offsets
from taming_cli.prior.networks.gpt import GPT


@torch.no_grad()
def widened(gpt: GPT, specs: Sequence[ConditionSpec], *, dropout: float = 0.0) -> GPT:
    """The same prior with `specs` added before its conditions, on the CPU; its vocabularies have to be separate.

    New conditions come first, so that the token that predicts the first cell stays the same. Their tokens are
    initialised with the spread of a new prior around "not given" of a condition of the same form, which the prior has
    learned to ignore, or around "start", which they replace, in a prior without conditions. The first grid of a prior
    still changes its predictions, since its many tokens are attended to from the beginning.
    """
    before, kept = gpt.config, gpt.state_dict()
    assert before.vocabulary == "separate"
    wide = GPT(replace(before, conditions=(*specs, *before.conditions), block_size=0), dropout=dropout)
    new, rows, where = wide.state_dict(), offsets(before), "kind_emb.weight" if before.arch == "modern" else "pos_emb"
    old_table, table = kept.pop("tok_emb.weight"), new["tok_emb.weight"]
    old_places, places = kept.pop(where).view(-1, before.n_embd), new[where].view(-1, before.n_embd)
    old_spans, spans = _spans(before), _spans(wide.config)

    for spec in specs:
        first = offsets(wide.config)[spec.kind]
        new_rows = table[first : first + spec.vocabulary + 1]
        alike = [has for has in before.conditions if (has.form, has.length) == (spec.form, spec.length)]
        if alike:
            new_rows += old_table[rows[alike[0].kind] + alike[0].vocabulary]
            places[spans[spec.kind]] += old_places[old_spans[alike[0].kind]]
        elif not before.conditions:
            new_rows += old_table[-1]
            places[spans[spec.kind]] += old_places[-1] if before.arch == "modern" else old_places[0]
    table[: before.codebook_size] = old_table[: before.codebook_size]
    if before.conditions:
        table[-(len(old_table) - before.codebook_size) :] = old_table[before.codebook_size :]
    for kind in ("image", *rows):
        places[spans[kind]] = old_places[old_spans[kind]]
    wide.load_state_dict({**new, **kept})
    return wide.eval()


def _spans(config: PriorConfig) -> dict[str, slice]:
    """The rows of each condition and of the image in the table of kinds, or in that of learned positions."""
    spans, start = {}, 0
    for spec in config.conditions:
        end = start + (1 if config.arch == "modern" else config.tokens_of(spec))
        spans[spec.kind] = slice(start, end)
        start = end
    if config.arch == "modern":
        return {**spans, "image": slice(start, start + 1)}
    return {**spans, "image": slice(config.prefix_length, config.prefix_length + config.cells - 1)}
