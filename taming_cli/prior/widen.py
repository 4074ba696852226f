"""A trained prior takes on further conditions: what it has learned stays, what is new begins as in a new prior."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from taming_cli.config.prior import ConditionSpec
from taming_cli.prior.gpt import GPT


@torch.no_grad()
def widened(gpt: GPT, specs: Sequence[ConditionSpec], *, dropout: float = 0.0) -> GPT:
    """The same prior with `specs` as its last conditions, on the CPU; its vocabularies have to be separate.

    New are their rows of the token table, and their kind or their learned positions. Where there was no condition they
    stand in the place of "start", and begin as that was, with a new prior's spread.
    """
    before, kept = gpt.config, gpt.state_dict()
    assert before.vocabulary == "separate"
    assert specs
    wide = GPT(replace(before, conditions=(*before.conditions, *specs), block_size=0), dropout=dropout)
    new = wide.state_dict()
    table = kept.pop("tok_emb.weight")
    if not before.conditions:
        new["tok_emb.weight"] += table[-1]
        table = table[:-1]
    new["tok_emb.weight"][: len(table)] = table
    if before.arch == "modern":
        kinds = kept.pop("kind_emb.weight")  # the last is the image's, and that of "start"
        if not before.conditions:
            new["kind_emb.weight"] += kinds[-1]
        new["kind_emb.weight"][: len(kinds) - 1] = kinds[:-1]
        new["kind_emb.weight"][-1] = kinds[-1]
    else:
        places = kept.pop("pos_emb")
        stay, image = sum(map(before.tokens_of, before.conditions)), before.cells - 1
        if not before.conditions:
            new["pos_emb"] += places[:, :1]
        new["pos_emb"][:, :stay] = places[:, :stay]
        new["pos_emb"][:, -image:] = places[:, before.prefix_length : before.prefix_length + image]
    wide.load_state_dict({**new, **kept})
    return wide.eval()
