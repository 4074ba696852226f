"""The codebook: nearest entries by brute force, gradients, moving averages by hand, and revival."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from taming_cli.codec.quantizers.averages import CodebookAverages
from taming_cli.codec.quantizers.nearest import Quantizer, nearest
from taming_cli.codec.quantizers.quantized import Quantized


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(size: int = 8, dim: int = 3, *, normalize: bool = False, seed: int = 1) -> Quantizer:
    """A quantizer whose entries lie where vectors do."""
    quantizer = Quantizer(size, dim, normalize=normalize)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.randn(size, dim, generator=seeded(seed)))
    return quantizer


# --- nearest entry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size", "dim"), [(500, 64, 8), (9000, 16, 4), (3, 300, 2), (10, 1, 5)])
def test_nearest_is_brute_force_in_float64(count: int, size: int, dim: int) -> None:
    vectors, codebook = torch.randn(count, dim, generator=seeded(0)), torch.randn(size, dim, generator=seeded(1))
    distance = ((vectors.double()[:, None] - codebook.double()) ** 2).sum(2)
    found = nearest(vectors, codebook)
    assert found.dtype == torch.int64
    # Where two entries are equally near to within fp32's rounding, either may be named.
    gap = distance.gather(1, found[:, None])[:, 0] - distance.min(1).values
    assert gap.max() < 1e-5
    assert (found == distance.argmin(1)).double().mean() > 0.999


def test_an_entry_is_nearest_to_itself_and_the_first_of_equal_ones_is_named() -> None:
    codebook = torch.randn(50, 4, generator=seeded())
    assert torch.equal(nearest(codebook, codebook), torch.arange(50))
    assert nearest(torch.zeros(2, 4), torch.ones(5, 4)).tolist() == [0, 0]


def test_codes_and_entries_stand_where_their_vectors_stood() -> None:
    quantizer, z = filled(), torch.randn(2, 3, 4, 5, generator=seeded())
    got = quantizer(z)
    assert got.codes.shape == (2, 4, 5)
    for b, i, j in ((0, 0, 0), (1, 3, 4), (0, 2, 1)):
        distance = (quantizer.embedding.weight.double() - z[b, :, i, j].double()).square().sum(1)
        assert got.codes[b, i, j] == distance.argmin()
        assert torch.equal(got.z_q[b, :, i, j], quantizer.embedding.weight[got.codes[b, i, j]])
    assert torch.equal(got.z_e, z)
    assert torch.equal(quantizer.lookup(got.codes), got.z_q)


def test_quantisation_is_in_float32_under_autocast() -> None:
    quantizer, z = filled(), torch.randn(2, 3, 4, 4, generator=seeded())
    expected = quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        got = quantizer(z)
        halved = quantizer(z.bfloat16())
    assert torch.equal(got.codes, expected.codes)
    assert {got.z_e.dtype, got.z_q.dtype, halved.z_q.dtype} == {torch.float32}
    assert torch.equal(halved.codes, quantizer(z.bfloat16().float()).codes)


# --- normalise --------------------------------------------------------------------------------------------------------


def test_with_normalize_codes_are_those_of_the_largest_cosine_and_all_lengths_are_1() -> None:
    quantizer, z = filled(20, 4, normalize=True), 5 * torch.randn(2, 4, 3, 3, generator=seeded())
    got = quantizer(z)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 4).double()
    cosine = F.normalize(vectors, dim=1) @ F.normalize(quantizer.embedding.weight.double(), dim=1).t()
    assert torch.equal(got.codes.flatten(), cosine.argmax(1))
    for tensor in (got.z_e, got.z_q):
        torch.testing.assert_close(tensor.norm(dim=1), torch.ones(2, 3, 3))
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(20))


def test_with_normalize_lengths_do_not_matter() -> None:
    quantizer, z = filled(20, 4, normalize=True), torch.randn(2, 4, 3, 3, generator=seeded())
    before = quantizer(z)
    with torch.no_grad():
        quantizer.embedding.weight.mul_(torch.rand(20, 1, generator=seeded()) + 0.5)
    after = quantizer(7.0 * z)
    assert torch.equal(before.codes, after.codes)
    torch.testing.assert_close(before.z_q, after.z_q)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_the_straight_through_gradient_goes_to_the_encoder_unchanged_and_not_to_the_codebook() -> None:
    quantizer, z = filled(), torch.randn(2, 3, 4, 4, generator=seeded()).requires_grad_()
    got = quantizer(z)
    out = got.to_decoder()
    torch.testing.assert_close(out, got.z_q)
    slope = torch.randn(2, 3, 4, 4, generator=seeded(2))
    out.backward(slope)
    assert z.grad is not None
    assert torch.equal(z.grad, slope)
    assert quantizer.embedding.weight.grad is None


def test_z_q_carries_the_gradient_to_the_entries_that_were_used() -> None:
    quantizer, z = filled(), torch.randn(2, 3, 4, 4, generator=seeded())
    got = quantizer(z)
    got.z_q.sum().backward()
    counts = torch.bincount(got.codes.flatten(), minlength=8).float()
    assert quantizer.embedding.weight.grad is not None
    torch.testing.assert_close(quantizer.embedding.weight.grad, counts[:, None].expand(8, 3))


# --- moving averages --------------------------------------------------------------------------------------------------


def averages(quantizer: Quantizer, **options: Any) -> CodebookAverages:
    return CodebookAverages(quantizer, **{"decay": 0.9, "revive": 0.0, "learn": True, **options})


def begun(quantizer: Quantizer, uses: float, **options: Any) -> CodebookAverages:
    """Averages that have seen every entry used `uses` times, wherever the codebook stands."""
    made = averages(quantizer, **options)
    size = len(quantizer.embedding.weight)
    sums = quantizer.embedding.weight.detach() * uses
    made.load_state_dict({"uses": torch.full((size,), uses), "sums": sums, "updates": 5})
    return made


def clustered(batch: int, dim: int = 3, count: int = 4) -> Tensor:
    """Vectors around `count` places."""
    places = 3 * torch.randn(count, dim, generator=seeded(7))
    chosen = torch.randint(count, (2, 4, 4), generator=seeded(batch))
    return (places[chosen] + 0.1 * torch.randn(2, 4, 4, dim, generator=seeded(batch + 100))).permute(0, 3, 1, 2)


def test_the_codebook_follows_the_averages_of_van_den_oord_by_hand() -> None:
    quantizer = filled()
    learning = begun(quantizer, 4.0)
    uses = np.full(8, 4.0)
    book = quantizer.embedding.weight.detach().double().numpy().copy()
    sums = book * 4.0
    for batch in range(6):
        quantized = quantizer(clustered(batch))
        vectors = clustered(batch).permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
        codes = ((vectors[:, None] - book) ** 2).sum(2).argmin(1)
        for entry in range(8):
            mine = vectors[codes == entry]
            uses[entry] = 0.9 * uses[entry] + 0.1 * len(mine)
            sums[entry] = 0.9 * sums[entry] + 0.1 * mine.sum(0)
        book = sums / uses[:, None]
        revived = learning.update(quantized, seeded())
        assert len(revived) == 0
        np.testing.assert_allclose(quantizer.embedding.weight.detach().numpy(), book, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(learning.uses.numpy(), uses, rtol=1e-4, atol=1e-6)


def test_without_learning_only_the_use_is_followed() -> None:
    quantizer = filled()
    before = quantizer.embedding.weight.detach().clone()
    following = begun(quantizer, 4.0, learn=False)
    quantized = quantizer(clustered(0))
    following.update(quantized, seeded())
    counts = torch.bincount(quantized.codes.flatten(), minlength=8).float()
    torch.testing.assert_close(following.uses, 0.9 * 4.0 + 0.1 * counts)
    assert torch.equal(quantizer.embedding.weight, before)


def far(quantizer: Quantizer, entries: list[int]) -> None:
    """Put entries where no vector will choose them."""
    with torch.no_grad():
        quantizer.embedding.weight[entries] = 1000.0


def vectors_of(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])


@pytest.mark.parametrize("learn", [True, False])
def test_dead_entries_are_put_on_vectors_of_the_batch_and_their_averages_with_them(learn: bool) -> None:
    quantizer = filled()
    far(quantizer, [2, 5])
    reviving = begun(quantizer, 4.0, revive=0.5, learn=learn)
    reviving.uses[[2, 5]] = 0.1
    living = [entry for entry in range(8) if entry not in (2, 5)]
    z = torch.randn(2, 3, 4, 4, generator=seeded(3))
    quantized = quantizer(z)
    counts = torch.bincount(quantized.codes.flatten(), minlength=8).float()
    revived = reviving.update(quantized, seeded())
    assert revived.tolist() == [2, 5]
    weight = quantizer.embedding.weight.detach()
    for entry in (2, 5):
        assert (vectors_of(z) - weight[entry]).abs().sum(1).min() == 0.0
    assert not torch.equal(weight[2], weight[5])
    torch.testing.assert_close(reviving.sums[[2, 5]], weight[[2, 5]] * reviving.uses[[2, 5], None])
    assert (reviving.uses[[2, 5]] >= 0.5 * 32 / 8).all()  # not dead again at once
    torch.testing.assert_close(reviving.uses[living], 0.9 * 4.0 + 0.1 * counts[living])


def test_a_new_codebook_is_placed_on_vectors_of_its_first_batch() -> None:
    quantizer = Quantizer(8, 3)
    z = 5 + torch.randn(2, 3, 4, 4, generator=seeded(3))
    placed = averages(quantizer, revive=0.1).update(quantizer(z), seeded())
    assert placed.tolist() == list(range(8))
    distance = (quantizer.embedding.weight.detach()[:, None] - vectors_of(z)).norm(dim=2)
    assert not distance.min(1).values.any()
    assert len(quantizer(z).codes.unique()) == 8


def test_revived_entries_are_used_from_then_on() -> None:
    quantizer = filled(16, 3)
    far(quantizer, list(range(4, 16)))
    reviving = begun(quantizer, 2.0, revive=0.5)
    used = []
    for batch in range(40):
        quantized = quantizer(torch.randn(2, 3, 8, 8, generator=seeded(batch)))
        used.append(len(quantized.codes.unique()))
        reviving.update(quantized, seeded(batch))
    assert used[0] <= 4
    assert used[-1] == 16


def test_without_revival_dead_entries_stay_where_they_are() -> None:
    quantizer = filled()
    far(quantizer, [2])
    before = quantizer.embedding.weight[2].detach().clone()
    plain = begun(quantizer, 4.0, revive=0.0)
    for batch in range(5):
        assert len(plain.update(quantizer(clustered(batch)), seeded())) == 0
    torch.testing.assert_close(quantizer.embedding.weight[2].detach(), before)


def test_the_choice_of_vectors_follows_the_generator() -> None:
    weights = []
    for seed in (1, 1, 2):
        quantizer = filled()
        far(quantizer, [2, 5])
        reviving = begun(quantizer, 4.0, revive=0.5)
        reviving.uses[[2, 5]] = 0.0
        reviving.update(quantizer(torch.randn(2, 3, 4, 4, generator=seeded(3))), seeded(seed))
        weights.append(quantizer.embedding.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_more_dead_entries_than_vectors_are_all_revived_to_different_places() -> None:
    quantizer = filled(64, 3)
    far(quantizer, list(range(64)))
    reviving = begun(quantizer, 1.0, revive=0.9)
    reviving.uses.zero_()
    z = torch.randn(1, 3, 2, 2, generator=seeded())
    quantized = Quantized(z, quantizer.lookup(torch.zeros(1, 2, 2, dtype=torch.int64)), torch.zeros(1, 2, 2).long())
    revived = reviving.update(quantized, seeded())
    assert len(revived) >= 60
    placed = quantizer.embedding.weight.detach()[revived]
    assert (torch.cdist(placed, vectors_of(z)).min(1).values < 0.5).all()
    assert len(placed.unique(dim=0)) == len(placed)


def test_the_state_goes_round(tmp_path: Any) -> None:
    quantizer = filled()
    one = begun(quantizer, 4.0, revive=0.3)
    for batch in range(3):
        one.update(quantizer(clustered(batch)), seeded(batch))
    torch.save({"state": one.state_dict(), "weight": quantizer.embedding.weight.detach()}, tmp_path / "s.pt")
    saved = torch.load(tmp_path / "s.pt", weights_only=True)
    twin = filled(seed=9)
    with torch.no_grad():
        twin.embedding.weight.copy_(saved["weight"])
    other = averages(twin, revive=0.3)
    other.load_state_dict(saved["state"])
    for batch in range(3, 6):
        a = one.update(quantizer(clustered(batch)), seeded(batch))
        b = other.update(twin(clustered(batch)), seeded(batch))
        assert torch.equal(a, b)
    assert torch.equal(quantizer.embedding.weight, twin.embedding.weight)
    assert torch.equal(one.uses, other.uses)
    assert torch.equal(one.sums, other.sums)


def test_saving_does_not_share_memory_with_the_running_training() -> None:
    """A trainer file is written from this; loading must not tie two runs together either."""
    quantizer = filled()
    one = begun(quantizer, 4.0)
    other = averages(filled(seed=9))
    other.load_state_dict(one.state_dict())
    before = other.uses.clone()
    one.update(quantizer(clustered(0)), seeded())
    assert torch.equal(other.uses, before)
