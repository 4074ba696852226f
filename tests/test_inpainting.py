"""Completion: which cells are known, what the encoder sees in the hole, and that known cells stay to the last one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.size import Frame, Size
from taming_cli.data.images import read_image, to_float, to_uint8, write_png
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadImageError, UsageError
from taming_cli.prior.layout import KnownCells
from taming_cli.sampling.draw import draw
from taming_cli.sampling.inpainting import UPPER_HALF, KnownPicture, read_known, restore_pixels
from taming_cli.sampling.own_codes import CHUNK, codes_text, read_own_codes
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import resolve_request
from tests.test_pipeline import saved
from tests.toys import toy_codec


@pytest.fixture(scope="module")
def codec() -> VQGAN:
    return toy_codec()  # f = 2


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def mask(path: Path, white: tuple[slice, slice], size: tuple[int, int] = (12, 16)) -> Path:
    pixels = np.zeros(size, np.uint8)
    pixels[white] = 255
    Image.fromarray(pixels).save(path)
    return path


def test_a_cell_that_white_touches_is_made_and_the_others_are_known(
    codec: VQGAN, picture: Path, tmp_path: Path
) -> None:
    found = read_known(codec, picture, mask(tmp_path / "m.png", (slice(3, 4), slice(5, 8))))
    expected = torch.ones(6, 8, dtype=torch.bool)
    expected[1, 2:4] = False
    assert torch.equal(found.cells.mask, expected)
    assert found.cells.codes.shape == (1, 6, 8)
    assert not found.cells.codes[0][~found.cells.mask].any()


def test_what_is_in_the_hole_leaks_into_no_known_code(codec: VQGAN, picture: Path, tmp_path: Path) -> None:
    hole = mask(tmp_path / "m.png", (slice(2, 9), slice(4, 11)))
    before = read_known(codec, picture, hole)
    pixels = np.array(Image.open(picture))
    pixels[2:9, 4:11] = 255 - pixels[2:9, 4:11]
    Image.fromarray(pixels).save(tmp_path / "other.png")
    after = read_known(codec, tmp_path / "other.png", hole)
    assert torch.equal(before.cells.codes, after.cells.codes)
    assert not torch.equal(codec.encode(to_float(read_image(picture.read_bytes(), "it"))[None]), before.cells.codes)


def test_the_encoder_sees_the_nearest_known_colour_in_the_hole(codec: VQGAN, picture: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Spy:
        config, encoder, device = codec.config, codec.encoder, codec.device

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return codec.encode(x)

    read_known(Spy(), picture, mask(tmp_path / "m.png", (slice(0, 12), slice(6, 16))))
    pixels = np.array(Image.open(picture))
    expected = pixels.copy()
    expected[:, 6:] = pixels[:, 5:6]
    shown = ((seen[0][0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    # The nearest pixel in a straight line to the left; the distance is measured by a 5 x 5 chamfer, so far from the
    # edge a neighbour of it may win.
    assert np.array_equal(shown[:, :8], expected[:, :8])


def test_the_upper_half_may_be_kept_by_name(codec: VQGAN, picture: Path) -> None:
    found = read_known(codec, picture, UPPER_HALF)
    assert found.cells.mask[:3].all()
    assert not found.cells.mask[3:].any()


@pytest.mark.parametrize(("at", "top", "left"), [(None, 2, 3), ((0, 0), 0, 0), ((8, 4), 2, 4), ((1, 1), 1, 1)])
def test_a_larger_canvas_is_made_around_the_picture(
    at: tuple[int, int] | None, top: int, left: int, codec: VQGAN, picture: Path
) -> None:
    size = Size(28, 20)
    found = read_known(codec, picture, size=size, at=at)
    assert found.cells.mask.shape == (10, 14)
    odd = 1 if at == (1, 1) else 0  # then cells at the picture's edge are only half known
    expected = torch.zeros(10, 14, dtype=torch.bool)
    expected[top : top + 6 - odd, left : left + 8 - odd] = True
    assert torch.equal(found.cells.mask, expected)


def test_a_side_that_f_does_not_divide_is_covered_by_a_larger_grid(codec: VQGAN, tmp_path: Path) -> None:
    Image.new("RGB", (15, 11)).save(tmp_path / "odd.png")
    found = read_known(codec, tmp_path / "odd.png", mask(tmp_path / "m.png", (slice(6, 9), slice(0, 15)), (11, 15)))
    assert found.frame == Frame(Size(15, 11), 2)
    expected = torch.ones(6, 8, dtype=torch.bool)
    expected[3:5] = False
    assert torch.equal(found.cells.mask, expected), "what lies beyond the picture is no hole in it"


def test_beyond_the_canvas_the_encoder_sees_the_edge_repeated(codec: VQGAN, picture: Path, tmp_path: Path) -> None:
    Image.open(picture).crop((0, 0, 15, 11)).save(tmp_path / "odd.png")
    odd = read_image((tmp_path / "odd.png").read_bytes(), "it")
    found = read_known(codec, tmp_path / "odd.png", mask(tmp_path / "m.png", (slice(0, 2), slice(0, 2)), (11, 15)))
    wider = F.pad(odd[None].float(), (0, 1, 0, 1), mode="replicate").to(torch.uint8)
    wider[..., :2, :1], wider[..., :1, :2] = wider[..., 2:3, :1], wider[..., :1, 2:3]
    wider[..., 1, 1] = wider[..., 1, 2]
    near = codec.encode(to_float(wider))[0]
    assert torch.equal(found.cells.codes[0, 3:, 4:], near[3:, 4:])  # the hole's corner may be filled from either side


@pytest.mark.parametrize(
    ("size", "at", "corner"),
    [
        (Size(29, 21), (3, 5), (1, 1)),
        (Size(29, 20), (3, 5), (1, 0)),
        (Size(28, 20), (3, 5), (0, 0)),
        (Size(29, 21), (4, 2), (0, 0)),
    ],
)
def test_cells_begin_at_the_picture_where_the_grid_has_room(
    size: Size, at: tuple[int, int], corner: tuple[int, int], codec: VQGAN, picture: Path
) -> None:
    found = read_known(codec, picture, size=size, at=at)
    assert found.frame == Frame(size, 2, corner)
    assert (
        found.cells.mask.shape
        == (found.frame.grid.height, found.frame.grid.width)
        == ((size.height + 1) // 2, 14 + size.width % 2)
    )
    there = np.zeros((size.height, size.width), bool)
    there[at[1] : at[1] + 12, at[0] : at[0] + 16] = True
    assert np.array_equal(found.mask.numpy(), there)
    assert np.array_equal(found.pixels.numpy()[:, there], np.asarray(Image.open(picture)).reshape(-1, 3).T)
    if corner == (1, 1):
        assert int(found.cells.mask.sum()) == 8 * 6, "every cell of the picture"


def test_known_pixels_come_back_and_the_colours_beside_them_follow() -> None:
    there = torch.zeros(64, 64, dtype=torch.bool)
    there[:, :32] = True
    true = torch.full((3, 64, 64), 100, dtype=torch.uint8)
    cells = KnownCells(torch.zeros(1, 4, 4), torch.zeros(4, 4))
    given = KnownPicture(cells, true * there, there, Frame(Size(64, 64), 16))
    made = restore_pixels(torch.full((2, 3, 64, 64), 120, dtype=torch.uint8), given)
    assert made.shape == (2, 3, 64, 64)
    assert (made[..., :32] == 100).all()
    row = made[0, 0, 32, 32:].int()
    assert row[0] <= 102, "no edge"
    assert (row.diff() >= 0).all()
    assert (row[28:] == 120).all(), "far from it nothing changes"


def test_what_cannot_be_completed_is_refused(codec: VQGAN, picture: Path, tmp_path: Path) -> None:
    other = mask(tmp_path / "m.png", (slice(0, 2), slice(0, 2)), (10, 16))
    for arguments, word in (
        ({"mask": other}, r"m\.png is 16x10, but .*photo\.png is 16x12"),
        ({"mask": mask(tmp_path / "all.png", (slice(None), slice(None)))}, "nothing known"),
        ({}, "nothing to draw"),
        ({"size": Size(8, 8)}, "does not fit into 8x8"),
        ({"size": Size(28, 20), "at": (20, 0)}, "does not fit into 28x20 at 20,0"),
        ({"size": Size(15, 20)}, "does not fit into 15x20"),
    ):
        with pytest.raises(UsageError, match=word):
            read_known(codec, picture, **arguments)
    with pytest.raises(BadImageError, match="No such file"):
        read_known(codec, tmp_path / "none.png", UPPER_HALF)


@pytest.mark.parametrize("candidates", [1, 3])
def test_the_command_leaves_the_given_cells_untouched(
    candidates: int, codec: VQGAN, picture: Path, tmp_path: Path, capsys: Any
) -> None:
    prior = saved(tmp_path / "prior.safetensors", classes=True)
    hole = mask(tmp_path / "m.png", (slice(3, 6), slice(2, 9)))
    line = [
        "sample",
        "--ckpt",
        str(prior),
        "--complete",
        str(picture),
        "--mask",
        str(hole),
        "-n",
        "3",
        "--class",
        "dog",
    ]
    line += ["--candidates", str(candidates), "--device", "cpu", "--json", "-o", str(tmp_path / "out")]
    assert main([*line, "--tokens", str(tmp_path / "t.h5")]) == 0
    said = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    with Image.open(said[0]["path"]) as made:
        assert made.size == (16, 12)
    known, mask_ = read_known(codec, picture, hole).cells
    with TokenFile(tmp_path / "t.h5") as tokens:
        codes = torch.from_numpy(tokens.codes(slice(None)))[:, 0]
    assert torch.equal(codes[:, mask_], known.expand(3, -1, -1)[:, mask_])
    assert len(codes[:, ~mask_].unique(dim=0)) == 3
    pipeline = Pipeline.load(prior, device="cpu")
    settings = {"n": 3, "class_name": "dog", "candidates": candidates}
    request = resolve_request(pipeline, settings, complete=picture, mask=hole)
    assert torch.equal(draw(request, [1]).codes[0], codes[1])
    assert main(line) == 0, "the same again is kept"
    for wrong, word in (
        (["--mask", "upper-half"], "exists and was made with other settings"),
        (["--at", "a"], "two numbers"),
        (["--size", "15x12"], "does not fit into 15x12"),
        (["--keep", "pixel"], "did you mean 'pixels'"),
    ):
        capsys.readouterr()
        assert main([*line, *wrong]) == 2
        assert re.search(word, capsys.readouterr().err)
    assert main(["sample", "--ckpt", str(prior), "--mask", str(hole)]) == 2
    assert "--complete" in capsys.readouterr().err


# --- redraw -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["any-order", "modern"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("redraw") / "prior.safetensors", classes=True, arch=request.param)


def codes_of(path: Path) -> Any:
    return read_own_codes(path).codes


def test_a_sample_is_redrawn_where_the_mask_is_white(prior: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load(prior, device="cpu")
    first = pipeline.sample_to(tmp_path / "a", n=1, seed=1, class_name="dog", size="11x7").files[0]
    assert torch.equal(codes_of(first.path), pipeline.sample(seed=1, class_name="dog", size="11x7").codes[0])
    hole = mask(tmp_path / "m.png", (slice(0, 3), slice(4, 11)), (7, 11))
    again = pipeline.sample_to(tmp_path / "b", n=2, seed=2, complete=first.path, redraw=hole).files
    assert [file.label for file in again] == ["dog", "dog"]
    white = torch.zeros(4, 6, dtype=torch.bool)
    white[:2, 2:] = True
    for file in again:
        assert torch.equal(codes_of(file.path)[~white], codes_of(first.path)[~white])
        assert not torch.equal(codes_of(file.path)[white], codes_of(first.path)[white])
        assert file.size == Size(11, 7)
    assert not torch.equal(*(codes_of(file.path) for file in again))
    whole = to_uint8(pipeline.codec.decode(codes_of(again[0].path)[None]))[0, :, :7, :11]
    assert (read_image(again[0].path.read_bytes(), "").int() - whole.int()).abs().max() <= 1  # decoded as a whole
    in_memory = pipeline.complete(first.path, redraw=hole, seed=2)
    assert torch.equal(in_memory.codes[0], codes_of(again[0].path))


def test_the_command_redraws_a_redrawn_sample(prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ckpt = ["--ckpt", str(prior), "-q"]
    assert main(["sample", *ckpt, "-o", str(tmp_path / "a"), "--class", "cat"]) == 0
    picture = tmp_path / "a" / "000000.png"
    for number in range(2):
        hole = mask(tmp_path / f"{number}.png", (slice(0, 4), slice(4 * number, 4 * number + 4)), (8, 8))
        to = tmp_path / f"b{number}"
        line = ["sample", *ckpt, "-o", str(to), "--complete", str(picture), "--redraw", str(hole), "--seed", "9"]
        assert main([*line, "--json"]) == 0
        before, picture = picture, to / "000000.png"
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["class"] == "cat"
        assert torch.equal(codes_of(before)[2:], codes_of(picture)[2:])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"redraw": "m.png"}, "name it with --complete"),
        ({"complete": "a/000000.png", "redraw": "m.png", "size": "16x16"}, "without --mask, --at and --size"),
        ({"complete": "a/000000.png", "redraw": "m.png", "mask": "m.png"}, "without --mask, --at and --size"),
        ({"complete": "photo.png", "redraw": "m.png"}, "does not hold its codes"),
        ({"complete": "cut.png", "redraw": "m.png"}, "use the file as written"),
        ({"complete": "odd.png", "redraw": "m.png"}, "does not hold its codes"),
        ({"complete": "other/000000.png", "redraw": "m.png"}, "drawn with another codec"),
        ({"complete": "a/000000.png", "redraw": "black.png"}, "nothing to draw"),
        ({"complete": "a/000000.png", "redraw": "white.png"}, "nothing known"),
    ],
)
def test_what_cannot_be_redrawn(
    prior: Path, tmp_path: Path, arguments: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline.load(prior, device="cpu")
    sample = pipeline.sample_to("a", n=1).files[0].path
    for name, white in (("m", 3), ("black", 0), ("white", 8)):
        mask(Path(f"{name}.png"), (slice(0, white), slice(0, 8)), (8, 8))
    Image.new("RGB", (8, 8)).save("photo.png")
    own = read_own_codes(sample)
    image = read_image(sample.read_bytes(), "")
    write_png(Path("cut.png"), image[:, :6], {CHUNK: codes_text(own)})
    write_png(Path("odd.png"), image, {CHUNK: codes_text(own)[:-9] + '"}'})
    write_png(Path("other/000000.png"), image, {CHUNK: codes_text(own._replace(codec_sha256="0" * 64))})
    with pytest.raises(UsageError, match=re.escape(reason)):
        pipeline.sample_to("b", **arguments)
    assert not Path("b").exists()
