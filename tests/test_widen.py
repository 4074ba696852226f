"""A prior that takes on conditions: without them it is what it was, and with them it goes on learning."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.data.tokens.header import RULE, ConditionHeader
from taming_cli.errors import UsageError
from taming_cli.prior.layout import offsets, prefix
from taming_cli.prior.model import prior_file, prior_from
from taming_cli.prior.networks import blocks
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.widen import widened
from taming_cli.prior.train import TrainedPrior, fit
from taming_cli.runtime.checkpoint import load_model, save_model
from taming_cli.runtime.run.folder import Place
from tests.test_gpt import toy
from tests.test_prior_train import CODEC, PRIOR, TRAIN, tokens

CPU = torch.device("cpu")
CLASS = ConditionSpec(kind="class", vocabulary=3, form="sequence", length=1)
DEPTH = ConditionSpec(kind="depth", vocabulary=5, form="grid")
EDGES = ConditionSpec(kind="edges", vocabulary=4, form="grid")
Arch = Literal["modern", "published"]


def config(arch: Arch, *conditions: ConditionSpec) -> PriorConfig:
    return PriorConfig(
        n_layer=2, n_head=2, n_embd=16, window=Size(4, 3), codebook_size=7, conditions=conditions, arch=arch
    )


def hide(monkeypatch: pytest.MonkeyPatch, hidden: range) -> None:
    """From now on no token attends to those at `hidden`, but themselves."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
        seen = torch.ones(q.shape[2], k.shape[2]).tril().bool()
        seen[:, hidden] = False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen | torch.eye(len(seen)).bool())

    monkeypatch.setattr(blocks, "causal_attention", attend)


@pytest.mark.parametrize("has", [(CLASS, DEPTH), (DEPTH, CLASS), (DEPTH,)])
@pytest.mark.parametrize("arch", ["modern", "published"])
def test_where_nothing_sees_the_new_conditions_logits_are_as_before(arch: Arch, has: Any, monkeypatch: Any) -> None:
    gpt = toy(config(arch, *has))
    wide = widened(gpt, [EDGES, replace(CLASS, kind="pose")]).double()
    assert [spec.kind for spec in wide.config.conditions] == ["edges", "pose", *(each.kind for each in has)]
    codes = torch.randint(7, (3, 12))
    every = {"class": torch.tensor([[2], [0], [-1]]), "depth": torch.randint(-1, 5, (3, 3, 4))}
    given = {spec.kind: every[spec.kind] for spec in has}
    before = gpt(prefix(gpt.config, given, 3, CPU), codes)
    given |= {"edges": torch.randint(-1, 4, (3, 3, 4)), "pose": torch.randint(3, (3, 1))}
    after = prefix(wide.config, given, 3, CPU)
    assert not torch.allclose(wide(after, codes), before, atol=1e-3)
    hide(monkeypatch, range(13))
    torch.testing.assert_close(wide(after, codes), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["modern", "published"])
def test_a_further_condition_begins_as_one_of_its_form_that_is_not_given(arch: Arch) -> None:
    gpt = toy(config(arch, CLASS, DEPTH))
    wide = widened(gpt, [EDGES, replace(CLASS, kind="pose")])
    for new, old in ((EDGES, DEPTH), (replace(CLASS, kind="pose"), CLASS)):
        rows = wide.tok_emb.weight[offsets(wide.config)[new.kind] :][: new.vocabulary + 1]
        start = gpt.tok_emb.weight[offsets(gpt.config)[old.kind] + old.vocabulary].float()
        assert 0 < (rows - start).abs().max() < 0.1


@pytest.mark.parametrize("arch", ["modern", "published"])
@pytest.mark.parametrize("has", [(), (DEPTH,)])
def test_a_window_of_one_cell(arch: Arch, has: Any) -> None:
    one = replace(config(arch, *has), window=Size(1, 1))
    assert widened(toy(one), [CLASS]).config.prefix_length == 1 + len(has)


@pytest.mark.parametrize("arch", ["modern", "published"])
def test_the_first_condition_begins_as_start_was(arch: Arch) -> None:
    gpt = toy(config(arch))
    wide = widened(gpt, [CLASS]).double()
    start = prefix(gpt.config, {}, 3, CPU)
    codes, before = torch.randint(7, (3, 12)), prefix(wide.config, {"class": torch.tensor([[0], [2], [-1]])}, 3, CPU)
    close, far = wide(before, codes) - gpt(start, codes), GPT(wide.config).double()(before, codes) - gpt(start, codes)
    assert 0 < close.abs().mean() < far.abs().mean() / 8
    first = offsets(wide.config)["class"]
    with torch.no_grad():  # without the spread
        wide.tok_emb.weight[first:] = gpt.tok_emb.weight[-1]
        if arch == "modern":
            wide.kind_emb.weight[0] = wide.kind_emb.weight[1]
    torch.testing.assert_close(wide(before, codes), gpt(start, codes), rtol=0, atol=1e-6)


@pytest.fixture
def train_on(tmp_path: Path) -> Callable[..., TrainedPrior]:
    def run(name: str, path: Path, prior: PriorConfig, **settings: Any) -> TrainedPrior:
        train = replace(TRAIN, **{"dropout": 0.0, "learning_rate": 1e-2, "ema": 0.9, **settings})
        return fit([path], prior=prior, train=train, codec=CODEC, place=Place(name=name, root=tmp_path / "runs"))

    return run


@pytest.mark.parametrize("arch", ["modern", "published"])
def test_init_with_tokens_that_have_more(arch: Arch, tmp_path: Path, train_on: Any) -> None:
    prior = replace(PRIOR, arch=arch)
    plain = train_on("plain", tokens(tmp_path / "plain.h5", labelled=False), prior, steps=60)
    labelled = tokens(tmp_path / "labelled.h5")
    new = train_on("new", labelled, prior, steps=3)
    init = {"init": str(plain.last), "steps": 3}
    tuned = train_on("tuned", labelled, prior, **init)
    model = load_model(tuned.last, "taming-prior")
    assert model.about["label_names"] == ["even", "odd"]
    assert [spec.kind for spec in prior_from(model, "tuned").config.conditions] == ["class"]
    nats = [done.validation["val_nats_per_token"] for done in (plain, tuned, new)]
    assert nats[1] < nats[0] + 0.1
    assert nats[1] < nats[2] - 0.1
    alone = train_on("alone", labelled, prior, **init, cond=("none",))
    assert prior_from(load_model(alone.last), "alone").config.conditions == ()


def test_tokens_without_a_map_that_the_prior_follows_are_refused(tmp_path: Path, train_on: Any) -> None:
    lowres = {"lowres": ConditionHeader(codec_sha256=f"{RULE}lowres", codebook_size=4096)}
    first = train_on("first", tokens(tmp_path / "maps.h5", conditions=lowres), PRIOR, steps=2)
    with pytest.raises(UsageError, match="needs lowres, which the tokens do not have: tokenize with --cond lowres"):
        train_on("second", tokens(tmp_path / "none.h5"), PRIOR, steps=2, init=str(first.last))
    with pytest.raises(UsageError, match="include it in --cond of this command"):
        train_on("third", tmp_path / "maps.h5", PRIOR, steps=2, init=str(first.last), cond=("class",))


def test_one_table_for_all_takes_on_nothing(tmp_path: Path, train_on: Any) -> None:
    prior = replace(PRIOR, arch="published", codebook_size=8, vocabulary="shared")
    save_model(tmp_path / "imported.safetensors", prior_file(GPT(prior), CODEC, {"codec_sha256": "c" * 64}))
    prior = replace(PRIOR, arch="published")
    init = {"init": str(tmp_path / "imported.safetensors"), "condition_dropout": 0.0, "steps": 2}
    with pytest.raises(UsageError, match=r"imported.safetensors has one token table .* class cannot be added"):
        train_on("more", tokens(tmp_path / "labelled.h5"), prior, **init, cond=("class",))
    same = train_on("same", tmp_path / "labelled.h5", prior, **init)
    assert prior_from(load_model(same.last), "same").config.conditions == ()
