"""The reader of token files, against files that plain h5py wrote by the format's description."""

import multiprocessing
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from taming_cli.data.tokens.columns import chunk_shape
from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.data.tokens.header import ConditionHeader, TokenHeader, code_dtype, decode_name, encode_name
from taming_cli.data.tokens.merge import merge
from taming_cli.errors import BadFileError, UsageError
from tests.test_token_writer import fill, job_at
from tests.test_token_writer import run as written

COUNT, VIEWS, HEIGHT, WIDTH = 75, 2, 3, 5
CODES = np.random.default_rng(0).integers(0, 1000, (COUNT, VIEWS, HEIGHT, WIDTH))
DEPTH = np.random.default_rng(1).integers(0, 70000, (COUNT, VIEWS, HEIGHT, WIDTH))
LABELS = np.random.default_rng(2).integers(-1, 3, COUNT)
NAMES = [f"folder é/{number}.jpg" for number in range(COUNT)]


def write_plainly(path: Path, **changes: Any) -> Path:
    datasets = {
        "codes": CODES.astype(np.uint16),
        "conditions/depth": DEPTH.astype(np.uint32),
        "names": np.array([name.encode() for name in NAMES]).astype(h5py.string_dtype("utf-8", 40)),
        "labels": LABELS.astype(np.int32),
        "label_names": np.array([b"cat", b"dog", b"50%25"]).astype(h5py.string_dtype("utf-8", 9)),
    }
    attributes = {
        "format": "taming-tokens",
        "format_version": 1,
        "codec_sha256": "a" * 64,
        "codec_path": "runs/100%25/best.safetensors",
        "codebook_size": 1000,
        "downsample_factor": 8,
        "preprocess": '{"size": [24, 40]}',
        "created_by": "taming 0",
    }
    with h5py.File(path, "w") as file:
        for name, value in (datasets | changes.pop("datasets", {})).items():
            if value is not None:
                chunks = (4, *value.shape[1:]) if len(value) > 4 else None
                file.create_dataset(name, data=value, chunks=chunks, fletcher32=chunks is not None)
        for name, value in (attributes | changes).items():
            if value is not None:
                file.attrs[name] = value
        if "conditions/depth" in file:
            file["conditions/depth"].attrs["codec_sha256"] = "b" * 64
            file["conditions/depth"].attrs["codebook_size"] = 70000
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_plainly(tmp_path / "tokens.h5")


def test_a_file_written_by_the_description_is_read_whole(path: Path) -> None:
    with TokenFile(path) as file:
        assert file.header == TokenHeader(
            codec_sha256="a" * 64,
            codec_path="runs/100%/best.safetensors",
            codebook_size=1000,
            downsample_factor=8,
            preprocess={"size": (24, 40)},
            created_by="taming 0",
            views=VIEWS,
            height=HEIGHT,
            width=WIDTH,
            conditions={"depth": ConditionHeader(codec_sha256="b" * 64, codebook_size=70000)},
        )
        assert len(file) == COUNT
        codes = file.codes(slice(None))
        assert codes.dtype == np.int64
        np.testing.assert_array_equal(codes, CODES)
        np.testing.assert_array_equal(file.condition("depth", slice(None)), DEPTH)
        np.testing.assert_array_equal(file.labels, LABELS)
        assert file.labels.dtype == np.int32
        assert file.names() == NAMES
        assert file.label_names == ("cat", "dog", "50%")
        assert file.skipped == ()
        assert file.plan_sha256 is None


@pytest.mark.parametrize(
    "rows",
    [
        slice(3, 9),
        slice(None, None, 7),
        slice(None, None, -1),
        slice(9, 3),
        [],
        [COUNT - 1, 0, 0, -1, 5],
        np.random.default_rng(3).permutation(COUNT),
        np.random.default_rng(4).integers(0, COUNT, 200),
    ],
    ids=repr,
)
def test_any_order_of_rows_equals_numpy_indexing(path: Path, rows: Any) -> None:
    wanted = rows if isinstance(rows, slice) else np.asarray(rows, dtype=int)
    with TokenFile(path) as file:
        np.testing.assert_array_equal(file.codes(rows), CODES[wanted])
        np.testing.assert_array_equal(file.condition("depth", rows), DEPTH[wanted])
        assert file.names(rows) == list(np.array(NAMES)[wanted])


@pytest.mark.parametrize("row", [COUNT, -COUNT - 1])
def test_a_row_beyond_the_end_is_an_index_error(path: Path, row: int) -> None:
    with TokenFile(path) as file, pytest.raises(IndexError):
        file.codes([row])


def test_a_condition_that_is_not_there_is_named(path: Path) -> None:
    with TokenFile(path) as file, pytest.raises(UsageError, match=r"no condition 'pose'; it has: depth"):
        file.condition("pose", [0])


def test_nothing_stays_open_between_reads_of_other_processes(path: Path) -> None:
    def open_here() -> bool:
        links = [Path(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
        return any(link.exists() and link.resolve() == path.resolve() for link in links)

    file = TokenFile(path)
    assert not open_here()
    file.codes([0])
    assert open_here()
    file.close()
    assert not open_here()
    np.testing.assert_array_equal(file.codes([7]), CODES[[7]])
    file.close()


def _read_in_child(file: TokenFile, connection: Any) -> None:
    connection.send((file.codes([70, 3]), file.names([70, 3])))
    file.close()
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_reads_after_the_parent_and_the_parent_after_the_child(path: Path, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with TokenFile(path) as file:
        file.codes([0])
        here, there = context.Pipe()
        with warnings.catch_warnings():
            # From Python 3.12 on, fork warns where threads (of torch, of numpy) exist; the child only reads.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            child = context.Process(target=_read_in_child, args=(file, there))
            child.start()
        there.close()
        codes, names = here.recv()
        child.join(30)
        assert child.exitcode == 0
        np.testing.assert_array_equal(codes, CODES[[70, 3]])
        assert names == [NAMES[70], NAMES[3]]
        np.testing.assert_array_equal(file.codes([50]), CODES[[50]])


def test_a_handle_is_never_used_on_the_other_side_of_a_fork(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TokenFile(path) as file:
        file.codes([0])
        before = file._file
        file.codes([0])
        assert file._file is before
        own = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: own + 1)
        file.codes([0])
        assert file._file is not before


def test_pickling_takes_the_path_only(path: Path) -> None:
    with TokenFile(path) as file:
        file.codes([0])
        pickled = pickle.dumps(file)
    assert len(pickled) < 300 + len(str(path))
    with pickle.loads(pickled) as copy:
        np.testing.assert_array_equal(copy.codes([4]), CODES[[4]])


def test_names_round_trip_for_any_bytes() -> None:
    random = np.random.default_rng(0)
    names = [bytes(random.integers(1, 256, random.integers(1, 40)).astype(np.uint8)) for _ in range(2000)]
    names += [bytes([byte]) for byte in range(1, 256)]
    names += [b"100%", b"%25", b"%", b"%41", "é漢🙂/%E9".encode(), b"caf\xe9.jpg", b"caf\xc3\xa9.jpg", b"line\nbreak"]
    encoded = set()
    for name in names:
        text = encode_name(os.fsdecode(name))
        assert os.fsencode(decode_name(text.encode("utf-8").decode("utf-8"))) == name
        encoded.add(text)
    assert len(encoded) == len(set(names))


@pytest.mark.parametrize(
    ("name", "encoded"),
    [("a/b é.png", "a/b é.png"), ("100%", "100%25"), (os.fsdecode(b"caf\xe9"), "caf%E9"), ("a\0b\0", "a%00b%00")],
)
def test_only_percent_nul_and_undecodable_bytes_are_encoded(name: str, encoded: str) -> None:
    assert encode_name(name) == encoded
    assert decode_name(encoded) == name


def test_codes_take_two_bytes_up_to_65536_and_four_beyond() -> None:
    assert [code_dtype(size) for size in (2, 65536, 65537)] == [np.uint16, np.uint16, np.uint32]


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(
    "row",
    [(), (1, 4, 4), (1, 16, 16), (2, 16, 16), (3, 30, 50), (4, 128, 128), (1, 500, 301), (1, 1, 99999)],
)
def test_chunks_are_whole_rows_of_about_32_kib(row: tuple[int, ...], itemsize: int) -> None:
    chunk = chunk_shape(row, itemsize)
    size, whole = itemsize * int(np.prod(chunk)), itemsize * int(np.prod(row))
    assert 32768 / 2 < size <= 32768
    if whole <= 32768:
        assert chunk[1:] == row
    else:
        assert chunk[0] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "taming-codec"}, "not a token file"),
        ({"format": None}, "not a token file"),
        ({"format_version": 2}, "version 2"),
        ({"codec_sha256": None}, "codec_sha256"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"codebook_size": 65537}, "/codes is uint16"),
        ({"downsample_factor": 0}, "downsample_factor is 0"),
        ({"preprocess": "{"}, "cannot be read as a token file"),
        ({"preprocess": "[]" * 3}, "cannot be read as a token file"),
        ({"datasets": {"codes": None}}, "no dataset /codes"),
        ({"datasets": {"codes": CODES.astype(np.int16)}}, "/codes is int16"),
        ({"datasets": {"codes": CODES[:, 0].astype(np.uint16)}}, "/codes has shape"),
        ({"datasets": {"names": None}}, "no dataset /names"),
        ({"datasets": {"labels": LABELS}}, "/labels is int64"),
        ({"datasets": {"labels": LABELS[1:].astype(np.int32)}}, "/labels is int32 of shape"),
        ({"datasets": {"labels": np.full(COUNT, 3, np.int32)}}, "3 label names"),
        ({"datasets": {"labels": np.full(COUNT, -2, np.int32)}}, "3 label names"),
        ({"datasets": {"label_names": None}}, "no dataset /label_names"),
        ({"datasets": {"conditions/depth": DEPTH[1:].astype(np.uint32)}}, "/conditions/depth"),
        ({"datasets": {"conditions/depth": DEPTH[..., 1:].astype(np.uint32)}}, "/conditions/depth"),
    ],
)
def test_a_foreign_or_inconsistent_file_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_plainly(tmp_path / "tokens.h5", **changes)
    with pytest.raises(BadFileError, match=message) as raised:
        TokenFile(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n", os.urandom(5000)])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokens.h5"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=str(path)):
        TokenFile(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="No such file"):
        TokenFile(tmp_path / "none.h5")
    with pytest.raises(BadFileError, match="directory"):
        TokenFile(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_was_cut(path: Path) -> None:
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 997), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadFileError, match=str(path)):
            TokenFile(path)


@pytest.mark.parametrize("name", ["codes", "conditions/depth", "names", "labels"])
def test_a_flipped_byte_in_a_chunk_is_found_by_verify(path: Path, name: str) -> None:
    with h5py.File(path) as file:
        start = file[name].id.get_chunk_info(3).byte_offset
    content = bytearray(path.read_bytes())
    content[start + 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=str(path)):
        verify(path)


@pytest.mark.parametrize("name", ["codes", "names", "labels", "label_names", "conditions", "conditions/depth"])
@pytest.mark.parametrize("kind", ["external", "soft"])
def test_no_column_is_read_through_a_link(name: str, kind: str, path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        file.move(name, "elsewhere")
        file[name] = h5py.SoftLink("/elsewhere") if kind == "soft" else h5py.ExternalLink(tmp_path / "other.h5", name)
    with pytest.raises(BadFileError, match=rf"tokens\.h5: refused: /{name} is a link"):
        TokenFile(path)


def test_no_value_is_read_from_another_file(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 40 * COUNT)
    with h5py.File(path, "r+") as file:
        del file["names"]
        file.create_dataset("names", (COUNT,), h5py.string_dtype("utf-8", 40), external=[(str(secret), 0, 40 * COUNT)])
    with pytest.raises(BadFileError, match=r"tokens\.h5: refused: the values of /names are in another file"):
        TokenFile(path)
    layout = h5py.VirtualLayout((COUNT,), np.int32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "labels", (COUNT,))
    write_plainly(path, datasets={"labels": None})
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("labels", layout)
    with pytest.raises(BadFileError, match=r"tokens\.h5: refused: the values of /labels are in another file"):
        TokenFile(path)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "chunk"),
    [
        ("labels", (2**31,), "i4", 1024),
        ("labels", (2**60,), "i4", 1024),
        ("names", (COUNT,), "S268435456", 1),
        ("label_names", (2**28,), "S64", 1024),
        ("label_names", (1,), "S1073741824", 1),
        ("codes", (2**40, 1, 1, 1), "u2", 1024),
        ("codes", (4, 1, 2**16, 2**16), "u2", 1),
        ("conditions/depth", (2**40, VIEWS, HEIGHT, WIDTH), "u4", 256),
    ],
)
def test_columns_that_declare_what_they_do_not_hold_are_refused_at_once(
    name: str, shape: tuple[int, ...], dtype: str, chunk: int, path: Path
) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]
        chunks = (chunk, *(min(side, 64) for side in shape[1:]))
        file.create_dataset(name, shape, dtype, chunks=chunks, maxshape=(None, *shape[1:]))
    with pytest.raises(BadFileError, match=rf"tokens\.h5: damaged: /{name} declares"):
        TokenFile(path)


def test_columns_that_unpack_to_much_more_than_the_file_are_refused_at_once(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["label_names"]
        labels = file.create_dataset("label_names", (2**24,), "S1", chunks=(2**20,), compression="gzip")
        for start in range(0, 2**24, 2**20):
            labels[start : start + 2**20] = np.zeros(2**20, "S1")
    with pytest.raises(BadFileError, match=r"/label_names has 16777216 rows, more than the file can hold"):
        TokenFile(path)
    write_plainly(path)
    with h5py.File(path, "r+") as file:
        del file["labels"]
        file.create_dataset("labels", data=LABELS.astype(np.int32), chunks=(2**25,), maxshape=(None,), compression=1)
    with pytest.raises(BadFileError, match="/labels has rows, texts or chunks larger than those of any token file"):
        TokenFile(path)


def test_codes_beyond_the_codebook_are_found_when_they_are_read(tmp_path: Path) -> None:
    wrong = CODES.copy()
    wrong[60, 1, 2, 3] = 1000
    path = write_plainly(tmp_path / "tokens.h5", datasets={"codes": wrong.astype(np.uint16)})
    with TokenFile(path) as file:
        np.testing.assert_array_equal(file.codes(slice(0, 60)), wrong[:60])
        with pytest.raises(BadFileError, match="/codes holds 1000, its codebook has 1000"):
            file.codes([60])
    with pytest.raises(BadFileError, match="/codes holds 1000"):
        verify(path)


def test_verify_counts(path: Path) -> None:
    summary = verify(path)
    assert (summary.count, summary.labelled, summary.skipped) == (COUNT, int((LABELS >= 0).sum()), 0)
    assert summary.codes_used == len(np.unique(CODES))
    assert summary.label_names == ("cat", "dog", "50%")
    assert summary.header.row == (VIEWS, HEIGHT, WIDTH)


def test_contiguous_datasets_are_read_too(tmp_path: Path) -> None:
    path = write_plainly(tmp_path / "tokens.h5")
    with h5py.File(path, "a") as file:
        del file["codes"]
        file.create_dataset("codes", data=CODES.astype(np.uint16))
    with TokenFile(path) as file:
        np.testing.assert_array_equal(file.codes([9, 2]), CODES[[9, 2]])


@pytest.mark.parametrize("kind", ["a/b", "", ".", "two words"])
def test_a_header_refuses_a_kind_that_cannot_name_a_dataset(kind: str) -> None:
    with pytest.raises(BadFileError, match="condition kind"):
        TokenHeader(
            codec_sha256="",
            codec_path="",
            created_by="",
            preprocess={},
            codebook_size=4,
            downsample_factor=8,
            views=1,
            height=1,
            width=1,
            conditions={kind: ConditionHeader(codec_sha256="", codebook_size=4)},
        )


# --- text attributes --------------------------------------------------------------------------------------------------


TEXTS = ("format", "codec_sha256", "codec_path", "preprocess", "created_by", "plan_sha256")


def as_before(path: Path) -> None:
    """Write the text attributes again as the version before did, of fixed length."""
    with h5py.File(path, "r+") as file:
        for thing in (file, *file.get("conditions", {}).values()):
            for name, value in list(thing.attrs.items()):
                if isinstance(value, str):
                    dtype = h5py.string_dtype("utf-8", max(1, len(value.encode())))
                    thing.attrs.create(name, np.bytes_(value.encode()), dtype=dtype)


def test_text_attributes_are_strings_to_who_reads_them_with_h5py(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    written(path)
    with h5py.File(path) as file:
        assert file.attrs["format"] == "taming-tokens"
        assert {name: type(file.attrs[name]) for name in TEXTS} == dict.fromkeys(TEXTS, str)
        for name in ("codec_sha256", "codec_path"):
            assert type(file["conditions/segmentation"].attrs[name]) is str
        assert type(file["label_names"].asstr()[0]) is type(file["names"].asstr()[0]) is str


def test_files_of_the_version_before_are_read_merged_and_continued_from(tmp_path: Path) -> None:
    old, new = tmp_path / "old.h5", tmp_path / "new.h5"
    written(old)
    summary = verify(old)
    as_before(old)
    with h5py.File(old) as file:
        assert isinstance(file.attrs["format"], bytes)
    assert verify(old) == summary
    with job_at(old) as job:  # it is what this job would make
        assert job.done
    count = summary.count + written(new, 1000).count
    for paths in ([old, new], [new, old]):
        joined = tmp_path / f"{paths[0].stem} first.h5"
        assert merge(paths, joined).count == count
        with h5py.File(joined) as file:
            assert file.attrs["codec_sha256"] == "c" * 64
    with job_at(tmp_path / "parts.h5") as job:
        for shard in job.pending()[:2]:
            fill(job, shard)
    for made in (tmp_path / "parts.h5.parts").glob("shard-*.h5"):
        as_before(made)
    with job_at(tmp_path / "parts.h5") as job:
        assert [shard.index for shard in job.pending()] == [2, 3]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A token file as it is written today, and as the version before wrote it."""
    path = tmp_path_factory.mktemp("files") / "tokens.h5"
    written(path)
    today = path.read_bytes()
    as_before(path)
    return today, path.read_bytes()


@pytest.mark.parametrize("name", ["format", "codec_sha256", "codec_path", "preprocess", "created_by"])
@pytest.mark.parametrize("value", [np.bytes_(b"\xff\xfe"), 7, np.array([1.5, 2.5]), h5py.Empty("S1"), None], ids=repr)
@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_text_attribute_that_is_no_text_or_is_gone_is_one_line(
    name: str, value: Any, old: bool, files: tuple[bytes, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.h5"
    path.write_bytes(files[old])
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(BadFileError) as caught:
        TokenFile(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_flipped_bit_of_a_text_attribute_goes_unseen_or_stops_the_reader(tmp_path: Path) -> None:
    """HDF5 itself does not come back from some of these: the reader has to look before it asks."""
    path = tmp_path / "tokens.h5"
    written(path)
    whole, first = path.read_bytes(), verify(path)
    place = whole.index(b"GCOL")
    used = whole.index(b"\0" * 64, place) - place
    assert used > 300
    with h5py.File(path) as file:
        assert file["names"].attrs["text_check"].endswith(b" %d:4096" % place)
    found = 0
    for offset in range(used):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        try:
            assert TokenFile(path).header == first.header
        except BadFileError:
            found += 1
    assert found > used / 2
    path.write_bytes(whole)
    assert verify(path) == first


def test_who_adds_attributes_breaks_nothing_and_who_changes_ours_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    written(path)
    summary = verify(path)
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "of the second camera"
        file["codes"].attrs["unit"] = "index"
    assert verify(path) == summary
    with h5py.File(path, "r+") as file:
        file.attrs["codec_sha256"] = "d" * 64
    with pytest.raises(BadFileError, match="damaged: its text attributes differ from what taming wrote"):
        verify(path)


def test_a_file_that_another_program_rewrote_is_read(tmp_path: Path) -> None:
    path, copy = tmp_path / "tokens.h5", tmp_path / "copy.h5"
    written(path)
    with h5py.File(path) as file, h5py.File(copy, "w") as other:
        other.create_dataset("before", data=np.arange(1000))
        for name in file:
            file.copy(name, other)
        for name, value in file.attrs.items():
            other.attrs[name] = value
    assert verify(copy).header == verify(path).header
