"""Codes of any size in bounded memory: exact where small, and in tiles that nobody can tell from the whole."""

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from taming_cli.codec.tiling import boxes, decoding, global_layers, tiles
from taming_cli.codec.tiling.boxes import Box
from taming_cli.codec.tiling.decoding import LocalDecoder, stages
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig
from taming_cli.data.images import to_uint8
from tests.toys import CODEC, DEEP, FLAT, toy_codec, uneven


@pytest.fixture(scope="module", params=[CODEC, DEEP, FLAT], ids=["f2", "f4", "f1"])
def codec(request: pytest.FixtureRequest) -> VQGAN:
    return uneven(request.param)


def drawn(codec: VQGAN, *shape: int, seed: int = 0) -> Tensor:
    """Codes whose upper left and lower right parts use different entries, so that tiles differ in their statistics."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 32, shape, generator=generator)
    codes[:, shape[1] // 2 :, shape[2] // 3 :] += 32
    return codes


def in_tiles(codec: VQGAN, codes: Tensor, count: int) -> Tensor:
    """Decoded with the memory that a tile of a `count`th of the cells takes; there are more than that of them."""
    size = (codes.shape[1], codes.shape[2])
    side = max(1, int((size[0] * size[1] / count) ** 0.5))
    budget = boxes.memory(stages(codec), size, (min(side, size[0]), min(side, size[1])))
    assert len(tiles.DecodePlan.of(stages(codec), *size, budget).tiles) >= count
    return tiles.decode(codec, codes, finish=lambda x: x, budget=budget)


# --- exact where small ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_small_latents_are_decoded_as_the_codec_does(codec: VQGAN, batch_size: int | None) -> None:
    codes = drawn(codec, 3, 6, 9)
    parts = torch.split(codes, batch_size or 3)
    whole = torch.cat([codec.decode(part) for part in parts])
    assert torch.equal(tiles.decode(codec, codes, finish=lambda x: x, batch_size=batch_size), whole)
    assert torch.equal(tiles.pictures(codec, codes, batch_size=batch_size), to_uint8(whole))


def test_a_batch_too_large_for_the_budget_is_split(codec: VQGAN) -> None:
    codes = drawn(codec, 5, 4, 4)
    each = boxes.memory(stages(codec), (4, 4), (4, 4))
    told = []
    found = tiles.decode(
        codec, codes, finish=lambda x: x, budget=2 * each, on_progress=lambda done, total: told.append((done, total))
    )
    assert told == [(32, 80), (64, 80), (80, 80)]
    torch.testing.assert_close(found, codec.decode(codes))


# --- parts are as the whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(23, 31), (1, 40), (40, 1), (2, 37), (12, 12)])
def test_parts_equal_the_whole_decode_where_the_sample_is_the_whole(codec: VQGAN, size: tuple[int, int]) -> None:
    codes = drawn(codec, 1, *size)
    whole = codec.decode(codes)
    f = codec.config.downsample_factor
    dice = random.Random(1)
    for count in range(len(stages(codec)) + 1):
        decoder = LocalDecoder(codec, codes[0], whole=count, patches=[Box(0, 0, *size)])
        for _ in range(4):
            top, left = dice.randrange(size[0]), dice.randrange(size[1])
            box = Box(top, left, dice.randint(1, size[0] - top), dice.randint(1, size[1] - left))
            rows, columns = (slice(f * a, f * (a + n)) for a, n in ((box.top, box.height), (box.left, box.width)))
            torch.testing.assert_close(decoder(box), whole[..., rows, columns], rtol=0, atol=2e-5)


def test_margins_are_as_far_as_gradients_reach(codec: VQGAN) -> None:
    """From a part's pixels back to what each stage is given, with statistics and what is attended to held."""
    codes = drawn(codec, 1, 32, 32)
    f, (first, count) = codec.config.downsample_factor, (15, 2)
    run = LocalDecoder(codec, codes[0], whole=0, patches=[Box(0, 0, 32, 32)])._stages
    given = []
    x: Tensor = codes[:, None]
    for number, stage in enumerate(run):
        if number:
            x = x.detach().requires_grad_()
            given.append(x)
        x = stage.run(x)
    for number in range(1, len(run)):
        x = given[number - 1]
        y = x
        for stage in run[number:]:
            y = stage.run(y)
        part = slice(f * first, f * (first + count))
        (grad,) = torch.autograd.grad(y[..., part, part].square().sum(), x)
        reached = grad.abs().sum((0, 1))
        scale, margin = run[number].before, run[number].margin
        for axis in (0, 1):
            places = reached.sum(1 - axis).nonzero().flatten()
            assert places.min() == scale * first - margin
            assert places.max() == scale * (first + count) + margin - 1


def test_the_margin_of_the_codes_is_as_far_as_one_changed_code_reaches(codec: VQGAN) -> None:
    codes = drawn(codec, 1, 50, 8)
    f = codec.config.downsample_factor
    run = LocalDecoder(codec, codes[0], whole=0, patches=[Box(0, 0, 50, 8)])._stages
    other = codes.clone()
    other[:, 25] = (codes[:, 25] + 7) % 64

    def picture(codes: Tensor) -> Tensor:
        x = codes[:, None]
        for stage in run:
            x = stage.run(x)
        return x

    with torch.no_grad():
        rows = (picture(codes) - picture(other)).abs().amax((0, 1, 3)).nonzero().flatten() // f
    reach = run[0].margin
    assert 25 - reach <= rows.min() <= 25 - reach + 1
    assert 25 + reach - 1 <= rows.max() <= 25 + reach


@pytest.mark.parametrize("seen", [5, 1000])
def test_a_picture_does_not_depend_on_how_it_is_cut(codec: VQGAN, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "FULL_CELLS", 20)
    monkeypatch.setattr(decoding, "SAMPLE_CELLS", seen)
    codes = drawn(codec, 1, 30, 44)
    patches = [Box(2, 3, 5, 6), Box(0, 38, 5, 6), Box(25, 20, 5, 6)]
    for count in range(len(stages(codec))):
        decoder = LocalDecoder(codec, codes[0], whole=count, patches=patches)
        whole = decoder(Box(0, 0, 30, 44))
        rows = [torch.cat([decoder(Box(a, b, 10, 11)) for b in range(0, 44, 11)], 3) for a in range(0, 30, 10)]
        torch.testing.assert_close(torch.cat(rows, 2), whole, rtol=0, atol=2e-5)


def test_patches_are_measured_as_they_lie_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four patches that make up the picture measure what one that is the picture does."""
    codec = uneven(CODEC)
    codes = drawn(codec, 1, 40, 36)
    quarters = [Box(a, b, 20, 18) for a in (0, 20) for b in (0, 18)]
    part = LocalDecoder(codec, codes[0], whole=0, patches=quarters)(Box(10, 10, 15, 15))
    torch.testing.assert_close(part, codec.decode(codes)[..., 20:50, 20:50], rtol=0, atol=2e-5)


def test_shares_weigh_patches_as_if_they_were_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "FULL_CELLS", 0)
    monkeypatch.setattr(decoding, "SAMPLE_CELLS", 600)
    codec = uneven(CODEC)
    codes = drawn(codec, 1, 40, 36)
    one, other, part = Box(0, 0, 10, 10), Box(25, 20, 10, 10), Box(10, 10, 15, 15)
    weighed = LocalDecoder(codec, codes[0], whole=0, patches=[one, other], shares=[1, 2])(part)
    repeated = LocalDecoder(codec, codes[0], whole=0, patches=[one, other, other])(part)
    alike = LocalDecoder(codec, codes[0], whole=0, patches=[one, other])(part)
    assert (weighed - repeated).abs().mean() < 0.02 * (weighed - alike).abs().mean()


def test_the_codec_is_left_as_it_was(codec: VQGAN) -> None:
    codes = drawn(codec, 1, 30, 30)
    before, names = codec.decode(codes[:, :5, :5]), [(name, id(module)) for name, module in codec.named_modules()]
    LocalDecoder(codec, codes[0], whole=1, patches=[Box(3, 3, 4, 4)])(Box(0, 0, 9, 9))
    assert torch.equal(codec.decode(codes[:, :5, :5]), before)
    assert [(name, id(module)) for name, module in codec.named_modules()] == names


# --- plans ------------------------------------------------------------------------------------------------------------


def sizes() -> Iterator[tuple[int, int, int]]:
    dice = random.Random(5)
    yield from ((1, 1, 1), (1, 3000, 10**6), (2500, 1, 10**6), (700, 3, 10**6), (1024, 1024, tiles.BUDGET))
    for _ in range(40):
        yield dice.randint(1, 90), dice.randint(1, 90), int(10 ** dice.uniform(3, 8))


def test_every_cell_is_in_one_tile_and_every_tile_in_the_budget(codec: VQGAN) -> None:
    run = stages(codec)
    for height, width, budget in sizes():
        plan = tiles.DecodePlan.of(run, height, width, budget)
        if plan.exact:
            assert plan.at_once * boxes.memory(run, (height, width), (height, width)) <= budget
            assert height * width <= global_layers.FULL_CELLS
            continue
        count = torch.zeros(height, width, dtype=torch.int64)
        for box in plan.tiles:
            assert box.height >= 1
            assert box.width >= 1
            count[box.top : box.top + box.height, box.left : box.left + box.width] += 1
        assert count.eq(1).all()
        rest, left = run[plan.whole :], budget
        if plan.whole and rest:
            last = run[plan.whole - 1]
            left -= 4 * height * width * last.after**2 * last.channels
            assert left >= budget // 2
        assert boxes.memory(run[: plan.whole], (height, width), (height, width)) <= budget
        for box in plan.tiles:
            assert box[2:] == (1, 1) or boxes.memory(rest, (height, width), box[2:]) <= left
        if not rest:
            continue
        assert len({box[2:] for box in plan.patches}) == 1
        size = plan.patches[0][2:]
        assert len(plan.patches) == 1 or len(plan.patches) * boxes.memory(rest, (height, width), size) <= left
        for box in plan.patches:
            assert 0 <= box.top <= height - box.height
            assert 0 <= box.left <= width - box.width
        assert len(set(plan.patches)) == len(plan.patches) == len(plan.shares)
        assert sum(plan.shares) == pytest.approx(height * width)


def test_the_borders_of_a_picture_stand_for_themselves() -> None:
    spread = list(tiles._spread(6, 8, 100))
    assert (spread[0], spread[-1]) == ((0, 8), (92, 8))
    assert all(8 <= start <= 84 and share == 21 for start, share in spread[1:-1])


def test_an_8192_picture_of_the_tiny_codec_is_planned_as_the_budget_says() -> None:
    with torch.device("meta"):
        run = stages(VQGAN(CodecConfig()))
    plan = tiles.DecodePlan.of(run, 1024, 1024, tiles.BUDGET)
    assert plan.whole >= 1
    assert len(plan.patches) >= 256
    assert len(plan.tiles) < 64


# --- the picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 48), (1, 200), (200, 1), (3, 150)])
def test_many_tiles_are_close_to_the_whole(codec: VQGAN, size: tuple[int, int]) -> None:
    codes = drawn(codec, 2, *size)
    whole = codec.decode(codes)
    found = in_tiles(codec, codes, 9)
    assert found.shape == whole.shape
    assert (found - whole).abs().mean() < 0.1 * whole.std()


def test_progress_counts_cells_and_ends_with_all_of_them() -> None:
    codec = toy_codec()
    told = []
    tiles.decode(
        codec,
        drawn(codec, 2, 20, 30),
        finish=lambda x: x,
        budget=10**6,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert len(told) > 4
    assert told == sorted(set(told))
    assert told[-1] == (1200, 1200)


def test_what_is_kept_is_as_the_caller_wants_it() -> None:
    codec = toy_codec()
    codes = drawn(codec, 1, 20, 30)
    labels = tiles.decode(codec, codes, finish=lambda x: x.argmax(1, keepdim=True), budget=10**6)
    values = tiles.decode(codec, codes, finish=lambda x: x, budget=10**6)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, values.argmax(1, keepdim=True))


def test_tiles_work_in_bf16() -> None:
    codec = uneven(CODEC)
    codes = drawn(codec, 1, 64, 64)
    exact = in_tiles(codec, codes, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = in_tiles(codec, codes, 9)
    assert found.dtype == torch.float32
    assert (found - exact).abs().mean() < 0.05 * exact.std()


def seam(found: Tensor, whole: Tensor, every: int) -> float:
    """Steps of tint in the difference to the whole: across borders, relative to those between other columns."""
    step = (found - whole).mean(2).diff(dim=2).abs().mean((0, 1))
    border = torch.arange(1, len(step) + 1) % every == 0
    return (step[border].mean() / step[~border].mean()).item()


def test_no_seam_is_left_and_tiles_with_statistics_of_their_own_have_them() -> None:
    codec = uneven(CODEC)
    codes = drawn(codec, 1, 48, 96)
    whole = codec.decode(codes)
    decoder = LocalDecoder(codec, codes[0], whole=0, patches=[Box(4, 4, 8, 8), Box(30, 20, 8, 8), Box(30, 70, 8, 8)])
    ours = torch.cat([decoder(Box(0, left, 48, 12)) for left in range(0, 96, 12)], 3)
    assert seam(ours, whole, 24) < 1.1

    def own(left: int) -> Tensor:
        part = Box(0, left, 48, 12)
        return LocalDecoder(codec, codes[0], whole=0, patches=[part])(part)

    broken = torch.cat([own(left) for left in range(0, 96, 12)], 3)
    assert seam(broken, whole, 24) > 1.6
