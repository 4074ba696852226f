"""WebDataset's naming with dots in keys: labels, companions, conflicts; in tar and zip archives and in folders."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from taming_cli.data.sources import Listing, list_items
from taming_cli.errors import BadFileError

Members = list[tuple[str, bytes]]


def make_tar(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def make_folder(path: Path, members: Members) -> Path:
    for name, content in members:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


PLACES = {"x.tar": make_tar, "x.zip": make_zip, "x": make_folder}


@pytest.fixture(params=PLACES)
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Listing]:
    """A set with these members: names, or names with their content; listed in a tar, a zip and a folder."""

    def make(*members: str | tuple[str, bytes]) -> Listing:
        content = [member if isinstance(member, tuple) else (member, member.encode()) for member in members]
        return list_items([PLACES[request.param](tmp_path / request.param, content)])

    return make


def labels(listing: Listing) -> dict[str, str | None]:
    return {item.name: item.label for item in listing.items}


def names(listing: Listing) -> list[str]:
    return [item.name for item in listing.items]


# --- labels ------------------------------------------------------------------------------------------------------


def test_keys_with_dots_have_labels_of_their_own(listed):
    found = listed(
        *(("scan_v1.5_0000.cls", b"cat"), "scan_v1.5_0000.png"),  # the label may come before its picture
        *("scan_v1.5_0001.png", ("scan_v1.5_0001.cls", b"dog\n")),
        *("a.b/c.d.JPG", ("a.b/c.d.CLS", b" bird\r\n")),
        *("7.png", ("7.cls", b"3")),
    )
    assert labels(found) == {
        "7.png": "3",
        "a.b/c.d.JPG": "bird",
        "scan_v1.5_0000.png": "cat",
        "scan_v1.5_0001.png": "dog",
    }


def test_the_shared_shard_with_dotted_keys(shared: Path):
    found = labels(list_items([shared / "cases" / "dotted-keys.tar"]))
    assert list(found.values()) == ["cat", "dog", "cat", "bird"]


def test_the_longest_stem_counts(listed):
    found = listed(
        *("a.png", ("a.cls", b"short"), "a.b.png", ("a.b.cls", b"middle"), "a.b.c.png", ("a.b.c.cls", b"long")),
    )
    assert labels(found) == {"a.png": "short", "a.b.png": "middle", "a.b.c.png": "long"}


@pytest.mark.parametrize(
    ("label", "picture"),
    [
        ("0001.png.cls", "0001.png"),
        ("0001.fine.cls", "0001.png"),
        ("0001.cls", "0001.image.png"),
        ("0001.class.cls", "0001.image.png"),
        ("v1.5_0001.cls", "v1.5_0001.image.png"),
    ],
)
def test_a_label_reaches_its_picture_past_fields(listed, label: str, picture: str):
    assert labels(listed(picture, (label, b"cat"))) == {picture: "cat"}


def test_the_label_of_a_picture_that_is_gone_is_nobodys(listed):
    found = listed("v1.5_0000.png", ("v1.5_0000.cls", b"cat"), ("v1.5_0001.cls", b"dog"), "v1.5_0002.png")
    assert labels(found) == {"v1.5_0000.png": "cat", "v1.5_0002.png": None}


def test_pictures_of_one_stem_share_a_label(listed):
    assert labels(listed("1.jpg", "1.png", ("1.cls", b"cat"))) == {"1.jpg": "cat", "1.png": "cat"}


def test_without_a_label_the_folder_stays_one(listed):
    found = listed("cats/1.png", "dogs/2.png", ("dogs/2.cls", b"poodle"))
    assert labels(found) == {"cats/1.png": "cats", "dogs/2.png": "poodle"}


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfchat\xc3\xa9", "chaté\r\n".encode("utf-16")])
def test_labels_may_begin_with_a_byte_order_mark(listed, text: bytes):
    assert labels(listed("1.png", ("1.cls", text))) == {"1.png": "chaté"}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["1.png", ("1.cls", b"cat"), ("1.CLS", b"dog")], ("1.cls", "1.CLS", "'cat'", "'dog'")),
        (["1.png", ("1.cls", b"cat"), ("1.png.cls", b"dog")], ("1.cls", "1.png.cls", "'cat'", "'dog'")),
        (["1.png", ("1.cls", b"animal"), ("1.fine.cls", b"dog")], ("1.cls", "1.fine.cls")),
        (["1.jpg", "1.png", ("1.jpg.cls", b"cat"), ("1.png.cls", b"dog")], ("1.jpg.cls", "1.png.cls", "one key")),
        (["v1.5_0.png", "v1.5_1.png", ("v1.cls", b"cat")], ("v1.cls", "v1.5_0.png", "v1.5_1.png")),
        (["1.png", ("1.cls", b"")], ("1.cls", "is empty")),
        (["1.png", ("1.cls", b" \n")], ("1.cls", "is empty")),
        (["1.png", ("1.cls", b"cat\ndog")], ("1.cls", "more than one line")),
        (["1.png", ("1.cls", b"x" * 5000)], ("1.cls", "more than one line")),
        (["1.png", ("1.cls", b"\x80\x04K\x03.")], ("1.cls", "not utf-8 text")),
    ],
)
def test_a_conflict_or_no_label_is_an_error_that_names_the_members(listed, members, words: tuple[str, ...]):
    with pytest.raises(BadFileError) as caught:
        listed(*members)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("x", *words):
        assert word in message


def test_labels_that_agree_are_no_conflict(listed):
    assert labels(listed("1.png", ("1.cls", b"cat"), ("1.CLS", b"cat\n"))) == {"1.png": "cat"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_key_that_comes_twice_in_a_labelled_archive_is_an_error_unless_it_is_the_same_file(tmp_path: Path, make):
    one, two = [("1.png", b"one"), ("1.cls", b"cat")], [("./1.png", b"two"), ("./1.cls", b"cat")]
    ending = make.__name__.removeprefix("make_")
    with pytest.raises(BadFileError, match=r"1\.png and \./1\.png differ"):
        list_items([make(tmp_path / f"a.{ending}", one + two)])
    with pytest.raises(BadFileError, match=r"1\.cls and 1\.cls differ|'cat' and 'dog'"):
        list_items([make(tmp_path / f"b.{ending}", [*one, ("1.cls", b"dog")])])
    assert labels(list_items([make(tmp_path / f"c.{ending}", one + one)])) == {"1.png": "cat"}


# --- companions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["seg", "depth", "mask", "seg2", "instance_mask", "semantic-map", "NORMALS"])
def test_maps_beside_their_pictures_are_no_pictures_even_without_labels(listed, field: str):
    found = listed("1.png", f"1.{field}.png", "v1.5_2.jpg", f"v1.5_2.{field}.png")
    assert names(found) == ["1.png", "v1.5_2.jpg"]
    assert found.ignored == 2


def test_a_map_beside_a_picture_with_a_field_is_no_picture(listed):
    assert names(listed("1.image.png", "1.seg.png", "2.image.png", "2.seg.png")) == ["1.image.png", "2.image.png"]


def test_maps_by_themselves_are_what_is_wanted(listed):
    assert names(listed("1.seg.png", "2.seg.png")) == ["1.seg.png", "2.seg.png"]


def test_dots_in_the_names_of_plain_pictures_mean_nothing(listed):
    assert names(listed("a.png", "a.b.png", "a.b.c.png", "a.v2.jpg")) == ["a.b.c.png", "a.b.png", "a.png", "a.v2.jpg"]


def test_in_a_labelled_set_any_field_marks_a_companion_but_a_labelled_picture_is_none(listed):
    found = listed(
        *("1.jpg", ("1.cls", b"cat"), "1.crop.png"),
        *("v1.png", ("v1.cls", b"dog"), "v1.b.png", ("v1.b.cls", b"bird"), "v1.5.png"),
    )
    assert labels(found) == {"1.jpg": "cat", "v1.5.png": None, "v1.b.png": "bird", "v1.png": "dog"}


def test_captions_and_metadata_mark_a_shard_by_the_longest_stem(tmp_path: Path):
    members = ["v1.5_0.png", "v1.5_0.txt", "v1.5_0.crop.png", "v1.5_1.png", "v1.5_1.JSON", "v1.5_1.crop.png"]
    shard = make_tar(tmp_path / "x.tar", [(name, b"") for name in members])
    assert names(list_items([shard])) == ["v1.5_0.png", "v1.5_1.png"]


def test_captions_in_a_folder_leave_every_picture(tmp_path: Path):
    folder = make_folder(tmp_path / "x", [(name, b"") for name in ("a.png", "a.txt", "a.crop.png", "a.crop.txt")])
    assert names(list_items([folder])) == ["a.crop.png", "a.png"]


def test_what_is_left_out_is_counted_and_told(listed, caplog: pytest.LogCaptureFixture):
    found = listed("1.png", "1.seg.png", "2.png", "2.seg.png", "3.mov", "notes.md")
    assert dict(found.others) == {".seg.png": 2, ".mov": 1, ".md": 1}
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.endswith("3 files ignored: 2 .seg.png, 1 .mov")
