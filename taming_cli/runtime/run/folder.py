"""A training's folder: `runs/<command>/<name>/`, what lies in it, and when it may be gone on with.

The name counts up by itself. A given name with the identical config resumes, with another config it is an error.
Nothing is overwritten silently.
"""

import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

import taming_cli
from taming_cli.config import former
from taming_cli.config.fields import to_dict
from taming_cli.data.disk import TEMPORARY, refusals, write_atomically
from taming_cli.data.images import write_png
from taming_cli.data.locks import lock
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import read_header
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.run.data import DATA, Data, write_data
from taming_cli.runtime.run.metrics import METRICS, append_metrics, read_metrics, write_metrics
from taming_cli.runtime.run.resume import check_same, holds_work, refuse_lost
from taming_cli.runtime.run.sheets import CONDITION

if TYPE_CHECKING:
    from taming_cli.runtime.run.tensorboard import Board

_log = logging.getLogger(__name__)
WriteReport = Callable[[Path], object]
"""Writes a run folder's report; given to the trainings, which lie below the report."""
DEEPEST = 4
"""How many folders below `runs/` a run may lie."""
LOCK = ".lock"
"""Of a run folder, held by the process that works in it."""
RESUMED = "resumed run"
"""The origin of a value that a resumed run keeps; config.json goes on saying where it came from at first."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run goes: `out` is the run folder itself; else `runs/<command>/<name>`, the name counting up by itself.

    `resume` goes on with the run named so, or with the newest one of the command.
    """

    out: Path | None = None
    name: str | None = None
    resume: bool = False
    root: Path = Path("runs")


class Run:
    """An open run folder, locked against a second process. Made by `open_run`; a context manager. With `tensorboard`,
    what is logged and shown goes there too."""

    def __init__(self, folder: Path, lock: IO[str] | None, *, tensorboard: bool = False) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "samples"
        self.trainer = folder / "trainer.pt"
        self.metrics = folder / METRICS
        self._lock, self._tensorboard = lock, tensorboard
        self._board: Board | None = None

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._lock is not None:
            self._lock.close()

    @property
    def last(self) -> Path:
        """The model as of the last save."""
        return self.checkpoints / "last.safetensors"

    @property
    def best(self) -> Path:
        """The model at its best validation so far."""
        return self.checkpoints / "best.safetensors"

    def keep(self, step: int) -> None:
        """Keep the last model as `step_*.safetensors` too; the next save replaces the name, not the file."""
        kept = self.checkpoints / f"step_{step:07d}.safetensors"
        kept.unlink(missing_ok=True)
        try:
            os.link(self.last, kept)
        except OSError:  # a file system without links
            write_atomically(kept, lambda temporary: shutil.copy(self.last, temporary))

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        append_metrics(self.metrics, values)
        if self._board is not None:
            self._board.log(values)

    def show(self, step: int, sheet: Tensor, text: Mapping[str, str] | None = None) -> None:
        """Keep a sheet of pictures, uint8 (3, H, W), as `samples/step_*.png`; `text` says what it shows."""
        path = self.samples / f"step_{step:07d}.png"
        write_png(path, sheet, text)
        if self._board is not None:
            self._board.show(step, path)

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run logs it again."""
        kept = [line for line in read_metrics(self.metrics).lines if line["step"] <= step]
        write_metrics(self.metrics, kept)
        if self._tensorboard:
            from taming_cli.runtime.run.tensorboard import FOLDER, Board

            self._board = Board(self.folder / FOLDER, step, kept)


class Best(NamedTuple):
    """The best model of a run, its step, and the figures of its own validation."""

    path: Path
    step: int
    validation: Mapping[str, float]


def best_of(run: Run, world: World = ALONE) -> Best:
    """The best model of a run that has been saved; the last one, where there was nothing to validate on. Processes but
    the first do not read it, since it may not be written yet."""
    path = run.best if run.best.exists() else run.last
    about = read_header(path).about if world.first else {}
    return Best(path, about.get("step", 0), about.get("metrics", {}))


class Found(NamedTuple):
    """What a place holds before anything is written there: the folder (None for a new one to be named), and the
    identity of its trainer file (None for a run that has never been saved)."""

    folder: Path | None
    trainer: tuple[int, int, int] | None

    @property
    def saved(self) -> bool:
        """Whether the run goes on from its trainer file."""
        return self.trainer is not None


def look(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    *,
    inputs: Sequence[str],
    data: Callable[[], Data] | None = None,
) -> Found:
    """What `open_run` would find, with its refusals; nothing is written. The arguments are those of `open_run`."""
    folder = find_run(command, place)
    if folder is None or not folder.exists():
        return Found(folder, None)
    if not (folder / "config.json").exists():
        if any(path.name != LOCK and not path.match(TEMPORARY) for path in folder.iterdir()):
            raise UsageError(f"{folder} exists and is not a run; give another --out or --name")
        return Found(folder, None)
    before = read_settings(folder)
    if before["command"] != command:
        raise UsageError(f"{folder} is a run of {before['command']}; give another --out or --name")
    trainer = folder / "trainer.pt"
    if trainer.exists():
        check_same(folder, before, groups, inputs, data)
        status = trainer.stat()
        return Found(folder, (status.st_ino, status.st_mtime_ns, status.st_size))
    refuse_lost(folder)
    return Found(folder, None)


def open_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    *,
    inputs: Sequence[str],
    origins: Mapping[str, str],
    data: Callable[[], Data] | None = None,
    found: Found | None = None,
    tensorboard: bool = False,
    world: World = ALONE,
) -> Run:
    """The run folder for these settings: a new one, or one to go on with (its `trainer.pt` then exists). Of several
    processes the first makes and locks it, and alone may write there.

    `groups` maps group names to config dataclasses; `inputs` are the pictures' or token files' paths, and `data` finds
    what they hold, by which a run knows its data wherever they lie; `origins` says where each value came from. `found`
    is what `look` has found, if it was asked. A run that has never been saved is begun anew, whatever its settings.
    Raises UsageError where the place holds a run with other settings or other data, a trained run without its trainer
    file, or something else.
    """
    made: list[Run] = []

    def make() -> Path:
        made.append(_make_run(command, place, groups, inputs, origins, data, found, tensorboard))
        return made[0].folder

    folder = world.by_first(make)
    return made[0] if made else Run(folder, None)


def _make_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    inputs: Sequence[str],
    said: Mapping[str, str],
    data: Callable[[], Data] | None,
    found: Found | None,
    tensorboard: bool,
) -> Run:
    if found is None:
        found = look(command, place, groups, inputs=inputs, data=data)
    folder = found.folder or next_folder(place.root / command)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, _lock(folder), tensorboard=tensorboard)
    try:
        now = look(command, Place(out=folder), groups, inputs=inputs, data=data)
        if now.trainer != found.trainer:  # before the lock was ours
            raise UsageError(f"another process has just saved {folder}; run the same again to go on from there")
        origins = dict(said)
        if found.saved:
            before = read_settings(folder)
            origins |= {name: was for name, was in before.get("origins", {}).items() if origins.get(name) == RESUMED}
        settings = {
            "command": command,
            "inputs": list(inputs),
            "config": {name: to_dict(config) for name, config in groups.items()},
            "origins": origins,
        }
        _write_json(folder / "config.json", settings)
        _write_json(folder / "env.json", environment())
        _prepare(run, goes_on=found.saved)
        if data is not None:
            write_data(folder / DATA, data(), goes_on=found.saved)
    except BaseException:
        run.__exit__()
        raise
    return run


def _prepare(run: Run, *, goes_on: bool) -> None:
    """Make the folders, and remove what is half-written; and the sheets of a run that was never saved."""
    run.checkpoints.mkdir(exist_ok=True)
    run.samples.mkdir(exist_ok=True)
    leftovers = [*run.folder.glob(TEMPORARY), *run.folder.glob(f"*/{TEMPORARY}")]
    if not goes_on:
        if read_metrics(run.metrics).lines:
            _log.warning("the run in %s was never saved: it begins anew", run.folder)
        leftovers += [*run.samples.glob("step_*.png"), *run.samples.glob(f"{CONDITION}*.png")]
    for leftover in leftovers:
        leftover.unlink()


def find_run(command: str, place: Place) -> Path | None:
    """The folder that `place` names, or with `resume` alone the newest run, of those that have been saved where there
    are any; None for a new one to be named.

    Raises UsageError where `resume` finds nothing.
    """
    if place.name is not None and (not place.name or place.name in (".", "..") or "/" in place.name):
        raise UsageError(f"name {place.name!r} is not a folder name; use --out for a path")
    if place.name is not None and place.out is not None:
        raise UsageError(f"--out {place.out} and --name {place.name} both say where; leave one of them out")
    folder = place.out or (place.root / command / place.name if place.name else None)
    if not place.resume:
        return folder
    if folder is None:
        runs = list(runs_below(place.root, command))
        if not runs:
            raise UsageError(f"nothing to resume: there is no run of {command} under {place.root}")
        begun = [run for run in runs if (run / "trainer.pt").exists() or holds_work(run)]
        return max(begun or runs, key=lambda run: (run / "config.json").stat().st_mtime_ns)
    if not (folder / "config.json").exists():
        raise UsageError(f"nothing to resume: {folder} holds no run")
    return folder


def saved_run(command: str, place: Place) -> Path | None:
    """The folder of the run at `place` that goes on from its trainer file; None for a training that begins."""
    folder = find_run(command, place)
    return folder if folder is not None and (folder / "trainer.pt").exists() else None


def absolute(path: str | None) -> str | None:
    """A path of the settings as a run records it: good from any working directory. None stays None."""
    return os.path.abspath(path) if path else path  # noqa: PTH100 - a link's own name says what kind of file it is


def newest(
    command: str, file: str, root: Path = Path("runs"), suitable: Callable[[Path], bool] = lambda path: True
) -> Path | None:
    """The most recently written suitable `checkpoints/<file>` of the runs of `command` under `root`, or None."""
    files = [run / "checkpoints" / file for run in runs_below(root, command)]
    found = sorted(filter(Path.is_file, files), key=lambda path: -path.stat().st_mtime_ns)
    return next(filter(suitable, found), None)


def runs_below(
    root: Path, command: str | None = None, unreadable: dict[str, str] | None = None, depth: int = DEEPEST
) -> Iterator[Path]:
    """The runs at most `depth` folders below `root`, which need not exist; with `command`, those of that command.

    Hidden folders are not searched. `unreadable` receives, with the reason, folders that cannot be listed and runs
    whose settings cannot be read.
    """
    failures: dict[str, str] = {} if unreadable is None else unreadable
    folders = []
    try:
        with os.scandir(root) as entries:  # which needs no stat call: folders of samples hold many files
            folders = sorted(root / entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
    except OSError as error:
        failures[str(root)] = error.strerror or str(error)
    for folder in folders:
        try:
            matches = command in (None, read_settings(folder)["command"])
        except BadFileError as error:
            matches = False
            if (folder / METRICS).exists():
                failures[str(folder)] = str(error)
        if matches:
            yield folder
        if depth > 1:
            yield from runs_below(folder, command, failures, depth - 1)


def read_settings(folder: Path) -> dict[str, Any]:
    """What `config.json` of a run says: command, inputs, config by group, origins."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from None
    whole = isinstance(settings, dict) and {"command", "inputs", "config"} <= set(settings)
    if not whole or not isinstance(settings["config"], dict):
        raise BadFileError(f"{path} is not a run's config")
    origins = former.renamed(settings.get("origins", {}), former.SETTINGS)
    return {**settings, "config": former.renamed_settings(settings["config"]), "origins": origins}


def environment() -> dict[str, Any]:
    """What a reader needs to know of the machine: versions, device names, cores, the command line."""
    return {
        "taming": taming_cli.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command_line": sys.argv,
    }


def next_folder(parent: Path) -> Path:
    """Make the next counting folder, `001` and so on, in `parent`."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
    while True:
        folder = parent / f"{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another process took it just now
            number += 1
        else:
            return folder


def _lock(folder: Path) -> IO[str]:
    path = folder / LOCK
    with refusals(path):
        stream = path.open("w")
    try:
        lock(stream.fileno(), path)
    except BaseException as error:
        stream.close()
        if isinstance(error, BlockingIOError):
            raise UsageError(f"another process is working in {folder}; wait for it, or give another --name") from None
        raise
    return stream


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + "\n"))
