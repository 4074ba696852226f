"""Writing token files: their layout, and what a kill at any moment leaves behind."""

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.data.tokens.header import ConditionHeader, TokenHeader
from taming_cli.data.tokens.merge import Finished
from taming_cli.data.tokens.writer import ShardSlice, TokenJob
from taming_cli.errors import BadFileError, TamingError, UsageError

TOTAL = 50
BROKEN = {4: "truncated", 20: "100% foreign"}
HEADER = TokenHeader(
    codec_sha256="c" * 64,
    codec_path="codec.safetensors",
    codebook_size=300,
    downsample_factor=8,
    preprocess={"size": [32, 24]},
    created_by="taming test",
    views=2,
    height=4,
    width=3,
    conditions={"segmentation": ConditionHeader(codec_sha256="d" * 64, codebook_size=100_000)},
)
KINDS = ["zebra", None, "ant", os.fsdecode(b"m\xfcll"), "50%"]


def fill(job: TokenJob, shard: ShardSlice, first: int = 0) -> None:
    """Write what item numbers alone decide, the job's list starting at item `first`; those of BROKEN are skipped."""
    items = range(first + shard.start, first + shard.stop)
    good = [item for item in items if item not in BROKEN]
    row = job.header.row
    codes = [np.random.default_rng(item).integers(0, job.header.codebook_size, row) for item in good]
    segments = [np.random.default_rng(-item % 999).integers(0, 100_000, row) for item in good]
    job.write(
        shard,
        codes=np.array(codes).reshape(-1, *row),
        names=[f"{item}{'_' * (item % 7)}%.png" for item in good],
        labels=[KINDS[item % len(KINDS)] for item in good],
        conditions={"segmentation": np.array(segments).reshape(-1, *row)} if job.header.conditions else {},
        skipped=[(f"{item}.png", BROKEN[item]) for item in items if item in BROKEN],
    )


def job_at(path: Path, **changes: Any) -> TokenJob:
    settings: dict[str, Any] = {"header": HEADER, "plan": {"items": "abc"}, "total": TOTAL, "shard_size": 16}
    return TokenJob(path, **(settings | changes))


def run(path: Path, first: int = 0, **changes: Any) -> Finished:
    with job_at(path, **changes) as job:
        for shard in job.pending():
            fill(job, shard, first)
        return job.finish()


def datasets(path: Path) -> dict[str, Any]:
    """Everything in the file but its attributes, read by plain h5py."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        for name in file:
            group = {name: file[name]} if isinstance(file[name], h5py.Dataset) else file[name]
            found |= {f"{name} {key}": dataset[()] for key, dataset in group.items()}
    return found


def assert_equal_datasets(one: Path, other: Path) -> None:
    first, second = datasets(one), datasets(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_layout_is_the_designs(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "tokens.h5"
    finished = run(path)
    good = [item for item in range(TOTAL) if item not in BROKEN]
    assert finished == Finished(path, len(good), (("4.png", "truncated"), ("20.png", "100% foreign")))
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens.h5"]
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
        assert len(attributes.pop("plan_sha256")) == 64
        assert json.loads(attributes.pop("preprocess")) == {"size": [32, 24]}
        assert attributes == {
            "format": "taming-tokens",
            "format_version": 1,
            "codec_sha256": "c" * 64,
            "codec_path": "codec.safetensors",
            "codebook_size": 300,
            "downsample_factor": 8,
            "created_by": "taming test",
        }
        assert dict(file["conditions/segmentation"].attrs) == {
            "codec_sha256": "d" * 64,
            "codebook_size": 100_000,
            "codec_path": "",
        }
        assert file["codes"].dtype == np.uint16
        assert file["conditions/segmentation"].dtype == np.uint32
        assert file["codes"].shape == file["conditions/segmentation"].shape == (len(good), 2, 4, 3)
        expected = [np.random.default_rng(item).integers(0, 300, (2, 4, 3)) for item in good]
        np.testing.assert_array_equal(file["codes"][:], expected)
        assert [name.decode() for name in file["names"][:]] == [f"{item}{'_' * (item % 7)}%25.png" for item in good]
        assert h5py.check_string_dtype(file["names"].dtype).encoding == "utf-8"
        assert list(file["label_names"][:]) == [b"50%25", b"ant", b"m%FCll", b"zebra"]
        assert file["labels"].dtype == np.int32
        assert list(file["labels"][:]) == [{0: 3, 1: -1, 2: 1, 3: 2, 4: 0}[item % 5] for item in good]
        for name in ("codes", "conditions/segmentation", "names", "labels", "label_names"):
            dataset = file[name]
            assert (dataset.compression, dataset.shuffle, dataset.fletcher32) == ("gzip", True, True), name
            assert 16384 < np.prod(dataset.chunks) * dataset.dtype.itemsize <= 32768, name
        assert file["codes"].chunks == (682, 2, 4, 3)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    run(tmp_path / "tokens.h5")
    with TokenFile(tmp_path / "tokens.h5") as file:
        assert file.header == HEADER
        assert file.label_names == ("50%", "ant", os.fsdecode(b"m\xfcll"), "zebra")
        assert file.names([0, 4]) == ["0%.png", "5_____%.png"]
        assert file.skipped == (("4.png", "truncated"), ("20.png", "100% foreign"))
    assert verify(tmp_path / "tokens.h5").skipped == 2


@pytest.mark.parametrize(("size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_the_largest_code_survives_where_the_dtype_switches(tmp_path: Path, size: int, dtype: Any) -> None:
    path = tmp_path / "tokens.h5"
    header = replace(HEADER, codebook_size=size, conditions={})
    codes = np.full((1, *header.row), size - 1)
    with job_at(path, header=header, total=1) as job:
        job.write(job.pending()[0], codes=codes, names=["a"], labels=[None], conditions={}, skipped=[])
        job.finish()
    with h5py.File(path) as file:
        assert file["codes"].dtype == dtype
    np.testing.assert_array_equal(TokenFile(path).codes([0]), codes)


def test_codes_outside_the_codebook_are_not_written(tmp_path: Path) -> None:
    with job_at(tmp_path / "tokens.h5", header=replace(HEADER, conditions={}), total=1) as job:
        for wrong in (-1, 300):
            codes = np.full((1, *HEADER.row), wrong)
            with pytest.raises(AssertionError):
                job.write(job.pending()[0], codes=codes, names=["a"], labels=[None], conditions={}, skipped=[])


def test_no_single_flipped_bit_goes_unseen_where_it_matters(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    run(path)
    run(tmp_path / "reference.h5")
    whole, first = path.read_bytes(), verify(path)
    random = np.random.default_rng(0)
    found = 0
    for place in random.choice(len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            assert verify(path) == first
        except BadFileError:
            found += 1
        else:
            assert_equal_datasets(path, tmp_path / "reference.h5")
    assert found > 100


def test_a_large_latent_in_many_chunks_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    header = replace(HEADER, conditions={}, views=2, height=150, width=170)
    run(path, header=header, total=30)
    with h5py.File(path) as file:
        assert file["codes"].chunks == (1, 1, 96, 170)
    with TokenFile(path) as file:
        expected = [
            np.random.default_rng(item).integers(0, 300, header.row) for item in range(30) if item not in BROKEN
        ]
        np.testing.assert_array_equal(file.codes(slice(None)), expected)
        np.testing.assert_array_equal(file.codes([27, 3]), [expected[27], expected[3]])


def test_equal_content_gives_equal_bytes_however_it_was_cut_and_whenever(tmp_path: Path) -> None:
    digests = set()
    for shard_size in (1, 7, 50):
        path = tmp_path / f"{shard_size}.h5"
        run(path, shard_size=shard_size)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        time.sleep(0.6)  # over a second in all, so that a stored time would show
    assert len(digests) == 1


def test_many_chunks_give_equal_bytes_however_they_were_cut(tmp_path: Path) -> None:
    header = replace(HEADER, conditions={}, views=1, height=64, width=64)  # 4 samples a chunk, 128 a block
    for shard_size in (300, 130, 41):
        run(tmp_path / f"{shard_size}.h5", header=header, total=300, shard_size=shard_size)
    assert len({(tmp_path / f"{shard_size}.h5").read_bytes() for shard_size in (300, 130, 41)}) == 1


def test_what_gets_its_name_is_on_the_disk_before_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, ...]] = []
    fsync, rename = os.fsync, os.replace

    def logged_fsync(number: int) -> None:
        log.append(("flush", Path(f"/proc/self/fd/{number}").resolve().name))
        fsync(number)

    def logged_replace(old: Path, new: Path) -> None:
        log.append(("rename", Path(old).name, Path(new).name))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    run(tmp_path / "tokens.h5", shard_size=TOTAL)
    expected: list[tuple[str, ...]] = [("flush", tmp_path.name)]  # which holds the new folder of parts
    for name, folder in (
        ("plan.json", "tokens.h5.parts"),
        ("shard-00000.h5", "tokens.h5.parts"),
        ("tokens.h5", tmp_path.name),
    ):
        expected += [("flush", f"{name}.tmp"), ("rename", f"{name}.tmp", name), ("flush", folder)]
    expected += [("flush", tmp_path.name)]  # which no longer holds it
    assert log == expected


def test_a_restart_goes_on_at_the_next_shard(tmp_path: Path) -> None:
    run(tmp_path / "reference.h5")
    path = tmp_path / "tokens.h5"
    with job_at(path) as job:
        assert job.pending() == [ShardSlice(k, 16 * k, min(16 * k + 16, TOTAL)) for k in range(4)]
        fill(job, job.pending()[0])
        fill(job, job.pending()[0])
        assert [shard.index for shard in job.pending()] == [2, 3]
    assert not path.exists()
    with job_at(path, header=replace(HEADER, codec_path="moved.safetensors", created_by="newer")) as job:
        assert [shard.index for shard in job.pending()] == [2, 3]
        for shard in job.pending():
            fill(job, shard)
        assert job.finish().skipped == (("4.png", "truncated"), ("20.png", "100% foreign"))
    assert_equal_datasets(path, tmp_path / "reference.h5")


def test_a_finished_job_is_done_and_returns_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    first = run(path)
    before = path.stat()
    with job_at(path, shard_size=5) as job:
        assert job.done
        assert job.pending() == []
        assert job.finish() == first
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tokens.h5"]


def test_a_target_made_otherwise_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    run(path)
    content = path.read_bytes()
    others: list[dict[str, Any]] = [
        {"plan": {"items": "abd"}},
        {"total": 49},
        {"header": replace(HEADER, codec_sha256="e" * 64)},
        {"header": replace(HEADER, preprocess={})},
    ]
    for other in others:
        with pytest.raises(UsageError, match="exists and was made with other settings; give another -o or remove it"):
            job_at(path, **other)
    assert path.read_bytes() == content
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"cannot be read as a token file .*; give another -o"):
        job_at(path)
    assert path.read_bytes() == b"precious"


def test_an_unfinished_job_with_other_settings_is_left_alone_and_the_difference_named(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    with job_at(path) as job:
        fill(job, job.pending()[0])
    other = job_at(path, plan={"items": "abd"}, header=replace(HEADER, codec_sha256="e" * 64))
    with pytest.raises(UsageError, match="other settings") as raised, other:
        pass
    assert 'plan.items: "abc" there, "abd" here' in str(raised.value)
    assert "header.codec_sha256: " in str(raised.value)
    assert "\n" not in str(raised.value)
    (tmp_path / "tokens.h5.parts" / "plan.json").write_text("{")
    with pytest.raises(UsageError, match=r"plan\.json is missing or damaged"), job_at(path):
        pass
    assert (tmp_path / "tokens.h5.parts" / "shard-00000.h5").exists()


def test_an_unfinished_job_without_a_shard_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    with job_at(path, plan={"items": "other"}):
        pass
    assert run(path).count == TOTAL - len(BROKEN)


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    with job_at(tmp_path / "tokens.h5") as job:
        fill(job, job.pending()[0])
    leftover = tmp_path / "tokens.h5.parts" / "shard-00001.h5.tmp"
    leftover.write_bytes(b"half")
    with job_at(tmp_path / "tokens.h5"):
        assert not leftover.exists()


def test_damaged_and_foreign_shards_are_written_again(tmp_path: Path) -> None:
    run(tmp_path / "reference.h5")
    path, parts = tmp_path / "tokens.h5", tmp_path / "tokens.h5.parts"
    with job_at(path, shard_size=10) as job:
        for shard in job.pending():
            fill(job, shard)
    truncated = (parts / "shard-00000.h5").read_bytes()
    (parts / "shard-00000.h5").write_bytes(truncated[:-1])
    flipped = bytearray((parts / "shard-00001.h5").read_bytes())
    with h5py.File(parts / "shard-00001.h5") as file:
        flipped[file["codes"].id.get_chunk_info(0).byte_offset + 50] ^= 4
    (parts / "shard-00001.h5").write_bytes(flipped)
    (parts / "shard-00003.h5").write_bytes((parts / "shard-00002.h5").read_bytes())
    with job_at(path, shard_size=10) as job:
        assert [shard.index for shard in job.pending()] == [0, 1, 3]
        for shard in job.pending():
            fill(job, shard)
        job.finish()
    assert_equal_datasets(path, tmp_path / "reference.h5")


def test_a_job_whose_every_item_was_skipped_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    row = (0, *HEADER.row)
    with job_at(path, total=2, shard_size=1) as job:
        for shard in job.pending():
            job.write(
                shard,
                codes=np.empty(row, int),
                names=[],
                labels=[],
                conditions={"segmentation": np.empty(row, int)},
                skipped=[(f"{shard.index}.png", "empty")],
            )
        with pytest.raises(TamingError, match=r"all 2 items were skipped; the first is 0\.png: empty"):
            job.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_nothing_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no items"):
        job_at(tmp_path / "tokens.h5", total=0)


def in_child(code: str, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Run `code` in a fresh Python that knows this module as `t`."""
    start = (
        f"import os, signal, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport test_token_writer as t\n"
    )
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], **options)


HOLD = """
from pathlib import Path
with t.job_at(Path(sys.argv[1])) as job:
    t.fill(job, job.pending()[0])
    if os.fork() == 0:  # a worker that outlives its parent, as those of a data loader do for a while
        print(os.getpid(), flush=True)
        signal.pause()
    signal.pause()
"""


def test_a_second_process_learns_who_writes_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    with in_child(HOLD, path) as holder:
        assert holder.stdout is not None
        worker = int(holder.stdout.readline())
        try:
            with pytest.raises(TamingError, match=f"process {holder.pid} on .* is writing it"), job_at(path):
                pass
            holder.kill()
            holder.wait()
            with job_at(path) as job:
                assert [shard.index for shard in job.pending()] == [1, 2, 3]
        finally:
            holder.kill()
            os.kill(worker, 9)


SMALL: dict[str, Any] = {"total": 22, "shard_size": 11, "header": replace(HEADER, conditions={})}

# Counts every step that touches the disk and dies before the step whose number is given; each try is a fork, so that
# the module is imported once. A shard counts as acknowledged when `write` has returned.
KILL_EVERYWHERE = """
import json
from pathlib import Path
import h5py

folder = Path(sys.argv[1])

def attempt(path, fatal):
    steps = 0
    def watched(function):
        def step(*arguments, **options):
            nonlocal steps
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
            return function(*arguments, **options)
        return step
    for owner, names in ((os, ("replace", "fsync", "unlink", "rmdir", "mkdir", "ftruncate")),
                         (h5py.Dataset, ("__setitem__",)), (h5py.File, ("close", "__exit__"))):
        for name in names:
            setattr(owner, name, watched(getattr(owner, name)))
    log = os.open(f"{path}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with t.job_at(path, **t.SMALL) as job:
        for shard in job.pending():
            t.fill(job, shard)
            os.write(log, b"%d " % shard.index)
        job.finish()

def forked(path, fatal):
    child = os.fork()
    if child == 0:
        try:
            attempt(path, fatal)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]

report = []
fatal, status = 0, 9
while status == 9:
    path = folder / f"{fatal}.h5"
    status = forked(path, fatal)
    survived = path.read_bytes() if path.exists() else None
    again = forked(path, -1)
    report.append((status, None if survived is None else survived == path.read_bytes(), again))
    fatal += 1
print(json.dumps(report))
"""


def test_a_kill_before_any_step_on_the_disk_loses_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    run(tmp_path / "reference.h5", **SMALL)
    reference = (tmp_path / "reference.h5").read_bytes()
    (tmp_path / "runs").mkdir()
    with in_child(KILL_EVERYWHERE, tmp_path / "runs") as driver:
        output, _ = driver.communicate(timeout=120)
    report = json.loads(output)
    assert len(report) > 50
    assert [status for status, _, _ in report] == [9] * (len(report) - 1) + [0]
    assert [again for _, _, again in report] == [0] * len(report)
    # The target is absent, or whole: never something between.
    assert {survived for _, survived, _ in report} == {None, True}
    for number in range(len(report)):
        assert (tmp_path / "runs" / f"{number}.h5").read_bytes() == reference
        assert not (tmp_path / "runs" / f"{number}.h5.parts").exists()
        acknowledged = (tmp_path / "runs" / f"{number}.h5.log").read_text().split()
        assert sorted(acknowledged) == sorted(set(acknowledged)), f"kill {number}: a finished shard was written again"


FULL_DISK = """
import resource
from pathlib import Path
from taming_cli.errors import TamingError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    t.run(Path(sys.argv[1]))
except TamingError as error:
    print(error)
"""


def test_a_disk_that_refuses_is_one_line_and_leaves_no_target(tmp_path: Path) -> None:
    path = tmp_path / "tokens.h5"
    with in_child(FULL_DISK, path, stderr=subprocess.PIPE) as child:
        output, errors = child.communicate(timeout=60)
    assert output.startswith(f"{path}: cannot be written (File too large): it needs more than ")
    assert output.endswith("a file may have 2.9 KiB here (ulimit -f); free some space, or choose another place\n")
    assert not list(path.with_name("tokens.h5.parts").glob("*.tmp"))
    assert errors == ""
    assert child.returncode == 0
    assert not path.exists()
    assert run(path).count == TOTAL - len(BROKEN)
