"""The held-out split, which depends on the pictures' contents alone, and the digest of a listing."""

from dataclasses import replace
from pathlib import Path

from taming_cli.data.sources import Item, list_items
from taming_cli.data.split import digest, split
from tests.test_sources import make_tar


def pictures(root: Path, contents: dict[str, bytes]) -> tuple[Item, ...]:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return list_items([root]).items


def test_about_the_share_is_held_out_and_nothing_is_lost(tmp_path: Path):
    items = pictures(tmp_path, {f"{n}.png": b"%d" % n for n in range(400)})
    sides = split(items, held_fraction=0.1)
    assert 20 <= len(sides.held) <= 60
    assert sorted(sides.train + sides.held, key=items.index) == list(items)
    assert list(sides.held) == sorted(sides.held, key=items.index)


def test_a_pictures_side_depends_on_its_content_alone(tmp_path: Path):
    contents = {f"{n}.png": b"%d" % n for n in range(200)}
    before = split(pictures(tmp_path / "a", contents), held_fraction=0.2)
    held = {item.read() for item in before.held}
    others = {f"other/{n}.jpg": b"other %d" % n for n in range(100)}
    renamed = {f"renamed/{name[::-1]}.png": content for name, content in contents.items()}
    after = split(pictures(tmp_path / "b", renamed | others), held_fraction=0.2)
    old = set(contents.values())
    assert {item.read() for item in after.held} & old == held
    copies = split(pictures(tmp_path / "c", contents | renamed), held_fraction=0.2)
    assert {item.read() for item in copies.held} == held
    assert len(copies.held) == 2 * len(held)


def test_the_side_is_the_same_in_an_archive(tmp_path: Path):
    files = pictures(tmp_path / "a", {f"{n}.png": f"{n}.png".encode() for n in range(50)})
    packed = list_items([make_tar(tmp_path / "x.tar", *(item.name for item in files))]).items
    held = [{item.name for item in split(items, held_fraction=0.3).held} for items in (files, packed)]
    assert held[0] == held[1]


def test_pictures_that_differ_only_in_size_or_early_bytes_are_different(tmp_path: Path):
    long = bytes(70_000)
    contents = {"a.png": long, "b.png": long + b"\0", "c.png": b"\1" + long[1:]}
    sides = [split(pictures(tmp_path, contents), held_fraction=0.0, at_least=n) for n in (1, 2)]
    assert [len(side.held) for side in sides] == [1, 2]


def test_neither_side_is_ever_empty_where_two_pictures_differ(tmp_path: Path):
    items = pictures(tmp_path, {f"{n}.png": b"%d" % n for n in range(5)})
    for fraction in (0.0, 1e-9, 0.5, 1.0):
        for count in range(2, 6):
            sides = split(items[:count], held_fraction=fraction)
            assert sides.train
            assert sides.held
            assert sides == split(items[:count], held_fraction=fraction)
    assert len(split(items, held_fraction=0.0, at_least=3).held) == 3
    assert len(split(items, held_fraction=0.0, at_least=9).held) == 4
    assert split(items, held_fraction=0.0, at_least=0).held == ()


def test_copies_of_one_picture_are_all_trained_on(tmp_path: Path):
    items = pictures(tmp_path, {"a.png": b"same", "b.png": b"same"})
    assert split(items, held_fraction=1.0) == (items, ())
    assert split((), held_fraction=0.5) == ((), ())


def test_what_cannot_be_read_is_not_held_out(tmp_path: Path):
    items = pictures(tmp_path, {f"{n}.png": b"%d" % n for n in range(3)})
    gone = Item("gone.png", tmp_path / "gone.png")
    sides = split((gone, *items), held_fraction=1.0)
    assert gone in sides.train
    assert len(sides.held) == 2


def test_the_digest_follows_names_and_sizes_and_no_order(tmp_path: Path):
    items = pictures(tmp_path, {"a.png": b"12", "b/c.png": b"345"})
    assert digest(items) == digest(items[::-1])
    assert digest(items) == digest(pictures(tmp_path / "elsewhere", {"a.png": b"xy", "b/c.png": b"zzz"}))
    changed = [
        items[:1],
        (items[0], replace(items[1], name="b/d.png")),
        (items[0], Item("b/c.png", tmp_path / "gone.png")),
        pictures(tmp_path / "third", {"a.png": b"12", "b/c.png": b"3456"}),
    ]
    assert len({digest(items), *map(digest, changed)}) == 5
