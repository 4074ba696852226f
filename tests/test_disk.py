"""A disk that is full: one line that says which file, which disk, what was needed and what is free; old files whole."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from taming_cli.annotate import _write_labels
from taming_cli.codec.vqgan import codec_file
from taming_cli.data import disk
from taming_cli.data.disk import write_atomically
from taming_cli.data.formats import holds_picture
from taming_cli.data.images import SETTINGS, png_settings, write_png
from taming_cli.data.sources import Item
from taming_cli.data.split import content_keys
from taming_cli.data.tokens.merge import merge
from taming_cli.errors import TamingError
from taming_cli.interop.compvis_export import export_checkpoint
from taming_cli.report.render import write_page
from taming_cli.runtime import weights
from taming_cli.runtime.checkpoint import save_model, save_trainer
from taming_cli.runtime.run.folder import Place, Run, open_run
from taming_cli.sampling.files import write_npz
from tests import toys
from tests.processes import python
from tests.test_cli import taming
from tests.test_resume import CODEC, picture
from tests.test_token_writer import run as write_tokens

LIMIT = 2000
PUBLISHED = replace(toys.CODEC, norm_groups=32)
NOISE = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@contextmanager
def limited(most: int = LIMIT) -> Iterator[None]:
    """No file of this process gets more bytes than this: what a full disk is to a writer, and needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def prepare(root: Path) -> None:
    """What some writers read."""
    Image.fromarray(NOISE.permute(1, 2, 0).numpy()).save(root / "source.png")
    write_tokens(root / "part.h5")
    (root / "weights.pth").write_bytes(NOISE.numpy().tobytes())


def fetched(path: Path) -> None:
    """A copy of weights that lie elsewhere, as `weights fetch -o` makes it."""
    source = path.parent.parent / path.name
    known = weights.PublishedFile(path.name, path.name, weights.sha256(source), None, ("test",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(weights.FOLDER_VARIABLE, str(source.parent))
        weights.fetch(known, path.parent)


def opened(path: Path) -> None:
    with open_run("train-x", Place(out=path.parent), {}, inputs=["/in" * LIMIT], origins={}):
        pass


def logged(path: Path) -> None:
    Run("train-vqgan", path.parent, None).log(kind="train", step=1, words="x" * LIMIT)


WRITERS: dict[str, Callable[[Path], object]] = {
    "trainer.pt": lambda path: save_trainer(path, {"weights": NOISE, "step": 1}),
    "model.safetensors": lambda path: save_model(path, codec_file(toys.toy_codec(), {"size": "32x32"})),
    "published.ckpt": lambda path: export_checkpoint(codec_file(toys.toy_codec(PUBLISHED), {}), path),
    "picture.png": lambda path: write_png(path, NOISE),
    "report.html": lambda path: write_page(path, NOISE.numpy().tobytes()),
    "samples.npz": lambda path: write_npz(path, [path.parent.parent / "source.png"], [1], "test"),
    "tokens.h5": write_tokens,
    "merged.h5": lambda path: merge([path.parent.parent / "part.h5"], path),
    "weights.pth": fetched,
    "config.json": opened,
    "metrics.jsonl": logged,
    "labels.txt": lambda path: _write_labels(path, ["x" * LIMIT]),
}
NEW = ("tokens.h5", "merged.h5", "weights.pth", "labels.txt")
"""Files that are never written in place of an old one."""


@pytest.mark.parametrize("name", WRITERS)
def test_each_writer_names_the_file_that_did_not_fit_and_keeps_the_old_one(name: str, tmp_path: Path) -> None:
    path, old = tmp_path / "new" / name, b'{"kind": "train", "step": 0}\n'
    path.parent.mkdir()
    prepare(tmp_path)
    if name not in NEW:
        path.write_bytes(old)
    if name == "config.json":
        path.unlink()
    with limited(), pytest.raises(TamingError) as caught:
        WRITERS[name](path)
    said = str(caught.value)
    assert "\n" not in said
    assert re.match(rf"{re.escape(str(path))}(\.parts/\S+)?: cannot be written \(File too large\): ", said), said
    assert "a file may have 2.0 KiB here (ulimit -f); free some space, or choose another place" in said
    if name not in ("metrics.jsonl",):
        assert re.search(r"it needs (more than )?[\d.]+ (KiB|MiB|bytes), and ", said), said
    left = {each.name for each in path.parent.rglob("*") if each.is_file() and each.name not in (".lock", "lock")}
    assert left - {"plan.json"} == (set() if name in NEW or name == "config.json" else {name})
    if name not in NEW and name != "config.json":
        assert path.read_bytes() == old

    if name != "labels.txt":
        WRITERS[name](path)  # and once there is room, it is written
        assert path.stat().st_size > LIMIT


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "unexpected pos 64 vs 0"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "file write failed"),
    ],
    ids=["full", "quota", "torch-1", "torch-2"],
)
def test_whatever_a_library_makes_of_a_full_disk_it_is_one_line(error: Exception, why: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_bytes(bytes(3 * 2**20))
        raise error

    with pytest.raises(TamingError) as caught:
        write_atomically(path, write)
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert why in str(caught.value)
    if isinstance(error, OSError):
        assert "it needs more than 3.0 MiB, and the disk at /" in str(caught.value)
        assert re.search(r" has [\d.]+ [KMG]?i?B?(ytes)? ?free", str(caught.value))
    assert [each.name for each in tmp_path.iterdir()] == ["f"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("durable", [True, False])
def test_content_is_on_the_disk_before_its_name_and_new_folders_are_too(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    true, path = disk._sync, tmp_path / "a" / "b" / "f"

    def sync(synced: Path) -> None:
        done.append("content" if synced.name.endswith(".tmp") else f"{synced.relative_to(tmp_path)}")
        done.append("named" if path.exists() else "not named")
        true(synced)

    monkeypatch.setattr(disk, "_sync", sync)
    write_atomically(path, lambda temporary: temporary.write_text("whole"), durable=durable)
    before = ["a", "not named", ".", "not named", "content", "not named"]
    assert done == before + (["a/b", "named"] if durable else [])


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(2, "none", "/somewhere/else")])
def test_other_errors_of_a_writer_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(tmp_path / "f", write)
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_once_another_process_writes_into_its_folder(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
from taming_cli.data import disk
from taming_cli.data.disk import write_atomically
def write(temporary):
    temporary.write_text("half")
    os.kill(os.getpid(), signal.{{}})
write_atomically(pathlib.Path({str(tmp_path)!r}) / "f", write)
"""
    with subprocess.Popen([sys.executable, "-c", script.format("SIGSTOP")]) as running:
        try:
            os.waitpid(running.pid, os.WUNTRACED)
            subprocess.run([sys.executable, "-c", script.format("SIGKILL")], check=False)
            (tmp_path / ".other.tmp").write_text("another program's")
            (tmp_path / ".01234567-1-89abcdef.tmp").write_text("another machine's")
            assert len(list(tmp_path.iterdir())) == 4
            write_atomically(tmp_path / "g", lambda temporary: temporary.write_text("whole"))
            left = {path.name for path in tmp_path.iterdir()}
            assert {".other.tmp", ".01234567-1-89abcdef.tmp", "g"} < left
            (last,) = left - {".other.tmp", ".01234567-1-89abcdef.tmp", "g"}
            assert f"-{running.pid}-" in last
        finally:
            running.kill()


def test_a_folder_that_refuses_a_token_file_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TamingError) as caught:
        write_tokens(tmp_path / "file" / "t.h5")
    assert re.match(rf"{tmp_path}/file/t\.h5\.parts/lock: cannot be written \(.*\); choose another", str(caught.value))


def test_no_file_handles_is_one_line_that_names_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # as for a pipe, which has no name

    monkeypatch.setattr("taming_cli.annotate.annotate", refuse)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    said = taming("annotate", "edges", tmp_path, tmp_path / "out")
    assert said.code == 1
    assert said.refusal == f"taming: Too many open files: a process may open {most} here; raise the limit (ulimit -n)\n"


def test_a_file_that_no_handle_is_left_for_is_not_taken_for_a_bad_one(tmp_path: Path) -> None:
    """A picture would be skipped, and another run's file would be as good as none."""
    picture = tmp_path / "a.png"
    write_png(picture, torch.zeros(3, 4, 4, dtype=torch.uint8), {SETTINGS: "mine"})
    (tmp_path / "b.weird").write_bytes(picture.read_bytes())
    readers: list[Callable[[], object]] = [
        lambda: content_keys([Item("a.png", picture)]),
        lambda: png_settings(picture),
        lambda: holds_picture(str(tmp_path / "b.weird")),
    ]
    for read in readers:
        assert read()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for read in readers:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                read()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    for number in range(4):
        picture(root / "pictures" / f"{number}.bmp", number)
    assert taming("train-vqgan", root / "pictures", *CODEC, "--out", root / "run", "-q").code == 0
    return root


def test_a_training_whose_disk_is_full_keeps_what_was_saved_and_continues(trained: Path) -> None:
    run = trained / "run"
    names = ("trainer.pt", "checkpoints/last.safetensors", "checkpoints/best.safetensors", "report.html")
    before = {name: (run / name).read_bytes() for name in names}
    line = ["train-vqgan", trained / "pictures", *CODEC, "--out", run, "-q", "--steps", 4]
    with limited(before["trainer.pt"].__sizeof__() // 2):
        said = taming(*line)
    assert said.code == 1
    size = len(before["trainer.pt"]) / 2**20
    assert re.match(rf"taming: {run}/trainer\.pt: cannot be written \(File too large\): it needs ", said.refusal)
    needed = float(re.search(r"it needs ([\d.]+) MiB, and", said.refusal)[1])  # type: ignore[index]
    assert needed == pytest.approx(size, rel=0.05)
    assert {name: (run / name).read_bytes() for name in names} == before
    assert not list(run.rglob("*.tmp"))
    assert taming(*line).code == 0


FULL = """
import sys
from pathlib import Path
import torch
from taming_cli.runtime.checkpoint import save_trainer
path = Path(sys.argv[1]) / "trainer.pt"
save_trainer(path, {"weights": torch.zeros(1000)})
try:
    save_trainer(path, {"weights": torch.zeros(2**20)})
except Exception as error:
    print(type(error).__name__, error)
print(sorted(each.name for each in path.parent.iterdir()), len(torch.load(path, weights_only=True)["weights"]))
"""


def test_a_small_disk_of_its_own_is_named_with_what_is_free(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=256k none {tmp_path} || exit 77; exec "$@"'
    line = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", FULL]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not here: no file system can be mounted without special rights")
    done = subprocess.run([*line, str(tmp_path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted without special rights: {done.stderr.strip()}")
    said, left = done.stdout.splitlines()
    assert said.startswith(f"DiskError {tmp_path}/trainer.pt: cannot be written (No space left on device): ")
    assert re.search(rf"it needs 4.0 MiB, and the disk at {tmp_path} has 2\d\d\.\d KiB free; ", said), said
    assert left == "['trainer.pt'] 1000"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("more", [[], ["--json"], ["-q"]], ids=str)
def test_a_result_that_does_not_fit_where_stdout_goes_is_one_line(more: list[str], trained: Path) -> None:
    line = [python(), "-m", "taming_cli", "info", trained / "run" / "checkpoints" / "last.safetensors", *more]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(list(map(str, line)), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ("taming: stdout: cannot write the result (No space left on device); redirect it elsewhere\n")
