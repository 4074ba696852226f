"""Pictures of any size to codes in bounded memory: as the codec does where small, and elsewhere with its statistics."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from taming_cli.codec.quantizers.quantized import Quantized
from taming_cli.codec.tiling import boxes, encoding, global_layers, tiles
from taming_cli.codec.tiling.boxes import Box, Window
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig
from taming_cli.data.contents import Segmentation
from taming_cli.data.images import to_float
from tests.toys import CODEC, DEEP, FLAT, pictures, uneven

DEEPEST = replace(DEEP, ch_mult=(1, 2, 2, 1), num_res_blocks=2)


class Bare(nn.Module):
    """In the place of a quantizer: what would be quantised, in one number for each cell."""

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> "codes" (B, h, w), weighted sums."""
        return Quantized(z, z, torch.einsum("bdhw,d->bhw", z, torch.arange(1, z.shape[1] + 1).to(z)))


@contextlib.contextmanager
def bare(codec: VQGAN) -> Iterator[None]:
    """The codec with that in the place of its quantizer."""
    quantizer = codec.quantize
    codec.register_module("quantize", Bare())
    yield
    codec.register_module("quantize", quantizer)


@pytest.fixture(scope="module", params=[CODEC, DEEP, FLAT], ids=["f2", "f4", "f1"])
def codec(request: pytest.FixtureRequest) -> VQGAN:
    return exact(request.param)


def exact(config: CodecConfig) -> VQGAN:
    """A codec in float64, to tell what differs from what is rounded."""
    return uneven(config).double()


def to_input(values: Tensor) -> Tensor:
    return values.double() / 127.5 - 1


def shown(codec: VQGAN, height: int, width: int, batch: int = 1) -> Tensor:
    """Pictures of height x width codes, bright on one side, so that tiles differ in their statistics."""
    f = codec.config.downsample_factor
    x = pictures(f * height, f * width, batch)
    x[..., : f * width // 3] //= 3
    return x


def budget_for(codec: VQGAN, height: int, width: int, count: int) -> int:
    """What a part of about a `count`th of each side takes at the widest; there are several parts of that size."""
    run = encoding.toward_end(encoding.stages(codec, to_input))
    while True:
        budget = boxes.memory(run, (height, width), (max(1, height // count), max(1, width // count)))
        if len(next(encoding.passes(run, (height, width), budget)).tiles) > 1:
            return budget
        count += 1


def same(codec: VQGAN, x: Tensor, budget: int, to_input: encoding.ToInput = to_input) -> None:
    """In parts the codes are as of the whole, and what is quantised is, but for rounding."""
    with torch.no_grad():
        z = codec.quant_conv(codec.encoder(to_input(x[:1])))[0].flatten(1).t()
    codebook = codec.quantize.embedding.weight
    codebook.data.copy_(z[torch.linspace(0, len(z) - 1, len(codebook)).long()])  # so that many codes occur
    want = codec.encode(to_input(x))
    assert len(want.unique()) > 10
    assert torch.equal(tiles.encode(codec, x, to_input=to_input, budget=budget), want)
    with bare(codec):
        want = codec.encode(to_input(x))
        found = tiles.encode(codec, x, to_input=to_input, budget=budget)
    assert (found - want).abs().max() < 1e-9 * want.std()


# --- as the whole -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_small_pictures_are_encoded_as_the_codec_does(count: int) -> None:
    codec = uneven(CODEC)
    x = shown(codec, 6, 9, 3)
    each = boxes.memory(encoding.toward_end(encoding.stages(codec, to_float)), (6, 9), (6, 9))
    some = [to_float(part).contiguous(memory_format=torch.channels_last) for part in torch.split(x, count)]
    whole = torch.cat([codec.encode(part) for part in some])
    assert torch.equal(tiles.encode(codec, x, budget=count * each), whole)


@pytest.mark.parametrize(("size", "count"), [((23, 31), 2), ((1, 60), 4), ((60, 1), 4), ((3, 41), 3), ((24, 24), 3)])
def test_parts_equal_the_whole_encode(codec: VQGAN, size: tuple[int, int], count: int) -> None:
    same(codec, shown(codec, *size), budget_for(codec, *size, count))


def test_several_blocks_and_narrowing_levels_make_no_difference() -> None:
    codec = exact(DEEPEST)
    same(codec, shown(codec, 15, 11), budget_for(codec, 15, 11, 2))


def test_pictures_of_a_batch_have_statistics_of_their_own() -> None:
    codec = exact(CODEC)
    x = shown(codec, 17, 20, 2)
    x[1] //= 2
    same(codec, x, budget_for(codec, 17, 20, 2))


def test_maps_of_labels_are_made_one_hot_part_by_part() -> None:
    codec = exact(replace(CODEC, in_channels=50))
    content = Segmentation(50)
    x = shown(codec, 40, 60)[:, :1].int() % 50
    made: list[int] = []

    def one_hot(values: Tensor) -> Tensor:
        made.append(values.numel())
        return content.to_input(values).double()

    same(codec, x, budget_for(codec, 40, 60, 4), one_hot)
    whole = x.numel()
    assert made.count(whole) == 3, "whole only where this test makes it"
    assert all(some < whole / 2 for some in made if some != whole)


def test_logits_of_a_gumbel_codebook_are_counted() -> None:
    codec = uneven(replace(CODEC, codebook="gumbel", codebook_size=500))
    x = shown(codec, 16, 16)
    (*_, last) = encoding.stages(codec, to_float)
    assert last.channels == 500
    budget = boxes.memory([last], (16, 16), (8, 8))
    differ = tiles.encode(codec, x, budget=budget) != codec.encode(to_float(x))
    assert differ.double().mean() <= 0.01


def test_attention_to_some_cells_does_not_depend_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = exact(DEEP)
    x = shown(codec, 20, 24)
    monkeypatch.setattr(encoding, "FULL_CELLS", 100)
    monkeypatch.setattr(encoding, "SAMPLE_CELLS", 60)
    codec.register_module("quantize", Bare())
    one, *others = [
        encoding.encode(codec, x, to_input, budget_for(codec, 20, 24, n) if n else 2**40) for n in (0, 2, 4)
    ]
    whole = codec.encode(to_input(x))
    for other in others:
        assert (other - one).abs().max() < 1e-9
    assert 1e-6 < (one - whole).abs().mean() < 0.2 * whole.std()


def test_attention_sees_each_cell_or_an_even_sample() -> None:
    for picture in ((128, 128), (256, 192), (3, 9000)):
        counts = torch.zeros(picture, dtype=torch.int64)
        half = (picture[0] // 3, picture[1] // 3)
        for top, tall in ((0, half[0]), (half[0], picture[0] - half[0])):
            for left, wide in ((0, half[1]), (half[1], picture[1] - half[1])):
                place = Window((top,), (left,), tall, wide)
                picked = encoding._pick(global_layers.Region(picture, place, inner=place, shares=[1]))
                counts[top + picked // wide, left + picked % wide] += 1
        whole = picture[0] * picture[1] <= global_layers.FULL_CELLS
        assert counts.sum() == (picture[0] * picture[1] if whole else global_layers.SAMPLE_CELLS)
        assert counts.max() == 1
        for axis in (0, 1):
            along = counts.sum(axis).float()
            eighths = torch.stack([part.mean() for part in torch.chunk(along, min(8, len(along)))])
            assert (eighths / along.mean() - 1).abs().max() < 0.05


def test_parts_work_in_bf16() -> None:
    codec = uneven(CODEC)
    x = shown(codec, 40, 40)
    codec.register_module("quantize", Bare())
    with torch.autocast("cpu", torch.bfloat16):
        found = tiles.encode(codec, x, budget=budget_for(codec, 40, 40, 3))
    whole = codec.encode(to_float(x))
    assert (found - whole).abs().mean() < 0.05 * whole.std()


def test_the_codec_is_left_as_it_was(codec: VQGAN) -> None:
    x = shown(codec, 24, 24)
    before, names = codec.encode(to_input(x)), [(name, id(module)) for name, module in codec.named_modules()]
    encoding.encode(codec, x, to_input, budget_for(codec, 24, 24, 2))
    assert torch.equal(codec.encode(to_input(x)), before)
    assert [(name, id(module)) for name, module in codec.named_modules()] == names


# --- margins and plans ------------------------------------------------------------------------------------------------


def test_margins_are_as_far_as_gradients_reach(codec: VQGAN) -> None:
    """Each stage's own, with statistics frozen; halving reads to the right and below only, at even pixels."""
    with bare(codec):
        run = encoding.stages(codec, lambda values: values)
        size = (24, 24)
        f = codec.config.downsample_factor
        whole = global_layers.Activation(to_input(shown(codec, *size)), size, f)
        with torch.no_grad():
            global_layers.run_boxes(whole, encoding.toward_end(run), [Box(0, 0, *size)], [1])  # freezes all
        x = whole.x
        for stage in run:
            x = x.detach().requires_grad_()
            y = stage.run(x)
            first, count = 12 * stage.after, 2 * stage.after
            part = y[..., first : first + count, first : first + count]
            (grad,) = torch.autograd.grad(part.square().sum(), x)
            reached = grad.abs().sum((0, 1))
            halves = int(stage.after < stage.before)
            for axis in (0, 1):
                places = reached.sum(1 - axis).nonzero().flatten()
                assert places.min() == 12 * stage.before - stage.margin + 2 * halves
                assert places.max() == 14 * stage.before + stage.margin - 1 - halves
            x = y


@pytest.mark.parametrize("budget", [10**4, 10**5, 10**6, 10**7, 10**8])
def test_every_cell_is_in_one_part_of_each_pass_and_all_is_in_the_budget(codec: VQGAN, budget: int) -> None:
    size = (45, 70)
    run, kept = encoding.stages(codec, to_input), 0
    found = list(encoding.passes(run, size, budget))
    assert [stage.operations for one in found for stage in one.stages] == [stage.operations for stage in run]
    for one in found:
        count = torch.zeros(size, dtype=torch.int64)
        for box in one.tiles:
            count[box.top : box.top + box.height, box.left : box.left + box.width] += 1
        assert count.eq(1).all()
        last = one is found[-1]
        result = 0 if last else 4 * 45 * 70 * one.stages[-1].after ** 2 * one.stages[-1].channels
        assert last or kept + result <= budget * 7 / 8 + 1
        needed = boxes.memory(one.stages, size, one.tiles[0][2:])
        assert kept + result + needed <= budget or one.tiles[0][2:] == (1, 1)
        kept = result


def test_an_8192_map_of_182_labels_keeps_each_result() -> None:
    with torch.device("meta"):
        codec = VQGAN(CodecConfig(in_channels=182))
    found = list(encoding.passes(encoding.stages(codec, to_input), (1024, 1024), tiles.BUDGET))
    assert [len(one.stages) for one in found] == [2, 1, 1, 1]
    assert max(len(one.tiles) for one in found) < 800
