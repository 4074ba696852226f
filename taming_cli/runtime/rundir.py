"""A training's folder: `runs/<command>/<name>/`, what lies in it, and when it may be gone on with.

The name counts up by itself. A given name with the identical config resumes, with another config it is an error.
Nothing is overwritten silently.
"""

import contextlib
import dataclasses
import fcntl
import json
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
from taming_cli.config.fields import to_dict
from taming_cli.data.images import write_png
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import read_header, write_atomically
from taming_cli.runtime.distributed import ALONE, World

if TYPE_CHECKING:
    from taming_cli.runtime.tensorboard import Board

DEEPEST = 4
"""How many folders below `runs/` a run may lie."""
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
        self.metrics = folder / "metrics.jsonl"
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
            shutil.copy(self.last, kept)

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics.open("a") as stream:
            stream.write(json.dumps(values) + "\n")
        if self._board is not None:
            self._board.log(values)

    def show(self, step: int, sheet: Tensor, text: Mapping[str, str] | None = None) -> None:
        """Keep a sheet of pictures, uint8 (3, H, W), as `samples/step_*.png`; `text` says what it shows."""
        path = self.samples / f"step_{step:07d}.png"
        write_png(path, sheet, text)
        if self._board is not None:
            self._board.show(step, path)

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
        lines = []
        for line in self.metrics.read_text().splitlines() if self.metrics.exists() else []:
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after `step`: a resumed run says it again."""
        kept = [line for line in self.read_log() if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.metrics, lambda temporary: _write_text(temporary, text))
        if self._tensorboard:
            from taming_cli.runtime.tensorboard import FOLDER, Board

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


def open_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    *,
    inputs: Sequence[str],
    origins: Mapping[str, str],
    tensorboard: bool = False,
    world: World = ALONE,
) -> Run:
    """The run folder for these settings: a new one, or one to go on with (its `trainer.pt` then exists). Of several
    processes the first makes and locks it, and alone may write there.

    `groups` maps group names to config dataclasses; `inputs` are the pictures' or token files' paths; `origins` says
    where each value came from. Raises UsageError where the place holds a run with other settings, or something else.
    """
    made: list[Run] = []

    def make() -> Path:
        made.append(_make_run(command, place, groups, inputs, origins, tensorboard))
        return made[0].folder

    folder = world.by_first(make)
    return made[0] if made else Run(folder, None)


def _make_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    inputs: Sequence[str],
    said: Mapping[str, str],
    tensorboard: bool,
) -> Run:
    folder = find_run(command, place)
    origins = dict(said)
    settings = {
        "command": command,
        "inputs": list(inputs),
        "config": {name: to_dict(config) for name, config in groups.items()},
    }
    if folder is None:
        folder = next_folder(place.root / command)
    elif (folder / "config.json").exists():
        before = read_settings(folder)
        _check_same(folder, before, settings, groups)
        origins |= {name: said for name, said in before.get("origins", {}).items() if origins.get(name) == RESUMED}
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} exists and is not a run; give another --out or --name")
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, _lock(folder), tensorboard=tensorboard)
    run.checkpoints.mkdir(exist_ok=True)
    run.samples.mkdir(exist_ok=True)
    for leftover in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):  # of a killed process: we hold the lock
        leftover.unlink()
    settings["origins"] = origins
    _write_json(folder / "config.json", settings)
    _write_json(folder / "env.json", environment())
    return run


def find_run(command: str, place: Place) -> Path | None:
    """The folder that `place` names, or with `resume` alone the newest run; None for a new one to be named.

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
        runs = list(runs_of(command, place.root))
        if not runs:
            raise UsageError(f"nothing to resume: there is no run of {command} under {place.root}")
        return max(runs, key=lambda run: (run / "config.json").stat().st_mtime_ns)
    if not (folder / "config.json").exists():
        raise UsageError(f"nothing to resume: {folder} holds no run")
    return folder


def goes_on(command: str, place: Place) -> bool:
    """Whether `place` names a run that has been saved: all of its networks are in its `trainer.pt`."""
    folder = find_run(command, place)
    return folder is not None and (folder / "trainer.pt").exists()


def absolute(path: str | None) -> str | None:
    """A path of the settings as a run records it: good from any working directory. None stays None."""
    return str(Path(path).resolve()) if path else path


def newest(
    command: str, file: str, root: Path = Path("runs"), suitable: Callable[[Path], bool] = lambda path: True
) -> Path | None:
    """The most recently written `checkpoints/<file>` among the runs of `command` under `root` that is suitable, or
    None."""
    files = [run / "checkpoints" / file for run in runs_of(command, root)]
    found = sorted(filter(Path.is_file, files), key=lambda path: -path.stat().st_mtime_ns)
    return next(filter(suitable, found), None)


def runs_of(command: str, root: Path) -> Iterator[Path]:
    """The runs of a command at most DEEPEST folders below `root`, which need not exist."""
    for depth in range(1, DEEPEST + 1):
        for path in root.glob("*/" * depth + "config.json"):
            with contextlib.suppress(BadFileError):
                if read_settings(path.parent).get("command") == command:
                    yield path.parent


def read_settings(folder: Path) -> dict[str, Any]:
    """What `config.json` of a run says: command, inputs, config by group, origins."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(settings, dict) or not {"command", "inputs", "config"} <= set(settings):
        raise BadFileError(f"{path} is not a run's config")
    return settings


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


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    if old["command"] != new["command"]:
        raise UsageError(f"{folder} is a run of {old['command']}; give another --out or --name")
    if old["inputs"] != new["inputs"]:
        raise UsageError(
            f"{folder} was made from {' '.join(old['inputs'])}; give the same inputs to go on, or another --name"
        )
    for name, config in groups.items():
        usual = to_dict(type(config)())  # what a setting was before there was a name for it
        before, after = {**usual, **old["config"].get(name, {})}, new["config"][name]
        live = {field.name for field in dataclasses.fields(config) if field.metadata.get("live")}
        changed = [key for key in after if key not in live and before.get(key) != after[key]]
        if changed:
            key = changed[0]
            raise UsageError(
                f"{folder} has {key} {before.get(key)!r}, not {after[key]!r}; give the same to go on, or another --name"
            )


def _lock(folder: Path) -> IO[str]:
    stream = (folder / ".lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise UsageError(f"another process is working in {folder}; wait for it, or give another --name") from None
    return stream


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, lambda temporary: _write_text(temporary, json.dumps(value, indent=2) + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
