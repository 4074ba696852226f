"""The network: golden logits, an independent reading of the modern form, causality, and the cache against none."""

import math
import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from taming_cli.config.fields import from_dict, to_dict
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.layout import NOT_GIVEN, check_conditions, offsets, prefix, table_rows
from taming_cli.prior.networks.blocks import decay_groups
from taming_cli.prior.networks.cache import KVCache
from taming_cli.prior.networks.gpt import GPT

GOLDEN = Path(__file__).parent / "golden"
CLASS = ConditionSpec(kind="class", vocabulary=7)
DEPTH = ConditionSpec(kind="depth", vocabulary=5, form="grid")
BOXES = ConditionSpec(kind="boxes", vocabulary=9, length=3)
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "codebook_size": 11, "window": Size(4, 3)}
CONFIGS = {
    "modern": PriorConfig(arch="modern", **SMALL),
    "modern class depth boxes": PriorConfig(arch="modern", **SMALL, conditions=(CLASS, DEPTH, BOXES)),
    "published": PriorConfig(**SMALL, arch="published", block_size=20),
    "published depth": PriorConfig(**SMALL, arch="published", conditions=(DEPTH,)),
    "published shared": PriorConfig(**SMALL, arch="published", conditions=(CLASS,), vocabulary="shared", vocab_size=13),
}
CPU = torch.device("cpu")


def load_published(gpt: GPT, tensors: dict[str, Tensor]) -> None:
    mine = {name.removeprefix("transformer."): t for name, t in tensors.items() if name.startswith("transformer.")}
    gpt.load_state_dict({name: tensor for name, tensor in mine.items() if not name.endswith("attn.mask")}, strict=True)


def golden_prior() -> tuple[GPT, dict[str, np.ndarray]]:
    config = PriorConfig(
        arch="published",
        n_layer=2,
        n_head=4,
        n_embd=64,
        codebook_size=128,
        conditions=(ConditionSpec(kind="class", vocabulary=10),),
        vocabulary="shared",
        vocab_size=128,
        block_size=256,
    )
    gpt = GPT(config).eval()
    load_published(gpt, load_file(GOLDEN / "class_prior.safetensors"))
    with np.load(GOLDEN / "class_prior_io.npz") as arrays:
        return gpt, dict(arrays)


def toy(config: PriorConfig, seed: int = 0) -> GPT:
    """A float64 network whose logits vary a lot with what it reads."""
    torch.manual_seed(seed)
    gpt = GPT(config).double().eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gpt


def random_prefix(config: PriorConfig, batch: int) -> Tensor:
    given = {}
    for spec in config.conditions:
        shape = (batch, spec.length) if spec.form == "sequence" else (batch, config.window.height, config.window.width)
        given[spec.kind] = torch.randint(spec.vocabulary, shape)
    return prefix(config, given, batch, CPU)


def test_golden_logits() -> None:
    gpt, io = golden_prior()
    classes = {"class": torch.from_numpy(io["classes"])}
    with torch.inference_mode():
        logits = gpt(prefix(gpt.config, classes, 2, CPU), torch.from_numpy(io["greedy"]))
    np.testing.assert_allclose(logits.numpy(), io["logits"], atol=1e-4)


def golden_segmentation(shared: Path) -> tuple[GPT, dict[str, np.ndarray]]:
    config = PriorConfig(
        arch="published",
        n_layer=2,
        n_head=4,
        n_embd=64,
        codebook_size=128,
        conditions=(ConditionSpec(kind="segmentation", vocabulary=64, form="grid"),),
        vocabulary="shared",
        vocab_size=128,
        block_size=512,
    )
    gpt = GPT(config).eval()
    tensors = load_file(shared / "golden" / "segmentation_prior.safetensors")
    load_published(gpt, tensors)
    with np.load(shared / "golden" / "segmentation_prior_io.npz") as arrays:
        return gpt, dict(arrays)


def test_golden_segmentation_nats_per_token(shared: Path) -> None:
    gpt, io = golden_segmentation(shared)
    codes, window = torch.from_numpy(io["z"]), torch.from_numpy(io["cond_indices"])[:, :16, :16]
    with torch.inference_mode():
        logits = gpt(prefix(gpt.config, {"segmentation": window}, 1, CPU), codes)
    np.testing.assert_allclose(logits.numpy(), io["logits"], atol=1e-4)
    assert F.cross_entropy(logits[0], codes[0]).item() == pytest.approx(float(io["nll"]), abs=1e-4)


def modern_by_hand(gpt: GPT, tokens: Tensor, kinds: list[int], predicts: list[complex], holds: list[complex]) -> Tensor:
    """The modern form once more, one sequence, with complex numbers for the rotations. Positions are row + column i."""
    c, weights = gpt.config, gpt.state_dict()

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * scale

    def turned(x: Tensor, places: list[complex]) -> Tensor:
        pairs = c.head_size // 4
        speed = 100.0 ** (-torch.arange(pairs).double() / pairs)
        angle = torch.stack([torch.cat((place.real * speed, place.imag * speed)) for place in places])
        half = c.head_size // 2
        z = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat((z.real, z.imag), dim=1)

    x = weights["tok_emb.weight"][tokens] + weights["kind_emb.weight"][kinds]
    for n in range(c.n_layer):
        w = {k.removeprefix(f"blocks.{n}."): v for k, v in weights.items() if k.startswith(f"blocks.{n}.")}
        h, heads = norm(x, w["ln1.weight"]), []
        for part in range(c.n_head):
            rows = slice(part * c.head_size, (part + 1) * c.head_size)
            q = turned(norm(h @ w["attn.query.weight"][rows].T, w["attn.query_norm.weight"]), predicts)
            k = turned(norm(h @ w["attn.key.weight"][rows].T, w["attn.key_norm.weight"]), holds)
            scores = (q @ k.T / math.sqrt(c.head_size)).masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -1e30)
            heads.append(scores.softmax(-1) @ (h @ w["attn.value.weight"][rows].T))
        x = x + torch.cat(heads, dim=1) @ w["attn.proj.weight"].T
        h = norm(x, w["ln2.weight"])
        gate = h @ w["mlp.gate.weight"].T
        x = x + (gate * gate.sigmoid() * (h @ w["mlp.up.weight"].T)) @ w["mlp.down.weight"].T
    return norm(x, weights["ln_f.weight"]) @ weights["head.weight"].T


def test_the_modern_form_is_what_it_says() -> None:
    config = PriorConfig(arch="modern", **SMALL, conditions=(CLASS, DEPTH))
    gpt = toy(config)
    given = {"class": torch.tensor([[4]]), "depth": torch.randint(5, (1, 3, 4))}
    codes = torch.randint(11, (1, 12))
    tokens = [11 + 4, *(11 + 8 + d for d in given["depth"].flatten().tolist()), *codes[0, :-1].tolist()]
    grid = [complex(row, column) for row in range(3) for column in range(4)]
    holds = [0j, *grid, *grid[:-1]]
    predicts = [0j, *grid[:-1], *grid]
    by_hand = modern_by_hand(gpt, torch.tensor(tokens), [0] + [1] * 12 + [2] * 11, predicts, holds)
    with torch.inference_mode():
        logits = gpt(prefix(config, given, 1, CPU), codes)
    torch.testing.assert_close(logits[0], by_hand[12:], rtol=1e-6, atol=1e-6)  # its angles are float32


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cell_sees_its_condition_and_what_is_before_it_and_nothing_else(name: str) -> None:
    gpt = toy(CONFIGS[name])
    before, codes = random_prefix(gpt.config, 1), torch.randint(11, (1, 12))
    with torch.inference_mode():
        base = gpt(before, codes)
        for t in range(12):
            changed = codes.clone()
            changed[0, t] = (codes[0, t] + 1) % 11
            differs = (gpt(before, changed) != base).any(-1)[0]
            assert not differs[: t + 1].any()
            assert differs[t + 1 :].all()
        other = before.clone()
        other[0, 0] = (before[0, 0] + 1) % table_rows(gpt.config)
        assert (gpt(other, codes) != base).any(-1).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_logits_equal_uncached(name: str) -> None:
    gpt, rng = toy(CONFIGS[name]), random.Random(1)
    cache = KVCache(gpt.config, 6, dtype=torch.float64, device=CPU)
    for trial in range(6):  # the cache is used again and again, by fewer rows and by more
        batch, cells = rng.randint(1, 6), 12
        known = [rng.randint(0, 8) for _ in range(batch)] if trial % 2 else [rng.randint(0, 8)] * batch
        counts = sorted((rng.randint(0, cells - max(known) - 1) for _ in range(batch)), reverse=True)  # further cells
        before, codes = random_prefix(gpt.config, batch), torch.randint(11, (batch, cells))
        with torch.inference_mode():
            full = gpt(before, codes)
            logits = gpt.prefill(cache, before, codes[:, : max(known)], known)
            for further in range(max(counts) + 1):
                rows = [b for b in range(batch) if counts[b] >= further]
                at = torch.tensor([known[b] + further for b in rows])
                if further:
                    logits = gpt.step(cache, codes[rows, at - 1])
                torch.testing.assert_close(logits[: len(rows)], full[rows, at], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", ["modern", "published"])
def test_bfloat16_comes_close_to_float32_and_prints_nothing(arch: Literal["modern", "published"]) -> None:
    torch.manual_seed(0)
    gpt = GPT(PriorConfig(**{**SMALL, "n_embd": 64}, arch=arch, conditions=(CLASS,))).eval()
    before, codes = random_prefix(gpt.config, 3), torch.randint(11, (3, 12))
    with torch.inference_mode():
        full = gpt(before, codes)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(gpt(before, codes).float(), full, rtol=0.1, atol=0.03)
        half = gpt.bfloat16()
        torch.testing.assert_close(half(before, codes).float(), full, rtol=0.1, atol=0.03)
        cache = KVCache(half.config, 3, dtype=torch.bfloat16, device=CPU)
        half.prefill(cache, before, codes[:, :4], [4, 2, 3])
        assert half.step(cache, codes[:, 4]).dtype == torch.bfloat16


def test_published_state_dict_has_the_released_names_and_no_more() -> None:
    names = set(GPT(CONFIGS["published shared"]).state_dict())
    block = {"ln1", "ln2", "attn.key", "attn.query", "attn.value", "attn.proj", "mlp.0", "mlp.2"}
    expected = {f"blocks.{n}.{part}.{kind}" for n in range(2) for part in block for kind in ("weight", "bias")}
    assert names == expected | {"tok_emb.weight", "pos_emb", "ln_f.weight", "ln_f.bias", "head.weight"}


def test_only_the_weights_of_linear_layers_decay() -> None:
    for config in CONFIGS.values():
        gpt = GPT(config)
        names = {id(p): name for name, p in gpt.named_parameters()}
        decayed, others = ({names[id(p)] for p in group["params"]} for group in decay_groups(gpt, 0.1))  # type: ignore[attr-defined]
        assert decayed | others == set(names.values())
        assert all(("attn." in name or "mlp." in name or name == "head.weight") for name in decayed)
        assert all(("emb" in name or "norm" in name or "ln" in name or name.endswith("bias")) for name in others)


def test_initial_weights_have_the_published_spread() -> None:
    torch.manual_seed(0)
    gpt = GPT(PriorConfig(arch="published", n_layer=2, n_embd=128, n_head=4, codebook_size=500))
    assert gpt.tok_emb.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert gpt.get_parameter("blocks.1.mlp.0.weight").std().item() == pytest.approx(0.02, rel=0.03)
    assert not gpt.pos_emb.any()


def test_separate_vocabularies_share_no_row() -> None:
    config = CONFIGS["modern class depth boxes"]
    assert offsets(config) == {"class": 11, "depth": 11 + 8, "boxes": 11 + 8 + 6}
    assert table_rows(config) == 11 + 8 + 6 + 10
    nothing = prefix(config, {}, 2, CPU)
    assert nothing.tolist() == [[18] + [24] * 12 + [34] * 3] * 2
    labels = torch.tensor([[NOT_GIVEN], [6]])
    assert prefix(config, {"class": labels}, 2, CPU)[:, 0].tolist() == [18, 17]


def test_without_conditions_there_is_a_start_token() -> None:
    assert prefix(CONFIGS["modern"], {}, 2, CPU).tolist() == [[11], [11]]
    assert table_rows(CONFIGS["modern"]) == 12
    assert prefix(PriorConfig(**SMALL, arch="published", vocabulary="shared"), {}, 1, CPU).tolist() == [[0]]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("modern class depth boxes", {"clas": torch.zeros(2, 1)}, "has no condition 'clas'; did you mean"),
        ("modern", {"class": torch.zeros(2, 1)}, "it has no condition"),
        (
            "modern class depth boxes",
            {"class": torch.tensor([[1], [7]])},
            "class 7 is out of range; this prior has 0 to 6",
        ),
        ("modern class depth boxes", {"class": torch.tensor([[1], [-2]])}, "class -2 is out of range"),
        ("modern class depth boxes", {"class": torch.zeros(2)}, r"shape \(2,\); \(2, 1\) is needed"),
        ("modern class depth boxes", {"depth": torch.zeros(2, 3, 4)}, r"\(2, 5, 6\) is needed"),
        ("published shared", {}, "no token for 'no class'"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(name: str, given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_conditions(CONFIGS[name], given, 2, (5, 6))


def test_config_survives_json() -> None:
    for config in CONFIGS.values():
        assert from_dict(PriorConfig, to_dict(config), "there") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": 30, "n_head": 4}, "n_embd is 30"),
        ({"n_embd": 12, "n_head": 2}, "multiple of 4"),
        ({"vocabulary": "shared"}, "which only arch 'published' has"),
        ({"conditions": (CLASS, CLASS)}, "each kind may occur once"),
        ({"arch": "published", "vocabulary": "shared", "vocab_size": 5, "codebook_size": 9}, "vocab_size is 5"),
        ({"arch": "published", "block_size": 255, "conditions": (CLASS, BOXES)}, "need 259"),
    ],
)
def test_configs_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PriorConfig(**values)  # type: ignore[arg-type]
