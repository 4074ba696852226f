"""Listings: folders, files, path lists and archives."""

import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import pickle
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from taming_cli.data.lists import read_paths
from taming_cli.data.sources import Item, items_from_paths, list_items
from taming_cli.data.split import digest
from taming_cli.errors import BadFileError, BadImageError, UsageError


def fill(root: Path, *names: str) -> Path:
    """Files whose content is their own name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def names(listing) -> list[str]:
    return [item.name for item in listing.items]


def labels(listing) -> list[str | None]:
    return [item.label for item in listing.items]


# --- folders and files -------------------------------------------------------------------------------------------


def test_a_folder_is_listed_recursively_in_the_order_of_bytes(tmp_path: Path):
    fill(tmp_path, "b/2.png", "b/1.JPG", "B.webp", "a.jpeg", "b.tif", "é.gif", "z/y/x/w.bmp", "b-1.png")
    listing = list_items([tmp_path])
    assert names(listing) == ["B.webp", "a.jpeg", "b-1.png", "b.tif", "b/1.JPG", "b/2.png", "z/y/x/w.bmp", "é.gif"]
    assert labels(listing) == [None, None, None, None, "b", "b", "z", None]
    assert [item.read() for item in listing.items] == [os.fsencode(name) for name in names(listing)]


def test_hidden_files_are_passed_over_and_other_files_counted(tmp_path: Path):
    fill(tmp_path, "1.png", ".2.png", ".git/3.png", "notes.txt", "a/model.pt", "a/.DS_Store", "png", "archive.zip")
    listing = list_items([tmp_path])
    assert names(listing) == ["1.png"]
    assert listing.ignored == 4


def test_loops_of_links_end_and_folders_keep_their_own_name(tmp_path: Path):
    fill(tmp_path, "cats/1.png", "cats/deep/2.png")
    (tmp_path / "a-link").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "up").symlink_to(tmp_path)
    (tmp_path / "cats" / "deep" / "self").symlink_to(tmp_path / "cats" / "deep")
    assert names(list_items([tmp_path])) == ["cats/1.png", "cats/deep/2.png"]


def test_linked_folders_and_files_elsewhere_are_followed(tmp_path: Path):
    elsewhere = fill(tmp_path / "elsewhere", "1.png", "2.png")
    root = fill(tmp_path / "root", "0.png")
    (root / "dogs").symlink_to(elsewhere)
    (root / "x.png").symlink_to(elsewhere / "2.png")
    listing = list_items([root])
    assert names(listing) == ["0.png", "dogs/1.png", "dogs/2.png", "x.png"]
    assert labels(listing) == [None, "dogs", "dogs", None]


def test_links_that_lead_nowhere_become_items_that_cannot_be_read(tmp_path: Path):
    fill(tmp_path, "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "3.png").symlink_to(tmp_path / "3.png")
    listing = list_items([tmp_path])
    assert names(listing) == ["1.png", "2.png", "3.png"]
    for item in listing.items[1:]:
        with pytest.raises(BadImageError, match=item.name):
            item.read()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_a_folder_is_left_alone(tmp_path: Path):
    fill(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to(tmp_path / "2.png")
    assert names(list_items([tmp_path])) == ["1.png"]


def test_undecodable_names_are_kept_and_read(tmp_path: Path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        descriptor = os.open(raw, os.O_CREAT | os.O_WRONLY)
    except OSError:
        pytest.skip("this file system takes utf-8 names only")
    os.write(descriptor, b"content")
    os.close(descriptor)
    (item,) = list_items([tmp_path]).items
    assert item.name == "caf\udce9.png"
    assert item.read() == b"content"
    assert len(digest([item])) == 64
    (listed,) = items_from_paths(read_paths(io.BytesIO(raw + b"\n"), nul=False)).items
    assert (listed.name, listed.read()) == ("caf\udce9.png", b"content")


def test_a_single_file_is_taken_whatever_its_suffix(tmp_path: Path):
    fill(tmp_path, "scan.data")
    (item,) = list_items([tmp_path / "scan.data"]).items
    assert (item.name, item.label, item.read()) == ("scan.data", None, b"scan.data")


def test_of_several_folders_each_gives_its_name(tmp_path: Path):
    fill(tmp_path, "one/1.png", "one/cat/2.png", "two/1.png", "3.png")
    listing = list_items([tmp_path / "two", tmp_path / "one", tmp_path / "3.png"])
    assert names(listing) == ["two/1.png", "one/1.png", "one/cat/2.png", "3.png"]
    assert labels(listing) == [None, None, "cat", None]


def test_files_of_the_same_name_are_distinguished_by_their_folders(tmp_path: Path):
    fill(tmp_path, "one/1.png", "two/1.png", "two/2.png")
    inputs = [tmp_path / name for name in ("one/1.png", "two/1.png", "two/2.png")]
    assert names(list_items(inputs)) == ["one/1.png", "two/1.png", "2.png"]


def test_an_input_given_twice_counts_once(tmp_path: Path):
    fill(tmp_path, "one/1.png")
    assert names(list_items([tmp_path / "one", tmp_path / "one" / "." / ".." / "one"])) == ["1.png"]


def test_names_that_stay_the_same_are_an_error_that_names_both(tmp_path: Path):
    fill(tmp_path, "a/train/1.png", "b/train/1.png")
    with pytest.raises(UsageError, match=r"train/1\.png: from .*a/train/1\.png and .*b/train/1\.png"):
        list_items([tmp_path / "a/train", tmp_path / "b/train"])


def test_a_missing_input_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="holidays: no such file or folder"):
        list_items([tmp_path / "holidays"])


def test_where_nothing_is_found_the_error_reports_what_was_looked_for(tmp_path: Path):
    fill(tmp_path, "a.txt", "b/c.pdf")
    with pytest.raises(UsageError, match=r"no pictures found \(2 other files\).*\.jpg"):
        list_items([tmp_path])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_a_closed_folder_is_named(tmp_path: Path):
    fill(tmp_path, "a/1.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(UsageError, match=r"a/?: the folder cannot be listed: Permission denied"):
            list_items([tmp_path])
    finally:
        (tmp_path / "a").chmod(0o700)


# --- path lists --------------------------------------------------------------------------------------------------


def test_path_lists_are_split_at_newlines_or_nul_bytes():
    assert read_paths(io.BytesIO(b"a/1.png\r\n\nb 2.png\nc"), nul=False) == [
        Path("a/1.png"),
        Path("b 2.png"),
        Path("c"),
    ]
    assert read_paths(io.BytesIO(b"a\n1.png\0\0b.png\0"), nul=True) == [Path("a\n1.png"), Path("b.png")]
    assert read_paths(io.BytesIO(b""), nul=False) == []
    with pytest.raises(UsageError, match="add -0"):
        read_paths(io.BytesIO(b"a.png\0b.png\0"), nul=False)


def test_listed_paths_are_named_below_their_common_folder_in_the_lists_order(tmp_path: Path):
    fill(tmp_path, "set/dog/2.png", "set/cat/1.png", "set/cat/old/0.png")
    paths = [tmp_path / "set" / name for name in ("dog/2.png", "cat/1.png", "cat/old/0.png")]
    listing = items_from_paths(paths)
    assert names(listing) == ["dog/2.png", "cat/1.png", "cat/old/0.png"]
    assert labels(listing) == ["dog", "cat", "cat"]
    assert [item.read() for item in listing.items] == [b"set/dog/2.png", b"set/cat/1.png", b"set/cat/old/0.png"]
    assert labels(items_from_paths(paths[1:])) == [None, "old"]
    assert names(items_from_paths(paths[:1])) == ["2.png"]


def test_relative_and_absolute_paths_of_a_list_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path, "a/1.png", "b/2.png")
    monkeypatch.chdir(tmp_path)
    listing = items_from_paths([Path("./a//1.png"), tmp_path / "b/2.png", Path("b/../a/1.png"), Path("a")])
    assert names(listing) == ["a/1.png", "b/2.png"]
    assert listing.ignored == 2


def test_a_listed_path_that_is_not_there_fails_only_when_it_is_read(tmp_path: Path):
    fill(tmp_path, "1.png")
    listing = items_from_paths([tmp_path / "1.png", tmp_path / "2.png"])
    assert listing.items[0].read() == b"1.png"
    with pytest.raises(BadImageError, match=r"^2\.png: No such file or directory$"):
        listing.items[1].read()


def test_a_list_of_folders_only_is_an_error(tmp_path: Path):
    with pytest.raises(UsageError, match="names no picture"):
        items_from_paths([tmp_path])


# --- archives ----------------------------------------------------------------------------------------------------


def make_zip(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members:
            archive.writestr(name, name)
    return path


def make_tar(path: Path, *members: str | tuple[str, bytes]) -> Path:
    packing = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{packing}") as archive:
        for member in members:
            name, content = member if isinstance(member, tuple) else (member, member.encode())
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


ARCHIVES = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"]
MEMBERS = ("p/dog/2.png", "p/cat/1.JPG", "p/cat/ü.png", "p/read.me", "p/.hidden.png", "__MACOSX/p/cat/._1.JPG")


@pytest.mark.parametrize("file_name", ARCHIVES)
def test_archives_are_listed_and_read_in_any_order(tmp_path: Path, file_name):
    path = (make_zip if file_name.endswith("zip") else make_tar)(tmp_path / file_name, *MEMBERS)
    listing = list_items([path])
    assert names(listing) == ["p/cat/1.JPG", "p/cat/ü.png", "p/dog/2.png"]
    assert labels(listing) == ["cat", "cat", "dog"]
    assert listing.ignored == 1
    for item in (*listing.items, *reversed(listing.items)):
        assert item.read() == item.name.encode()
        assert item.head() == item.name.encode()
        assert item.size() == len(item.name.encode())


def test_a_tar_that_is_compressed_in_secret_is_read(tmp_path: Path):
    packed = make_tar(tmp_path / "x.tar.gz", "1.png", "2.png")
    (item, _) = list_items([packed.rename(tmp_path / "x.tar")]).items
    assert item.read() == b"1.png"


def test_of_members_with_one_name_the_last_counts(tmp_path: Path):
    (item,) = list_items([make_tar(tmp_path / "x.tar", ("a.png", b"old"), ("./a.png", b"new"))]).items
    assert item.read() == b"new"


def test_members_lead_out_of_no_folder(tmp_path: Path):
    listing = list_items([make_tar(tmp_path / "x.tar", ("../../etc/a.png", b"a"), ("/b.png", b"b"), ("./c.png", b"c"))])
    assert names(listing) == ["b.png", "c.png", "etc/a.png"]
    assert [item.read() for item in listing.items] == [b"b", b"c", b"a"]


def test_only_regular_members_are_listed(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("dir.png", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE), ("pipe.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "1.png"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("1.png"))
    assert names(list_items([tmp_path / "x.tar"])) == ["1.png"]


def test_webdataset_shards_give_labels_and_leave_companions_aside(tmp_path: Path):
    shard = make_tar(
        tmp_path / "train-000.tar",
        *("0001.jpg", ("0001.cls", b"7\n"), "0001.json", "0001.seg.png"),
        *(("0002.cls", "猫".encode()), "0002.jpg", "0002.seg.png"),
        *("sub/0003.jpg", "0004.left.png"),
    )
    listing = list_items([shard])
    assert names(listing) == ["0001.jpg", "0002.jpg", "0004.left.png", "sub/0003.jpg"]
    assert labels(listing) == ["7", "猫", None, "sub"]
    assert [item.read().decode() for item in listing.items] == names(listing)


def test_dots_in_names_are_no_fields_in_ordinary_archives(tmp_path: Path):
    listing = list_items([make_tar(tmp_path / "x.tar", "my.jpg", "my.holiday.jpg", "my.jpg.md5")])
    assert names(listing) == ["my.holiday.jpg", "my.jpg"]


def test_of_several_shards_each_gives_its_name(tmp_path: Path):
    shards = [make_tar(tmp_path / f"s-{n}.tar", "1.jpg", ("1.cls", b"%d" % n)) for n in (0, 1)]
    listing = list_items(shards)
    assert names(listing) == ["s-0/1.jpg", "s-1/1.jpg"]
    assert labels(listing) == ["0", "1"]


@pytest.mark.parametrize("file_name", ARCHIVES)
def test_a_damaged_archive_is_named(tmp_path: Path, file_name):
    (tmp_path / file_name).write_bytes(b"\x1f\x8b" + bytes(range(256)) * 4)
    with pytest.raises(BadFileError, match=rf"{file_name}: the archive is damaged"):
        list_items([tmp_path / file_name])


def test_an_archive_cut_short_after_it_was_listed_fails_for_its_last_members_only(tmp_path: Path):
    path = make_tar(tmp_path / "x.tar", ("1.png", bytes(5000)), ("2.png", bytes(5000)))
    first, second = list_items([path]).items
    os.truncate(path, second.offset + 100)
    assert first.read() == bytes(5000)
    with pytest.raises(BadImageError, match=r"2\.png: cannot be read from .*x\.tar: .* 4900 bytes early"):
        second.read()


def test_a_damaged_member_of_a_zip_is_a_bad_image(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", "1.png", "2.png")
    first, second = list_items([path]).items
    data = bytearray(path.read_bytes())
    data[data.index(b"1.png") + len("1.png") + 3] ^= 255
    path.write_bytes(data)
    with pytest.raises(BadImageError, match=r"^1\.png: cannot be read from"):
        first.read()
    assert second.read() == b"2.png"


def zeros(count: int) -> bytes:
    """A tar file of one picture of zeros, without its end."""
    about = tarfile.TarInfo("a.png")
    about.size = count
    return about.tobuf(tarfile.GNU_FORMAT) + bytes(count)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_a_compressed_tar_may_not_unpack_to_much_more_than_it_is(name: str, tmp_path: Path):
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[name.rpartition(".")[2]]
    block = pack(bytes(2**23))
    (tmp_path / name).write_bytes(pack(zeros(2**28)[:512]) + block * 32)
    with pytest.raises(BadFileError, match=rf"{name}.*unpacks to more than 250 times its size"):
        list_items([tmp_path / name])
    (tmp_path / name).write_bytes(pack(zeros(2**23) + bytes(1024)))  # small ones may
    (item,) = list_items([tmp_path / name]).items
    assert item.read() == bytes(2**23)


def test_a_header_of_a_tar_may_not_claim_much(tmp_path: Path):
    about = tarfile.TarInfo("a.png")
    about.size, about.type = 2**40, tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(about.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(BadFileError, match=r"a\.tar.*claims 1099511627776 bytes"):
        list_items([tmp_path / "a.tar"])
    item = Item("a.png", tmp_path / "a.tar", "a.png", offset=512, length=2**62)
    with pytest.raises(BadImageError, match=r"a\.png.* ends within a\.png, \d+ bytes early"):
        item.read()


def test_a_member_of_a_zip_may_not_unpack_to_much_more_than_it_is(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(2**26 + 1))
        archive.writestr("small.png", bytes(2**26))
    bomb, small = list_items([tmp_path / "a.zip"]).items
    with pytest.raises(BadImageError, match=r"bomb\.png.*more than 25 times its size"):
        bomb.read()
    assert len(small.read()) == 2**26
    assert len(bomb.head()) == 2**16


def test_threads_share_an_archive(tmp_path: Path):
    for file_name in ("x.zip", "x.tar", "x.tar.xz"):
        members = [f"{n:03}.png" for n in range(60)]
        items = list_items([(make_zip if "zip" in file_name else make_tar)(tmp_path / file_name, *members)]).items
        wrong = []

        def work(items=items, wrong=wrong):
            wrong.extend(item for item in items * 5 if item.read() != item.name.encode())

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def read_many(items: list[Item], wrong) -> None:
    wrong.value = sum(item.read() != item.name.encode() for item in items * 200)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.parametrize("file_name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_forked_process_opens_archives_anew(tmp_path: Path, file_name):
    members = [f"{n:03}.png" for n in range(40)]
    items = list_items([(make_zip if "zip" in file_name else make_tar)(tmp_path / file_name, *members)]).items
    assert items[0].read() == b"000.png"  # opened before the fork: a shared file position would be fought over
    context = multiprocessing.get_context("fork")
    wrong = [context.Value("i", -1) for _ in range(2)]
    processes = [context.Process(target=read_many, args=(items, each)) for each in wrong]
    for process in processes:
        process.start()
    here = sum(item.read() != item.name.encode() for item in items * 200)
    for process in processes:
        process.join()
    assert [here, *(each.value for each in wrong)] == [0, 0, 0]


def test_items_can_be_sent_to_another_process(tmp_path: Path):
    items = list_items([make_tar(tmp_path / "x.tar", "a/1.png", "b/2.png")]).items
    assert pickle.loads(pickle.dumps(items)) == items
    assert len(pickle.dumps(items[0])) < 400
