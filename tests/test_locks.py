"""Locks: another process is kept out, a file system without locks is no other process, and other errors are honest."""

import errno
import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from taming_cli.codec.vqgan import codec_file
from taming_cli.data.locks import shared
from taming_cli.data.tokens.merge import merge
from taming_cli.errors import TamingError, UsageError
from taming_cli.runtime.checkpoint import save_model
from taming_cli.runtime.run.folder import Place, open_run
from tests import toys
from tests.processes import python
from tests.test_cli import taming
from tests.test_resume import CODEC, picture
from tests.test_token_writer import fill, job_at
from tests.test_token_writer import run as write_tokens

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL]
ANOTHER = [errno.EAGAIN, errno.EACCES]
OTHERS = [errno.EIO, errno.ESTALE, errno.EPERM]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the system answer each wish for a lock with this error."""

    def answer(number: int) -> None:
        def locking(file: object, how: int, *_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", locking)
        monkeypatch.setattr(fcntl, "lockf", locking)

    return answer


def train(folder: Path) -> None:
    with open_run("train-x", Place(out=folder), {}, inputs=["/in"], origins={}) as run:
        assert run.folder == folder


def tokenize(folder: Path) -> None:
    assert write_tokens(folder / "tokens.h5").count > 0


def join(folder: Path) -> None:
    write_tokens(folder / "part.h5")
    assert merge([folder / "part.h5"], folder / "tokens.h5").count > 0


WORKS = pytest.mark.parametrize("work", [train, tokenize, join])


@WORKS
@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_reported_once_and_the_work_continues(
    number: int,
    work: Callable[[Path], None],
    answering: Callable[[int], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answering(number)
    work(tmp_path / "new")
    said = [record.getMessage() for record in caplog.records if "locked" in record.getMessage()]
    assert 1 <= len(said) == len(set(said))
    assert all(os.strerror(number) in each and str(tmp_path) in each for each in said)
    assert all("do not start a second process" in each for each in said)


@pytest.mark.parametrize("work", [train, tokenize])
@pytest.mark.parametrize("number", ANOTHER, ids=errno.errorcode.get)
def test_another_process_is_another_process(
    number: int, work: Callable[[Path], None], answering: Callable[[int], None], tmp_path: Path
) -> None:
    answering(number)
    with pytest.raises(TamingError, match=r"another process"):
        work(tmp_path / "new")


@pytest.mark.parametrize("work", [train, tokenize])
@pytest.mark.parametrize("number", OTHERS, ids=errno.errorcode.get)
def test_any_other_error_is_reported_as_it_is(
    number: int, work: Callable[[Path], None], answering: Callable[[int], None], tmp_path: Path
) -> None:
    answering(number)
    with pytest.raises(TamingError) as caught:
        work(tmp_path / "new")
    assert f"lock cannot be locked ({os.strerror(number)}); choose another place" in str(caught.value)
    assert "another process" not in str(caught.value)


def test_a_job_without_a_lock_goes_on_where_it_was_stopped(answering: Callable[[int], None], tmp_path: Path) -> None:
    answering(errno.ENOLCK)
    path = tmp_path / "tokens.h5"
    with job_at(path) as job:
        fill(job, job.pending()[0])
    with job_at(path) as job:
        assert [shard.index for shard in job.pending()] == [1, 2, 3]


def test_commands_report_it_on_stderr_and_end_well(answering: Callable[[int], None], tmp_path: Path) -> None:
    answering(errno.ENOLCK)
    for number in range(4):
        picture(tmp_path / "pictures" / f"{number}.bmp", number)
    save_model(tmp_path / "vq.safetensors", codec_file(toys.toy_codec(), {"size": "32x32"}))
    commands = [
        ["train-vqgan", tmp_path / "pictures", *CODEC, "--out", tmp_path / "run"],
        ["tokenize", tmp_path / "pictures", "--ckpt", tmp_path / "vq.safetensors", "-o", tmp_path / "t.h5"],
    ]
    for command in commands:
        said = taming(*command)
        assert said.code == 0, said.err
        assert said.err.count("cannot be locked (No locks available)") == 1


def test_a_folder_is_shared_by_processes_of_the_same_settings_only(tmp_path: Path) -> None:
    with shared(tmp_path, "seed 1"):
        with shared(tmp_path, "seed 1"):
            pass
        with (
            pytest.raises(UsageError, match="another process is writing files of other settings"),
            shared(tmp_path, "2"),
        ):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    (tmp_path / ".lock").write_text("of a process that was killed")
    with shared(tmp_path, "2"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_may_not_grow_is_a_refusal_of_the_disk(tmp_path: Path) -> None:
    """Its first bytes are written without an error."""
    program = """
import resource, sys
from pathlib import Path
from taming_cli.data.locks import shared
from taming_cli.errors import DiskError
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    with shared(Path(sys.argv[1]), "seed 1"):
        pass
except DiskError as error:
    print(error)
"""
    done = subprocess.run([python(), "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert ".lock" in done.stdout
    assert "File too large" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_folder_of_a_file_system_without_locks_is_written_all_the_same(
    answering: Callable[[int], None], tmp_path: Path
) -> None:
    answering(errno.ENOLCK)
    with shared(tmp_path, "seed 1"), shared(tmp_path, "seed 2"):
        pass


def test_a_folder_where_another_process_writes_is_refused(tmp_path: Path) -> None:
    pictures, codec = tmp_path / "pictures", ["--ckpt", tmp_path / "vq.safetensors", "--device", "cpu"]
    picture(pictures / "0.bmp", 0)
    save_model(tmp_path / "vq.safetensors", codec_file(toys.toy_codec(), {"size": "32x32"}))
    assert taming("tokenize", pictures, *codec, "-q", "-o", tmp_path / "t.h5").code == 0
    out = tmp_path / "out"
    out.mkdir()
    commands = [
        ["annotate", "edges", pictures, out],
        ["sample", "--ckpt", "builtin", "--size", "64x64", "--device", "cpu", "-o", out],
        ["reconstruct", pictures, *codec, "-o", out],
        ["decode", tmp_path / "t.h5", out, "--codec", tmp_path / "vq.safetensors", "--device", "cpu"],
    ]
    with shared(out, "others"):
        for command in commands:
            said = taming(*command, "-q")
            assert said.code == 2
            assert "another process is writing files of other settings there" in said.refusal
    assert not list(out.iterdir())
