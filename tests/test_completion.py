"""Completion: the choice among candidates against brute force, and what choosing is good for."""

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.sampling import DecodingConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.completion import complete
from taming_cli.prior.layout import KnownCells, prefix
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.generate import generate
from taming_cli.prior.raster.scoring import scoring_cells
from tests.test_generate import brute_force, random_conditions
from tests.test_gpt import toy
from tests.test_likelihood import one_forward_per_cell
from tests.test_order import PUBLISHED
from tests.test_order import prior as ordered


def scoring_by_hand(keep: Tensor, window: Size, stride: int) -> Tensor:
    """Known cells, one by one, each looking for an unknown cell before it in its window."""
    (h, w), a, b = keep.shape, window.height, window.width
    found = torch.zeros(h, w, dtype=torch.bool)
    for i in range(h):
        for j in range(w):
            top = min(max(i - a // 2, 0), max(h, a) - a)
            left = min(max(j - j % stride - b // 2 + stride // 2, 0), max(w, b) - b)
            before = [(r, c) for r in range(top, i + 1) for c in range(left, min(left + b, w)) if (r, c) < (i, j)]
            found[i, j] = keep[i, j] and any(not keep[cell] for cell in before)
    return found


@pytest.mark.parametrize("trial", range(100))
def test_known_cells_score_where_their_window_shows_an_unknown_one_before_them(trial: int) -> None:
    rng = random.Random(trial)
    torch.manual_seed(trial)
    window = Size(rng.randint(1, 8), rng.randint(1, 6))
    half = max(1, window.width // 2)
    stride = rng.choice([s for s in range(1, half + 1) if half % s == 0])
    keep = torch.rand(rng.randint(1, 15), rng.randint(1, 20)) < rng.choice([0.5, 0.9, 0.98])
    config = PriorConfig(arch="modern", n_layer=1, n_head=1, n_embd=4, window=window)
    assert torch.equal(scoring_cells(config, keep, stride), scoring_by_hand(keep, window, stride))


@pytest.mark.parametrize("order", PUBLISHED)
def test_before_is_meant_in_the_priors_order(order: Any) -> None:
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep.view(-1)[PUBLISHED[order][6]] = False
    scoring = scoring_cells(ordered(order), keep)
    assert sorted(scoring.flatten().nonzero().flatten().tolist()) == sorted(PUBLISHED[order][7:])


@pytest.mark.parametrize("trial", range(15))
def test_the_best_candidate_is_kept(trial: int) -> None:
    rng = random.Random(trial)
    torch.manual_seed(trial)
    window = Size(rng.randint(1, 6), rng.randint(1, 4))
    half = max(1, window.width // 2)
    stride = rng.choice([s for s in range(1, half + 1) if half % s == 0])
    size = (rng.randint(1, 7), rng.randint(1, 9))
    kinds = (ConditionSpec(kind="class", vocabulary=4), ConditionSpec(kind="depth", vocabulary=5, form="grid"))
    config = PriorConfig(
        arch="modern", n_layer=1, n_head=2, n_embd=8, codebook_size=6, window=window, conditions=kinds[trial % 3 :]
    )
    gpt, candidates, seed = toy(config, trial), rng.randint(1, 5), rng.randrange(2**63)
    numbers = rng.sample(range(1000), rng.randint(1, 3))
    conditions = random_conditions(config, len(numbers), size)
    known = torch.randint(6, (rng.choice([1, len(numbers)]), *size))
    keep = torch.rand(size) < 0.6
    decoding = DecodingConfig(temperature=1.5, greedy=trial % 7 == 6)
    options: dict[str, Any] = {"seed": seed, "decoding": decoding, "stride": stride, "candidates": candidates}
    told: list[tuple[int, int]] = []
    got = complete(
        gpt,
        KnownCells(known, keep),
        samples=numbers,
        conditions=conditions,
        batch_size=rng.choice([1, 3, 64]),
        on_progress=lambda done, total: told.append((done, total)),
        **options,
    )
    assert got.scores.shape == (len(numbers), candidates)
    scoring = scoring_by_hand(keep, window, stride)
    for n, number in enumerate(numbers):
        own = {kind: values[n] for kind, values in conditions.items()}
        given = (known[n % len(known)], keep)
        drawn = [brute_force(gpt, size, number, seed, decoding, own, stride, given, c) for c in range(candidates)]
        scores = [(one_forward_per_cell(gpt, codes, own, stride) * scoring).sum() for codes in drawn]
        torch.testing.assert_close(got.scores[n], torch.stack(scores), rtol=0, atol=1e-8)
        assert torch.equal(got.codes[n], drawn[int(got.chosen[n])])
        assert scores[int(got.chosen[n])] > max(scores) - 1e-8
        assert torch.equal(got.codes[n, keep], given[0][keep])
    assert len({total for _, total in told}) <= 1
    assert not told or told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def class_prior() -> GPT:
    conditions = (ConditionSpec(kind="class", vocabulary=4),)
    config = PriorConfig(
        arch="modern", n_layer=1, n_head=2, n_embd=8, codebook_size=20, window=Size(6, 4), conditions=conditions
    )
    return toy(config, 5)


HOLE = torch.ones(7, 9, dtype=torch.bool)
HOLE[2:4, 3:6] = False
KNOWN = KnownCells(torch.randint(20, (1, 7, 9), generator=torch.Generator().manual_seed(0)), HOLE)
DRAWING: dict[str, Any] = {"seed": 3, "decoding": DecodingConfig()}


def test_one_candidate_is_plain_completion_and_candidate_0_of_many() -> None:
    gpt, numbers = class_prior(), [4, 7]
    plain = generate(gpt, size=(7, 9), samples=numbers, known=KNOWN, **DRAWING)
    one = complete(gpt, KNOWN, samples=numbers, candidates=1, **DRAWING)
    many = complete(gpt, KNOWN, samples=numbers, candidates=6, **DRAWING)
    assert torch.equal(one.codes, plain)
    torch.testing.assert_close(many.scores[:, :1], one.scores, rtol=0, atol=1e-9)
    assert len({tuple(row.tolist()) for row in many.scores}) == 2
    assert all(len(set(row.tolist())) == 6 for row in many.scores)


def test_a_completion_depends_on_its_number_alone() -> None:
    gpt, classes = class_prior(), torch.arange(6)[:, None] % 4
    together = complete(
        gpt, KNOWN, samples=range(6), candidates=5, conditions={"class": classes}, batch_size=7, **DRAWING
    )
    alone = complete(
        gpt, KNOWN, samples=[3], candidates=5, conditions={"class": classes[3:4]}, batch_size=64, **DRAWING
    )
    assert torch.equal(together.codes[3], alone.codes[0])
    assert together.chosen[3] == alone.chosen[0]
    assert together.chosen.unique().numel() > 1
    more = complete(gpt, KNOWN, samples=[3], candidates=9, conditions={"class": classes[3:4]}, **DRAWING)
    torch.testing.assert_close(more.scores[0, :5], alone.scores[0], rtol=0, atol=1e-9)


def test_without_cells_that_score_one_candidate_is_drawn() -> None:
    gpt, upper = class_prior(), torch.zeros(7, 9, dtype=torch.bool)
    upper[:3] = True
    told: list[tuple[int, int]] = []
    got = complete(
        gpt,
        KnownCells(KNOWN.codes, upper),
        samples=[0, 1],
        candidates=8,
        on_progress=lambda *t: told.append(t),
        **DRAWING,
    )
    assert torch.equal(
        got.codes, generate(gpt, size=(7, 9), samples=[0, 1], known=KnownCells(KNOWN.codes, upper), **DRAWING)
    )
    assert got.scores.tolist() == [[0.0] * 8] * 2
    assert told[-1] == (2 * 4 * 9, 2 * 4 * 9)


def test_what_is_known_entirely_comes_back() -> None:
    all_known = KnownCells(KNOWN.codes, torch.ones(7, 9, dtype=torch.bool))
    got = complete(class_prior(), all_known, samples=[0, 1], candidates=3, **DRAWING)
    assert torch.equal(got.codes, KNOWN.codes.expand(2, 7, 9))
    assert not got.scores.any()


@pytest.mark.parametrize("candidates", [0, 2**24 + 1])
def test_a_number_of_candidates_that_cannot_be_is_refused(candidates: int) -> None:
    with pytest.raises(UsageError, match=f"candidates is {candidates}; use 1 to"):
        complete(class_prior(), KNOWN, samples=[0], candidates=candidates, **DRAWING)


def test_candidates_make_what_is_drawn_fit_what_comes_after() -> None:
    """A prior of pictures whose lower row repeats the upper one; the upper row is to be completed from the lower."""
    torch.manual_seed(0)
    config = PriorConfig(arch="modern", n_layer=1, n_head=2, n_embd=32, codebook_size=4, window=Size(3, 2))
    gpt = GPT(config)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=1e-2)
    for _ in range(150):
        codes = torch.randint(4, (64, 3)).repeat(1, 2)
        logits = gpt(prefix(config, {}, 64, torch.device("cpu")), codes)
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    gpt.eval().requires_grad_(False)
    keep = torch.tensor([[True, False, False], [True, True, True]])
    given = KnownCells(torch.tensor([[[2, 0, 0], [2, 3, 1]]]), keep)
    got = complete(gpt, given, samples=range(40), candidates=16, **DRAWING)
    plain, best = got.scores[:, 0], got.scores.amax(dim=1)
    hits = (got.codes == torch.tensor([[2, 3, 1], [2, 3, 1]])).flatten(1).all(1)
    assert best.mean() > plain.mean() + 3  # nats
    assert 18 <= hits.sum() <= 33  # 1 of 16 fillings is right: 16 candidates find it in 64 % of the samples
    assert best[hits].min() > best[~hits].max()
