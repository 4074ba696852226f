"""Every picture finds its own map, or is named."""

import os
import zipfile
from pathlib import Path

import pytest

from taming_cli.data.conditions.pairs import partners
from taming_cli.data.images import EXTENSIONS
from taming_cli.data.sources import items_from_paths, list_items
from taming_cli.errors import UsageError

MAPS = EXTENSIONS | {".npy", ".json"}


def fill(root: Path, *names: str) -> Path:
    """Files whose content is their own name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def found(pictures: Path, maps: Path, extensions=MAPS) -> dict[str, str]:
    return {name: item.name for name, item in partners(list_items([pictures]).items, maps, extensions).maps.items()}


def test_maps_are_found_by_their_relative_path_across_extensions(tmp_path: Path):
    photos = fill(tmp_path / "photos", "a/b.jpg", "c/b.JPEG", "d.e.png", "x.webp", "y.png")
    maps = fill(tmp_path / "seg", "a/b.png", "c/b.TIF", "d.e.npy", "y.json", "b.png", "z/a/b.png", "x.txt")
    pairs = partners(list_items([photos]).items, maps, MAPS)
    names = {"a/b.jpg": "a/b.png", "c/b.JPEG": "c/b.TIF", "d.e.png": "d.e.npy", "y.png": "y.json"}
    assert {name: item.name for name, item in pairs.maps.items()} == names
    assert list(pairs.maps) == [item.name for item in list_items([photos]).items if item.name != "x.webp"]
    assert pairs.missing == ("x.webp",)
    assert pairs.unused == 2
    assert pairs.maps["c/b.JPEG"].read() == b"c/b.TIF"


def test_only_the_wanted_extensions_are_maps(tmp_path: Path):
    photos, maps = fill(tmp_path / "p", "1.jpg", "2.jpg"), fill(tmp_path / "m", "1.png", "1.npy", "2.npy")
    assert found(photos, maps, frozenset({".npy"})) == {"1.jpg": "1.npy", "2.jpg": "2.npy"}
    assert found(photos, maps, EXTENSIONS) == {"1.jpg": "1.png"}


def test_open_poses_suffix_is_passed_over_before_json_only(tmp_path: Path):
    photos = fill(tmp_path / "p", "a/1.jpg", "2.jpg", "3_keypoints.jpg", "4.jpg")
    maps = fill(tmp_path / "m", "a/1_keypoints.json", "2_keypoints.png", "3_keypoints.json", "4_keypoints.JSON")
    pairs = partners(list_items([photos]).items, maps, MAPS)
    assert {name: item.name for name, item in pairs.maps.items()} == {
        "a/1.jpg": "a/1_keypoints.json", "3_keypoints.jpg": "3_keypoints.json", "4.jpg": "4_keypoints.JSON",
    }  # fmt: skip
    assert pairs.missing == ("2.jpg",)
    assert pairs.unused == 1


@pytest.mark.parametrize("names", [("a/b.npy", "a/b.png"), ("a/b.json", "a/b_keypoints.json")])
def test_two_maps_for_one_picture_are_an_error_that_names_both(tmp_path: Path, names):
    photos, maps = fill(tmp_path / "p", "a/b.jpg"), fill(tmp_path / "m", *names)
    with pytest.raises(UsageError) as caught:
        found(photos, maps)
    assert all(name in str(caught.value) for name in (*names, str(maps)))


def test_no_pair_at_all_is_an_error_with_an_example_of_each(tmp_path: Path):
    photos, maps = fill(tmp_path / "p", "x/1.jpg", "x/2.jpg"), fill(tmp_path / "m", "1.png", "2.png")
    with pytest.raises(UsageError) as caught:
        found(photos, maps)
    assert str(caught.value).endswith("examples are x/1.jpg and 1.png; see: taming guide conditions")
    assert f"no map in {maps} belongs to a picture of {photos}:" in str(caught.value)


def test_a_folder_without_maps_or_none_is_an_error(tmp_path: Path):
    photos, maps = fill(tmp_path / "p", "1.jpg"), fill(tmp_path / "m", "1.txt")
    with pytest.raises(UsageError, match=r"no pictures found \(1 other files\).*\.npy"):
        found(photos, maps)
    with pytest.raises(UsageError, match="no such file or folder"):
        found(photos, tmp_path / "q")


def test_archives_and_lists_of_paths_pair_too(tmp_path: Path):
    photos = fill(tmp_path / "p", "a/1.jpg", "b/2.jpg", "b/3.jpg")
    with zipfile.ZipFile(tmp_path / "seg.zip", "w") as archive:
        for name in ("a/1.png", "b/2.npy"):
            archive.writestr(name, name)
    items = items_from_paths(sorted(photos.rglob("*.jpg"))).items
    pairs = partners(items, tmp_path / "seg.zip", MAPS)
    assert {name: item.read() for name, item in pairs.maps.items()} == {"a/1.jpg": b"a/1.png", "b/2.jpg": b"b/2.npy"}
    assert pairs.missing == ("b/3.jpg",)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("c/1.jpg", "")
    with pytest.raises(UsageError, match=r"seg\.zip belongs to a picture of .*p\.zip: "):
        partners(list_items([tmp_path / "p.zip"]).items, tmp_path / "seg.zip", MAPS)


def test_two_pictures_may_share_a_map(tmp_path: Path):
    photos, maps = fill(tmp_path / "p", "1.jpg", "1.png"), fill(tmp_path / "m", "1.png")
    pairs = partners(list_items([photos]).items, maps, MAPS)
    assert [item.name for item in pairs.maps.values()] == ["1.png", "1.png"]
    assert (pairs.missing, pairs.unused) == ((), 0)


def test_every_published_picture_has_its_map(shared: Path):
    for folder, kind in (("ade20k", "segmentation"), ("landscapes", "segmentation"), ("animals", "depth")):
        items = list_items([shared / "data" / folder / "images"]).items
        pairs = partners(items, shared / "data" / folder / kind, MAPS)
        assert len(pairs.maps) == len(items) > 10
        assert (pairs.missing, pairs.unused) == ((), 0)
