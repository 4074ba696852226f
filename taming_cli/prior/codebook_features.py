"""Token embeddings that begin with the codec's codebook: similar codes have similar embeddings from the first step on.

A random table knows nothing about its codes, and has to learn from how they are used that two of them look alike. With
few pictures, that takes most of a training (`scripts/RESULTS.md`).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from taming_cli.prior.layout import offsets
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT

STD = 0.02
"""Standard deviation of the weights of new tables and heads."""
SOME = 1024
"""Entries of a codebook from which its distances are estimated."""


@torch.no_grad()
def begin_with_codebooks(network: GPT | AnyOrder, codebooks: Mapping[str, Tensor]) -> None:
    """Replace rows of a new network's token table, and its head, by features of codebooks (K, D).

    `codebooks` holds that of the pictures under "", and those of grid conditions by their kind; others are left as they
    are. The features are random, from torch's generator.
    """
    table, rows = network.tok_emb.weight, {"": 0, **offsets(network.config)}
    for kind in ("", *(spec.kind for spec in network.config.conditions)):
        if kind in codebooks:
            features = STD * codebook_features(codebooks[kind], table.shape[1])
            table[rows[kind] : rows[kind] + len(features)] = features
            if not kind:
                network.head.weight.copy_(features)


def codebook_features(codebook: Tensor, width: int) -> Tensor:
    """Entries (K, D) -> (K, width) fp32, of mean 0 and variance 1: sines and cosines of random projections, whose inner
    products fall with the distance of the entries (random Fourier features, Rahimi & Recht 2007).

    Their scales lie between the distance to the nearest entry and that between any two entries, both medians, so that
    coarse features tell apart groups of codes, and fine ones each code. Equal entries have random features.
    """
    codebook = codebook.detach().float().cpu()
    some = codebook[torch.randperm(len(codebook))[:SOME]]
    distances = torch.cdist(some, some)
    apart = distances[~torch.eye(len(some), dtype=torch.bool)]
    if not len(apart) or not apart.median() > 0:
        return torch.randn(len(codebook), width)
    coarse = float(apart.median())
    nearest = distances.fill_diagonal_(math.inf).amin(1)
    fine = max(float(nearest.median()), coarse / 2**6)
    count = math.ceil(width / 2)
    scales = torch.logspace(math.log10(coarse), math.log10(fine), count)
    angles = codebook @ (torch.randn(codebook.shape[1], count) / scales)
    features = torch.cat((angles.cos(), angles.sin()), dim=1)[:, :width]
    features = features - features.mean(0)
    return features / features.std()
