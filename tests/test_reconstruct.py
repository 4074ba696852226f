"""Through the codec and back, token files to pictures, and finding the codec."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.codec.locate import codec_for, load_codec
from taming_cli.codec.reconstruct import Written, decode, reconstruct
from taming_cli.codec.tokenize import tokenize
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.size import Size
from taming_cli.data.images import read_image, to_float, to_uint8
from taming_cli.data.sources import Item, items_from_paths, list_items
from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.errors import BadFileError, UsageError
from taming_cli.metrics import psnr
from taming_cli.runtime.checkpoint import save_model
from tests.toys import CODEC, toy_codec


@pytest.fixture(scope="module")
def codec() -> VQGAN:
    return toy_codec()


@pytest.fixture(scope="module")
def ckpt(codec: VQGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "vq.safetensors"
    save_model(path, codec_file(codec, {"size": "32x32"}))
    return path


def picture(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def sent(ckpt: Path, tmp_path: Path) -> Callable[..., Written]:
    def send(items: Any, **options: Any) -> Written:
        return reconstruct(items, tmp_path / "out", **{"ckpt": ckpt, "device": "cpu", "workers": 1, **options})

    return send


def near(path: Path, expected: torch.Tensor) -> bool:
    """Whether a PNG holds a picture, but for rounding and for codes that tie."""
    return bool((read_image(path.read_bytes(), path.name).int() - expected.int()).abs().float().mean() < 0.5)


# --- reconstruct ------------------------------------------------------------------------------------------------------


def test_each_picture_comes_back_at_its_own_size_under_its_own_name(
    codec: VQGAN, sent: Callable[..., Written], tmp_path: Path
) -> None:
    sizes = {"a/one.png": (32, 32), "a/two.png": (33, 47), "b/one.png": (5, 3), "three.png": (64, 20)}
    for seed, (name, size) in enumerate(sizes.items()):
        picture(tmp_path / "in" / name, size, seed)
    items = list_items([tmp_path / "in"]).items
    written = sent(items)
    assert (written.count, written.skipped, written.folder) == (4, (), tmp_path / "out")
    values = []
    for item in items:
        original = read_image(item.read(), item.name)
        height, width = original.shape[1:]
        padded = torch.nn.functional.pad(to_float(original)[None], (0, width % 2, 0, height % 2), mode="replicate")
        rec = to_uint8(codec.decode(codec.encode(padded)))[0, :, :height, :width]
        assert near(tmp_path / "out" / item.name, rec)
        values.append(psnr(original[None], rec[None], data_range=255).item())
    assert written.psnr == pytest.approx(np.mean(values), abs=0.05)


def test_with_a_size_the_centre_crop_comes_back(sent: Callable[..., Written], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.jpg", (50, 40))
    sent(list_items([tmp_path / "in"]).items, size=Size(16, 8))
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (16, 8)
    (tmp_path / "out" / "a.png").unlink()
    sent(list_items([tmp_path / "in"]).items, size=Size(17, 7))
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (17, 7)


def test_a_broken_picture_is_skipped_and_listed(sent: Callable[..., Written], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no")
    written = sent(list_items([tmp_path / "in"]).items)
    assert written.count == 1
    assert [name for name, _ in written.skipped] == ["b.png"]


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "..", "a/.."])
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_is_written(
    name: str, sent: Callable[..., Written], tmp_path: Path
) -> None:
    good = Item("good.png", picture(tmp_path / "in" / "good.png"))
    with pytest.raises(UsageError, match="outside"):
        sent([good, Item(name, good.path)])
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize(
    "names",
    [["a.jpg", "a.png"], ["a.png", "a.jpg", "a.webp"], ["a.png.jpg", "a.jpg", "a.png"]],
    ids=" ".join,
)
def test_pictures_whose_names_differ_in_their_suffix_do_not_overwrite_each_other(
    names: list[str], sent: Callable[..., Written], tmp_path: Path
) -> None:
    path = picture(tmp_path / "in.png")
    written = sent([Item(name, path) for name in names])
    assert written.count == len(names)
    assert len(list((tmp_path / "out").iterdir())) == len(names)


def test_the_originals_are_never_overwritten(sent: Callable[..., Written], tmp_path: Path) -> None:
    original = picture(tmp_path / "out" / "a.png")
    before = original.read_bytes()
    with pytest.raises(UsageError):
        sent(list_items([tmp_path / "out"]).items)
    assert original.read_bytes() == before


def test_a_file_in_the_place_of_the_folder_is_refused(sent: Callable[..., Written], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="folder"):
        sent([Item("a.png", picture(tmp_path / "a.png"))])


def test_only_the_same_again_overwrites(sent: Callable[..., Written], codec: VQGAN, tmp_path: Path) -> None:
    items = items_from_paths([picture(tmp_path / "a.png")]).items
    done = sent(items).folder / "a.png"
    before = done.read_bytes()
    assert sent(items).count == 1
    assert done.read_bytes() == before
    other = tmp_path / "other.safetensors"
    state = {
        name: tensor + 1 if name == "decoder.conv_out.bias" else tensor for name, tensor in codec.state_dict().items()
    }
    save_model(other, replace(codec_file(codec, {}), tensors=state))
    again = items_from_paths([picture(tmp_path / "b" / "a.png")]).items
    for items_, options in ((items, {"ckpt": other}), (again, {}), (items, {"size": Size(16, 16)})):
        with pytest.raises(UsageError, match=r"a\.png exists and was made with other settings; give another folder"):
            sent(items_, **options)
    assert done.read_bytes() == before


# --- decode -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens(ckpt: Path, tmp_path: Path) -> Path:
    for seed, name in enumerate(("cats/a.png", "dogs/b.png", "c.png")):
        picture(tmp_path / "in" / name, (40, 36), seed)
    items = list_items([tmp_path / "in"]).items
    return tokenize(items, ckpt=ckpt, out=tmp_path / "t.h5", views=2, device="cpu", workers=1).path


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_token_file_becomes_the_pictures_of_its_codes(
    batch_size: int, tokens: Path, codec: VQGAN, tmp_path: Path
) -> None:
    written = decode(tokens, tmp_path / "out", device="cpu", batch_size=batch_size)
    assert written.count == 6
    with TokenFile(tokens) as file:
        codes, names = file.codes(slice(None)), file.names()
    assert sorted(names) == ["c.png", "cats/a.png", "dogs/b.png"]
    for row, name in enumerate(names):
        for view in range(2):
            target = tmp_path / "out" / name
            target = target.with_suffix(".view1.png") if view else target
            assert near(target, to_uint8(codec.decode(torch.from_numpy(codes[row, view])[None]))[0])
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6


def header(codec: VQGAN, **changes: Any) -> TokenHeader:
    values: dict[str, Any] = {
        "codec_sha256": codec.sha256(),
        "codec_path": "",
        "codebook_size": 64,
        "downsample_factor": 2,
        "preprocess": {},
        "created_by": "test",
        "views": 1,
        "height": 4,
        "width": 4,
    }
    return TokenHeader(**values | changes)


def written_tokens(path: Path, made: TokenHeader, names: list[str]) -> Path:
    with TokenJob(path, header=made, plan={}, total=len(names), shard_size=99) as job:
        (shard,) = job.pending()
        codes = np.zeros((len(names), made.views, 4, 4), dtype=np.int64)
        job.write(shard, codes=codes, names=names, labels=[None] * len(names), conditions={}, skipped=[])
        job.finish()
    return path


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png"])
def test_a_token_file_cannot_write_outside_of_the_folder(name: str, codec: VQGAN, ckpt: Path, tmp_path: Path) -> None:
    path = written_tokens(tmp_path / "t.h5", header(codec), ["good.png", name])
    with pytest.raises(UsageError, match="outside"):
        decode(path, tmp_path / "deep" / "out", codec_path=ckpt, device="cpu")
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("names", "views", "written"),
    [
        (["a.jpg", "a.view1.jpg"], 2, ["a.jpg.png", "a.jpg.view1.png", "a.view1.jpg.png", "a.view1.jpg.view1.png"]),
        (["x/a.png", "a.png", "a.png"], 1, ["a.png.1.png", "a.png.2.png", "x/a.png.0.png"]),
        (["a.jpg", "a.png"], 1, ["a.jpg.png", "a.png.png"]),
    ],
)
def test_no_picture_or_view_is_written_over_another(
    names: list[str], views: int, written: list[str], codec: VQGAN, ckpt: Path, tmp_path: Path
) -> None:
    path = written_tokens(tmp_path / "t.h5", header(codec, views=views), names)
    done = decode(path, tmp_path / "out", codec_path=ckpt, device="cpu")
    assert sorted(str(p.relative_to(done.folder)) for p in done.folder.rglob("*.png")) == written
    assert done.count == len(written)


# --- which codec ------------------------------------------------------------------------------------------------------


def test_the_codec_is_found_where_it_was_or_beside_the_tokens(
    codec: VQGAN, ckpt: Path, tokens: Path, tmp_path: Path
) -> None:
    with TokenFile(tokens) as file:
        found = file.header
    assert codec_for(found, tokens, None)[2] == ckpt
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(ckpt.read_bytes())
    gone = replace(found, codec_path=str(tmp_path / "gone.safetensors"))
    assert codec_for(gone, tokens, None)[2].name == "moved.safetensors"
    moved.unlink()
    with pytest.raises(BadFileError, match=r"gone\.safetensors.*--codec FILE"):
        codec_for(gone, tokens, None)
    assert codec_for(gone, tokens, ckpt)[0].sha256() == codec.sha256()


def test_another_codec_is_refused_and_never_taken_by_its_place(tokens: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.safetensors"
    save_model(other, codec_file(VQGAN(CODEC), {}))
    with TokenFile(tokens) as file:
        found = replace(file.header, codec_path=str(other))
    with pytest.raises(UsageError, match="not the codec that"):
        codec_for(found, tokens, other)
    with pytest.raises(BadFileError, match="--codec FILE"):
        codec_for(found, tokens, None)


def test_a_codec_whose_decoder_was_tuned_later_still_fits(codec: VQGAN, tokens: Path, tmp_path: Path) -> None:
    state = {
        name: tensor + 1 if name.startswith(("decoder.", "post_quant_conv.")) else tensor
        for name, tensor in codec.state_dict().items()
    }
    tuned = tmp_path / "tuned.safetensors"
    save_model(tuned, replace(codec_file(codec, {}), tensors=state))
    with TokenFile(tokens) as file:
        found = file.header
    assert codec_for(found, tokens, tuned)[0].sha256() == codec.sha256()


def test_a_changed_encoder_codebook_or_config_is_another_codec(codec: VQGAN) -> None:
    hashes = {codec.sha256()}
    for name in ("encoder.conv_in.bias", "quantize.embedding.weight", "quant_conv.weight"):
        twin = VQGAN(CODEC)
        twin.load_state_dict(codec.state_dict())
        with torch.no_grad():
            twin.get_parameter(name).flatten()[0] += 1
        hashes.add(twin.sha256())
    twin = VQGAN(replace(CODEC, normalize=True))
    twin.load_state_dict(codec.state_dict())
    assert len(hashes | {twin.sha256()}) == 5


def test_a_file_that_does_not_hold_its_codec_is_refused(codec: VQGAN, tmp_path: Path) -> None:
    tensors = codec.state_dict()
    tensors.pop("encoder.conv_in.bias")
    save_model(tmp_path / "part.safetensors", replace(codec_file(codec, {}), tensors=tensors))
    with pytest.raises(BadFileError, match=r"part\.safetensors.*encoder\.conv_in\.bias") as caught:
        load_codec(tmp_path / "part.safetensors")
    assert "\n" not in str(caught.value)


def test_items_of_a_list_are_sent_too(sent: Callable[..., Written], tmp_path: Path) -> None:
    paths = [picture(tmp_path / "x" / "a.png"), picture(tmp_path / "y" / "a.png", seed=1)]
    assert sent(items_from_paths(paths).items).count == 2
    assert (tmp_path / "out" / "x" / "a.png").exists()
    assert (tmp_path / "out" / "y" / "a.png").exists()
