"""New priors begin with the codec's codebook: similar codes have similar embeddings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.prior.batches import TokenSet
from taming_cli.prior.codebook_features import STD, begin_with_codebooks, codebook_features
from taming_cli.prior.initial import first_prior
from taming_cli.prior.model import new_network
from tests.test_prior_train import PRIOR, TRAIN, tokens

MAP = ConditionSpec(kind="segmentation", vocabulary=6, form="grid")
LOWRES = ConditionSpec(kind="lowres", vocabulary=4, form="grid")


def codebook(entries: int = 300, dim: int = 3) -> torch.Tensor:
    return torch.randn(entries, dim, generator=torch.Generator().manual_seed(1)) * 5


@pytest.mark.parametrize("width", [15, 64, 256])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_features_are_the_nearer_the_nearer_their_entries(width: int, scale: float) -> None:
    torch.manual_seed(0)
    entries = codebook() * scale
    features = codebook_features(entries, width)
    assert features.shape == (300, width)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.mean(0), torch.zeros(width), rtol=0, atol=1e-5)
    assert features.std().item() == pytest.approx(1)
    order = torch.cdist(entries, entries).argsort(1)
    alike = torch.cosine_similarity(features[:, None], features[order], dim=2).mean(0)  # by rank of the distance
    assert alike[0] == pytest.approx(1)
    assert 0.95 > alike[1] > alike[10] + 0.03 > alike[100] + 0.06
    assert abs(alike[150:].mean()) < 0.1


def test_features_of_few_and_of_equal_entries() -> None:
    twice = codebook(40).repeat(2, 1)
    features = codebook_features(twice, 32)
    assert torch.equal(features[:40], features[40:])
    for entries in (torch.zeros(1, 4), torch.ones(9, 4)):
        features = codebook_features(entries, 8)
        assert features.shape == (len(entries), 8)
        assert features.isfinite().all()
        assert features.abs().sum() > 0


@pytest.mark.parametrize("arch", ["modern", "any-order"])
def test_tables_and_head_begin_with_codebooks(arch: str) -> None:
    config = PriorConfig(
        arch=arch, n_layer=1, n_head=2, n_embd=16, window=Size(4, 4), codebook_size=9, conditions=(MAP, LOWRES)
    )
    torch.manual_seed(0)
    network = new_network(config)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    begin_with_codebooks(network, {"": codebook(9), "segmentation": codebook(6), "depth": codebook(4)})
    after = network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"tok_emb.weight", "head.weight"}
    table = after["tok_emb.weight"]
    assert torch.equal(table[:9], after["head.weight"])
    same = (table == before["tok_emb.weight"]).all(1)
    assert same.tolist() == [False] * 15 + [True] * 6  # "not given", and lowres, which has no codebook
    for rows in (table[:9], table[9:15]):
        assert rows.std().item() == pytest.approx(STD)


@pytest.mark.parametrize("arch", ["published", "modern", "any-order"])
def test_a_training_begins_with_them_except_that_of_the_published_network(arch: str, tmp_path: Path) -> None:
    data = TokenSet([tokens(tmp_path / "t.h5")])
    given = {"": codebook(8)}
    networks = []
    for codebooks in ({}, given):
        torch.manual_seed(0)
        networks.append(first_prior(replace(PRIOR, arch=arch), TRAIN, data, codebooks))
    equal = torch.equal(networks[0].head.weight, networks[1].head.weight)
    assert equal == (arch == "published")
