"""Batches: a pure function of position for training, each picture once for evaluation."""

import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from taming_cli.config.size import Size
from taming_cli.data import batches, contents
from taming_cli.data.batches import Augment, TrainingSamples, eval_batches, train_batches
from taming_cli.data.contents import Poses
from taming_cli.data.images import Crop, apply, centre_crop, read_rgb, tensor, whole
from taming_cli.data.sources import Item, list_items
from taming_cli.errors import BadImageError, TamingError

SIZE = Size(24, 16)
AUGMENT = Augment(crop_scale=(0.4, 1.0))


def make_pictures(root: Path, count: int) -> tuple[Item, ...]:
    rng = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    for number in range(count):
        height, width = rng.integers(20, 90, 2)
        smooth = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
        smooth.save(root / f"{number:02}.{('png', 'jpg')[number % 2]}")
    return list_items([root]).items


@pytest.fixture
def items(tmp_path: Path) -> tuple[Item, ...]:
    return make_pictures(tmp_path / "pictures", 11)


def samples(items, **changes) -> TrainingSamples:
    return TrainingSamples(items, **{"size": SIZE, "seed": 3, "augment": AUGMENT, **changes})


def take(items, count: int, **changes) -> Tensor:
    """The first `count` training samples as batches bring them."""
    settings = {"size": SIZE, "batch_size": 4, "seed": 3, "augment": AUGMENT, **changes}
    with train_batches(items, **settings) as loading:
        loaded = [next(loading) for _ in range(math.ceil(count / settings["batch_size"]))]
    return torch.cat(loaded)[:count]


def nothing_is_left() -> bool:
    """No loading thread, no child process, once those that are ending have had a moment."""
    for _ in range(100):
        mine = [
            thread for thread in threading.enumerate() if thread.name.startswith(("pictures", "Executor", "QueueF"))
        ]
        if not mine and not multiprocessing.active_children():
            return True
        time.sleep(0.05)
    return False


# --- training ----------------------------------------------------------------------------------------------------


def test_every_epoch_shows_every_picture_once_in_an_order_of_its_own(items):
    source = samples(items)
    epochs = [[source.sample(11 * epoch + place).item for place in range(11)] for epoch in range(4)]
    assert all(sorted(epoch, key=items.index) == list(items) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_first_places_are_uniform_over_pictures(items):
    counts = Counter(samples(items, seed=seed).sample(0).item.name for seed in range(600))
    assert len(counts) == 11
    assert max(abs(count - 600 / 11) for count in counts.values()) < 5 * math.sqrt(600 / 11)


def test_seeds_and_epochs_draw_other_crops(items):
    crops = {
        samples(items, seed=seed).sample(position).crop[:4] for seed in (0, 1, 2**63, -1) for position in range(30)
    }
    assert len(crops) == 120


def test_samples_do_not_depend_on_batch_size_start_or_history(items):
    expected = torch.stack([samples(items).sample(position).image for position in reversed(range(36))]).flip(0)
    assert expected.shape == (36, 3, 16, 24)
    for batch_size in (1, 4, 13):
        assert torch.equal(take(items, 36, batch_size=batch_size), expected)
    for start in (1, 8, 23):
        assert torch.equal(take(items, 36 - start, start=start), expected[start:])


def test_a_sample_is_its_crop_of_its_picture(items):
    source = samples(items)
    for position in range(22):
        image, item, crop = source.sample(position)
        picture = read_rgb(item.read(), item.name)
        shrink = min(1, max(38 / picture.width, 26 / picture.height))  # 24 / sqrt(0.4) = 37.9, 16 / sqrt(0.4) = 25.3
        working = picture.resize((round(picture.width * shrink), round(picture.height * shrink)), Resampling.LANCZOS)
        difference = (image.float() - tensor(apply(working, crop)).float()).abs().mean()
        assert difference < (1 if item.name.endswith("png") else 8)  # JPEG's own reduction is off by a part of a pixel
        assert crop.left + crop.width <= working.width + 1e-6
        assert crop.top + crop.height <= working.height + 1e-6


ARM, OTHER_ARM = (255, 170, 0), (170, 255, 0)  # of a skeleton, the right and the left one


@pytest.fixture
def arm(tmp_path: Path) -> tuple[Item, ...]:
    Image.new("RGB", (60, 40), ARM).save(tmp_path / "arm.png")
    return list_items([tmp_path / "arm.png"]).items


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_skeleton_that_is_mirrored_for_training_changes_sides(arm, cache_bytes):
    source = samples(arm, content=Poses(), cache_bytes=cache_bytes)
    found = [source.sample(position) for position in range(12)]
    assert {sample.crop.flip for sample in found} == {True, False}
    for image, _, crop in found:
        assert {tuple(pixel) for pixel in image.flatten(1).T.tolist()} == {OTHER_ARM if crop.flip else ARM}
        assert {tuple(pixel) for pixel in samples(arm).sample(0).image.flatten(1).T.tolist()} == {ARM}


def test_the_smallest_crop_has_a_pixel_for_each_of_the_outputs(tmp_path: Path):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (600, 450)).save(tmp_path / "p" / "1.jpg")
    Image.new("RGB", (450, 600)).save(tmp_path / "p" / "2.png")
    crop_scales = [(0.1, 0.1), (0.4, 1.0), (1.0, 1.0)]
    for crop_scale in crop_scales:
        source = samples(list_items([tmp_path / "p"]).items, augment=Augment(crop_scale=crop_scale))
        crops = [source.sample(position).crop for position in range(60)]
        assert min(crop.width for crop in crops) >= 24 - 1e-6
        assert (
            max(crop.left + crop.width for crop in crops) <= 24 / math.sqrt(crop_scale[0]) * 4
        )  # no larger than needed
    assert {crop.out for crop in crops} == {SIZE}


@pytest.mark.parametrize("cache_bytes", [1, 30_000, 1 << 30])
def test_the_cache_changes_no_sample(items, cache_bytes):
    expected = take(items, 44)
    assert torch.equal(take(items, 44, cache_bytes=cache_bytes), expected)


def test_cached_pictures_are_not_read_again_and_stay_within_the_limit(items, monkeypatch: pytest.MonkeyPatch):
    reads = Counter()
    real_read = Item.read

    def counted(item):
        reads[item.name] += 1
        return real_read(item)

    monkeypatch.setattr(Item, "read", counted)
    everything = samples(items, cache_bytes=1 << 30)
    some = samples(items, cache_bytes=20_000)
    for source, most in ((everything, 11), (some, 32)):
        reads.clear()
        for position in range(33):
            source.sample(position)
        assert 11 <= sum(reads.values()) <= most
    assert sum(image.width * image.height * 4 for image in some._cache.values()) <= 20_000
    assert some._cache


def test_flips_happen_only_where_they_are_allowed(items):
    for flip, expected in ((False, {False}), (True, {False, True})):
        source = samples(items, augment=Augment(crop_scale=(0.5, 1.0), flip=flip))
        assert {source.sample(position).crop.flip for position in range(40)} == expected


def test_the_next_readable_picture_takes_the_place_of_a_broken_one(items):
    good = samples(items)
    order = [good.sample(place).item for place in range(11)]
    broken = {order[2], order[3], order[10]}
    for item in broken:
        item.path.write_bytes(b"not a picture")
    source = samples(items)
    got = [source.sample(place).item for place in range(11)]
    assert got == [*order[:2], order[4], order[4], *order[4:10], order[0]]
    assert set(source.bad) == {item.name for item in broken}
    assert all("not a picture" in reason and name not in reason for name, reason in source.bad.items())
    assert torch.equal(source.sample(6).image, good.sample(6).image)
    later = samples(items)  # what was met before must not matter
    assert torch.equal(later.sample(10).image, source.sample(10).image)


def test_batches_collect_the_broken_pictures_as_they_come(items):
    items[4].path.write_bytes(b"")
    items[7].path.unlink()
    with train_batches(items, size=SIZE, batch_size=11, seed=0, augment=AUGMENT) as loading:
        next(loading)
        assert set(loading.bad) == {items[4].name, items[7].name}
        assert loading.bad[items[7].name] == "No such file or directory"
        next(loading)
        assert len(loading.bad) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_where_no_picture_can_be_read_the_error_names_the_first(items, workers):
    for item in items:
        item.path.write_bytes(b"")
    with (
        train_batches(items, size=SIZE, batch_size=2, seed=0, augment=AUGMENT, workers=workers) as loading,
        pytest.raises(
            BadImageError, match=r"^none of the 11 pictures can be read; the first is \d\d\.\w+: the file is empty$"
        ),
    ):
        next(loading)
    assert len(loading.bad) == 11
    assert nothing_is_left()


def test_worker_processes_bring_the_same_batches_and_end(items):
    items[5].path.write_bytes(b"broken")
    expected = take(items, 40)
    with train_batches(
        items, size=SIZE, batch_size=4, seed=3, augment=AUGMENT, workers=2, cache_bytes=1 << 20
    ) as loading:
        got = torch.cat([next(loading) for _ in range(10)])
        assert len(multiprocessing.active_children()) == 2
        assert list(loading.bad) == [items[5].name]
    assert torch.equal(got, expected)
    assert nothing_is_left()
    with pytest.raises(StopIteration):
        next(loading)


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_workers_live_through_an_interrupt_and_a_killed_one_is_an_error(items):
    with train_batches(items, size=SIZE, batch_size=4, seed=3, augment=AUGMENT, workers=1) as loading:
        next(loading)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGINT)
        for _ in range(5):
            next(loading)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(TamingError, match="use fewer --workers"):
            list(itertools.islice(loading, 50))
    assert nothing_is_left()


ENDLESS = """
import sys
from pathlib import Path
from taming_cli.config.size import Size
from taming_cli.data.batches import Augment, train_batches
from taming_cli.data.sources import list_items

if __name__ == "__main__":
    items = list_items([Path(sys.argv[1])]).items
    for _ in train_batches(items, size=Size(8, 8), batch_size=2, seed=0, augment=Augment(), workers=1):
        print("loaded", flush=True)
        sys.stdin.read()
"""


def test_workers_end_when_their_parent_is_killed(items, tmp_path: Path):
    (tmp_path / "endless.py").write_text(ENDLESS)
    command = [sys.executable, str(tmp_path / "endless.py"), str(items[0].path.parent)]
    environment = {**os.environ, "PYTHONPATH": str(Path(batches.__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout.readline() == b"loaded\n"
        parent.kill()
        parent.communicate(timeout=20)  # the output ends when the last process that holds it has ended


@pytest.mark.parametrize("started", [False, True])
def test_closing_leaves_no_thread(items, started):
    loading = train_batches(items, size=SIZE, batch_size=4, seed=3, augment=AUGMENT)
    if started:
        next(loading)
        assert any(thread.name.startswith("pictures") for thread in threading.enumerate())
    loading.close()
    loading.close()
    assert nothing_is_left()


def test_a_run_that_fails_in_the_middle_leaves_no_thread(items):
    def run():
        with train_batches(items, size=SIZE, batch_size=4, seed=3, augment=AUGMENT) as loading:
            for number, _ in enumerate(loading):
                if number == 2:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert nothing_is_left()


def test_loading_runs_ahead_but_not_away(items, monkeypatch: pytest.MonkeyPatch):
    seen = []
    real = TrainingSamples.sample
    monkeypatch.setattr(TrainingSamples, "sample", lambda self, position: seen.append(position) or real(self, position))
    with train_batches(items, size=SIZE, batch_size=2, seed=3, augment=AUGMENT) as loading:
        next(loading)
        time.sleep(0.3)
        assert 4 <= len(seen) <= 8


# --- evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_each_picture_comes_once_in_order_as_its_centre_crop(items, batch_size, workers):
    got = list(eval_batches(items, size=SIZE, batch_size=batch_size, workers=workers))
    assert [item for batch in got for item in batch.items] == list(items)
    assert [len(batch.items) for batch in got[:-1]] == [batch_size] * (len(got) - 1)
    pictures = [read_rgb(item.read(), item.name) for item in items]
    expected = torch.stack([tensor(apply(each, centre_crop(Size(*each.size), SIZE))) for each in pictures])
    assert torch.equal(torch.cat([batch.images for batch in got]), expected)
    assert nothing_is_left()


def test_broken_pictures_are_skipped_and_reported(items):
    for number in (0, 4, 5, 10):
        items[number].path.write_bytes(b"broken")
    got = list(eval_batches(items, size=SIZE, batch_size=3, workers=2))
    assert [item for batch in got for item in batch.items] == [items[n] for n in (1, 2, 3, 6, 7, 8, 9)]
    assert [len(batch.images) for batch in got] == [3, 3, 1]
    assert [skip.name for batch in got for skip in batch.skipped] == [items[n].name for n in (0, 4, 5, 10)]
    assert all(
        "not a picture" in skip.reason and skip.name not in skip.reason for batch in got for skip in batch.skipped
    )


def test_where_all_are_broken_one_empty_batch_reports_it(items):
    for item in items:
        item.path.write_bytes(b"broken")
    (batch,) = eval_batches(items, size=SIZE, batch_size=4)
    assert (len(batch.images), batch.items, len(batch.skipped)) == (0, [], 11)
    assert list(eval_batches([], size=SIZE, batch_size=4)) == []


def test_native_sizes_share_a_batch_with_equal_neighbours_only(tmp_path: Path):
    shapes = [(8, 6), (8, 6), (8, 6), (9, 6), (8, 6), (8, 6)]
    for number, shape in enumerate(shapes):
        Image.new("RGB", shape, (number, 0, 0)).save(tmp_path / f"{number}.png")
    got = list(eval_batches(list_items([tmp_path]).items, batch_size=2, workers=2))
    assert [tuple(batch.images.shape) for batch in got] == [(2, 3, 6, 8), (1, 3, 6, 8), (1, 3, 6, 9), (2, 3, 6, 8)]
    assert [int(image[0, 0, 0]) for batch in got for image in batch.images] == [0, 1, 2, 3, 4, 5]


def test_the_views_of_a_picture_follow_each_other(items):
    def views(item: Item, source: Size) -> list[Crop]:
        middle = centre_crop(source, SIZE)
        return [middle, middle._replace(flip=True), whole(source, SIZE)]

    (batch,) = eval_batches(items, views=views, batch_size=20)
    assert batch.images.shape == (33, 3, 16, 24)
    middle, mirrored, everything = batch.images.unflatten(0, (11, 3)).unbind(1)
    (plain,) = eval_batches(items, size=SIZE, batch_size=20)
    assert torch.equal(middle, plain.images)
    assert torch.equal(mirrored, plain.images.flip(-1))
    last = read_rgb(items[-1].read(), "x")
    assert torch.equal(everything[-1], tensor(last.resize((24, 16), Resampling.LANCZOS)))


def test_a_view_may_refuse_a_picture(items):
    def views(item: Item, source: Size) -> list[Crop]:
        if source.width < 40:
            raise BadImageError("too small")
        return [whole(source, SIZE)]

    got = list(eval_batches(items, views=views, batch_size=20))
    sizes = {item.name: read_rgb(item.read(), "x").width for item in items}
    assert [skip for batch in got for skip in batch.skipped] == [(n, "too small") for n, w in sizes.items() if w < 40]
    assert sum(len(batch.items) for batch in got) == sum(width >= 40 for width in sizes.values())


def test_leaving_evaluation_early_leaves_no_thread(items):
    evaluation = eval_batches(items * 20, size=SIZE, batch_size=2, workers=3)
    next(evaluation)
    evaluation.close()
    assert nothing_is_left()


def test_closing_drops_what_is_not_begun(items, monkeypatch: pytest.MonkeyPatch):
    decoded = []
    real = read_rgb

    def slow(data, name, **more):
        time.sleep(0.01)
        decoded.append(name)
        return real(data, name, **more)

    monkeypatch.setattr(contents, "read_rgb", slow)
    evaluation = eval_batches(items * 20, size=SIZE, batch_size=30, workers=1)
    next(evaluation)
    evaluation.close()
    assert 31 <= len(decoded) <= 40  # of some 90 that were asked for


def test_decoding_runs_ahead_but_not_away(items):
    taken = []

    def watched():
        for item in itertools.cycle(items):
            taken.append(item)
            yield item

    evaluation = eval_batches(watched(), size=SIZE, batch_size=2, workers=2)
    next(evaluation)
    assert 5 <= len(taken) <= 12
    evaluation.close()


def test_a_fault_of_ours_in_a_thread_is_not_taken_for_a_broken_picture(items):
    def views(item: Item, source: Size) -> list[Crop]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(eval_batches(items, views=views, batch_size=2))
    assert nothing_is_left()


def test_decoding_uses_the_threads_it_is_given(items, monkeypatch: pytest.MonkeyPatch):
    together = threading.Barrier(3, timeout=10)
    real = read_rgb

    def meeting(data, name, **more):
        together.wait()  # passes only when three are decoded at once
        return real(data, name, **more)

    monkeypatch.setattr(contents, "read_rgb", meeting)
    assert sum(len(batch.items) for batch in eval_batches(items[:9], size=SIZE, batch_size=4, workers=3)) == 9


def test_photos_become_training_batches(shared: Path):
    listing = list_items([shared / "data" / "photos"])
    got = take(listing.items[:6], 6, size=Size(64, 48), batch_size=3)
    assert got.shape == (6, 3, 48, 64)
    assert got.float().std() > 20


def test_a_pictures_bytes_in_an_archive_train_like_the_file(items, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for item in items:
            archive.write(item.path, item.name)
    packed = list_items([tmp_path / "x.zip"]).items
    assert torch.equal(take(packed, 22), take(items, 22))


def test_a_mirrored_view_of_a_skeleton_changes_sides(arm):
    def views(_, source):
        return [centre_crop(source, SIZE), centre_crop(source, SIZE)._replace(flip=True)]

    (batch,) = eval_batches(arm, views=views, batch_size=1, content=Poses())
    colours = [{tuple(pixel) for pixel in view.flatten(1).T.tolist()} for view in batch.images]
    assert colours == [{ARM}, {OTHER_ARM}]
