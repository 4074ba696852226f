"""Pictures to a token file: codes as the codec makes them, views, labels, lists, what is skipped, and resuming."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.codec import tokenize as room
from taming_cli.codec.tokenize import Views, tokenize, training_size
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.size import Size
from taming_cli.data.images import apply, centre_crop, read_rgb, tensor, to_float
from taming_cli.data.sources import Item, items_from_paths, list_items
from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.data.tokens.merge import Finished
from taming_cli.errors import Interrupted, TamingError, UsageError
from taming_cli.runtime.checkpoint import save_model
from tests.toys import CODEC, toy_codec


@pytest.fixture(scope="module")
def codec() -> VQGAN:
    return toy_codec()


@pytest.fixture(scope="module")
def ckpt(codec: VQGAN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec") / "vq.safetensors"
    save_model(path, codec_file(codec, {"size": "32x24"}))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, size in enumerate([(40, 30), (30, 40), (64, 64), (33, 25), (32, 24), (48, 90), (50, 50)]):
        path = folder / ("cats", "dogs", "")[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def made(ckpt: Path, tmp_path: Path) -> Callable[..., Finished]:
    def make(items: Any, name: str = "t.h5", **options: Any) -> Finished:
        return tokenize(items, **{"ckpt": ckpt, "out": tmp_path / name, "device": "cpu", "workers": 1, **options})

    return make


def expected(codec: VQGAN, item: Item, size: Size, *, flip: bool = False) -> Any:
    """One picture's codes, by the shortest way there is."""
    picture = read_rgb(item.read(), item.name)
    cut = apply(picture, centre_crop(Size(*picture.size), size)._replace(flip=flip))
    return codec.encode(to_float(tensor(cut))[None])[0].numpy()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_codes_are_what_the_codec_makes_of_each_centre_crop(
    batch_size: int, codec: VQGAN, pictures: Path, made: Callable[..., Finished]
) -> None:
    items = list_items([pictures]).items
    finished = made(items, batch_size=batch_size)
    assert (finished.count, finished.skipped) == (7, ())
    with TokenFile(finished.path) as file:
        codes = file.codes(slice(None))
        assert codes.shape == (7, 1, 12, 16)
        assert file.names() == [item.name for item in items]
        assert len(np.unique(codes)) > 5
        for row, item in enumerate(items):
            same = codes[row, 0] == expected(codec, item, Size(32, 24))
            assert same.mean() > 0.99, item.name  # a tie may fall to the other side in another batch


def test_the_file_records_which_codec_made_it_and_how(
    codec: VQGAN, ckpt: Path, pictures: Path, made: Callable[..., Finished]
) -> None:
    finished = made(list_items([pictures]).items, views=2)
    with TokenFile(finished.path) as file:
        header = file.header
    assert header.codec_sha256 == codec.sha256()
    assert header.codec_path == str(ckpt)
    assert (header.codebook_size, header.downsample_factor, header.views) == (64, 2, 2)
    assert (header.preprocess["size"], header.preprocess["views"]) == ("32x24", 2)
    assert verify(finished.path).count == 7


def test_the_second_view_is_the_mirror_image(codec: VQGAN, pictures: Path, made: Callable[..., Finished]) -> None:
    items = list_items([pictures]).items
    with TokenFile(made(items, views=2, batch_size=5).path) as file:
        codes = file.codes(slice(None))
    for row, item in enumerate(items):
        for view, flip in enumerate((False, True)):
            assert (codes[row, view] == expected(codec, item, Size(32, 24), flip=flip)).mean() > 0.99
    assert (codes[:, 0] != codes[:, 1]).any()


def test_views_are_centre_mirror_and_then_fixed_random_crops_of_at_least_half_the_area() -> None:
    item, source = Item("cats/ö.png", Path("anywhere")), Size(100, 90)
    crops = Views(size=Size(32, 24), count=12)(item, source)
    whole = centre_crop(source, Size(32, 24))
    assert crops[:2] == [whole, whole._replace(flip=True)]
    assert len(set(crops)) == 12
    assert crops == Views(size=Size(32, 24), count=12)(Item("cats/ö.png", Path("elsewhere")), source)
    assert crops[:5] == Views(size=Size(32, 24), count=5)(item, source)
    others = Views(size=Size(32, 24), count=12)(Item("dogs/a.png", Path("anywhere")), source)
    assert not set(crops[2:]) & set(others[2:])
    assert {crop.flip for crop in crops[2:]} == {False, True}
    for crop in crops:
        assert 0.5 * whole.width * whole.height - 1e-6 <= crop.width * crop.height <= whole.width * whole.height + 1e-6
        assert crop.width / crop.height == pytest.approx(32 / 24)
        assert min(crop.left, crop.top) >= 0
        assert crop.left + crop.width <= source.width + 1e-6
        assert crop.top + crop.height <= source.height + 1e-6
        assert crop.out == Size(32, 24)


def test_labels_come_from_sub_folders(pictures: Path, made: Callable[..., Finished]) -> None:
    with TokenFile(made(list_items([pictures]).items).path) as file:
        labels = dict(zip(file.names(), file.labels.tolist(), strict=True))
        assert file.label_names == ("cats", "dogs")
    assert labels == {
        "2.png": -1,
        "5.png": -1,
        "cats/0.png": 0,
        "cats/3.png": 0,
        "cats/6.png": 0,
        "dogs/1.png": 1,
        "dogs/4.png": 1,
    }


def test_a_list_of_paths_keeps_its_order(pictures: Path, made: Callable[..., Finished]) -> None:
    paths = [pictures / "dogs" / "4.png", pictures / "cats" / "0.png"]
    with TokenFile(made(items_from_paths(paths).items).path) as file:
        assert file.names() == ["dogs/4.png", "cats/0.png"]
        assert [file.label_names[label] for label in file.labels] == ["dogs", "cats"]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_broken_picture_is_left_out_and_listed(
    place: str, pictures: Path, tmp_path: Path, made: Callable[..., Finished]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no more")
    items = list(list_items([pictures]).items)
    items.insert({"first": 0, "middle": 3, "last": 7}[place], Item("broken.jpg", broken))
    finished = made(items, batch_size=2)
    assert finished.count == 7
    ((name, reason),) = finished.skipped
    assert name == "broken.jpg"
    assert reason
    with TokenFile(finished.path) as file:
        assert file.names() == [item.name for item in items if item.name != "broken.jpg"]
        assert [one[0] for one in file.skipped] == ["broken.jpg"]
        assert file.codes(slice(None)).shape[0] == 7


def test_nothing_but_broken_pictures_fails_without_a_file(tmp_path: Path, made: Callable[..., Finished]) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no")
    with pytest.raises(TamingError, match=r"broken\.jpg"):
        made([Item("broken.jpg", tmp_path / "broken.jpg")])
    assert not (tmp_path / "t.h5").exists()


def test_a_given_size_wins_and_must_divide_by_f(pictures: Path, made: Callable[..., Finished]) -> None:
    items = list_items([pictures]).items
    with TokenFile(made(items, size=Size(16, 8)).path) as file:
        assert (file.header.width, file.header.height) == (8, 4)
    with pytest.raises(UsageError, match="nearest"):
        made(items, "other.h5", size=Size(17, 8))


def test_the_size_of_training_is_the_default_else_the_nominal_resolution(codec: VQGAN) -> None:
    assert training_size({"size": "32x24"}, codec) == Size(32, 24)
    for about in ({}, {"size": "odd"}, None):
        assert training_size(about, codec) == Size(32, 32)


def test_progress_counts_pictures_skipped_ones_too(
    pictures: Path, tmp_path: Path, made: Callable[..., Finished]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no")
    items = [*list_items([pictures]).items, Item("broken.jpg", tmp_path / "broken.jpg")]
    told: list[tuple[int, int]] = []
    made(items, batch_size=2, on_item=lambda done, total: told.append((done, total)))
    assert told[-1] == (8, 8)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SHARD_IMAGES", 2)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_the_same_again_goes_on_at_the_next_shard(
    number: signal.Signals, pictures: Path, tmp_path: Path, made: Callable[..., Finished]
) -> None:
    items = list_items([pictures]).items
    whole = made(items, "whole.h5", batch_size=1)

    def stop(done: int, total: int) -> None:
        if done == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="repeat the command to continue") as caught:
        made(items, batch_size=1, on_item=stop)
    assert caught.value.exit_code == 128 + number
    assert not (tmp_path / "t.h5").exists()
    encoded: list[int] = []
    again = made(items, batch_size=1, on_item=lambda done, total: encoded.append(done))
    assert encoded == [4, 5, 6, 7]  # two shards of two pictures were whole
    with TokenFile(whole.path) as a, TokenFile(again.path) as b:
        assert np.array_equal(a.codes(slice(None)), b.codes(slice(None)))
        assert a.names() == b.names()
        assert a.labels.tolist() == b.labels.tolist()


def test_a_finished_file_is_left_as_it_is_and_other_settings_are_refused(
    pictures: Path, made: Callable[..., Finished]
) -> None:
    items = list_items([pictures]).items
    path = made(items).path
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert made(items).count == 7
    for others, options in ((items, {"views": 2}), (items, {"size": Size(16, 16)}), (items[:-1], {})):
        with pytest.raises(UsageError, match="other settings"):
            made(others, **options)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_codec_of_other_weights_does_not_go_on_with_the_file(
    pictures: Path, tmp_path: Path, made: Callable[..., Finished]
) -> None:
    items = list_items([pictures]).items
    made(items)
    torch.manual_seed(1)
    save_model(tmp_path / "other.safetensors", codec_file(VQGAN(CODEC), {"size": "32x24"}))
    with pytest.raises(UsageError, match="other settings"):
        made(items, ckpt=tmp_path / "other.safetensors")
