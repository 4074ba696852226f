"""The run folder of a training, `runs/<command>/<name>/`: its files, and the conditions for resuming it.

The name is a counter by default. A given name resumes the run with the same config; with another config it is an error.
Nothing is overwritten silently.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from taming_cli.config import former
from taming_cli.config.fields import to_dict
from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import TEMPORARY, make_folder, refusals, sync_file, sync_folder, write_atomically, write_json
from taming_cli.data.images import write_png
from taming_cli.data.locks import lock
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import read_header
from taming_cli.runtime.distributed import ALONE, World
from taming_cli.runtime.environment import environment
from taming_cli.runtime.run.data import DATA, Data, write_data
from taming_cli.runtime.run.metrics import METRICS, append_metrics, read_metrics, write_metrics
from taming_cli.runtime.run.resume import check_same, holds_work, refuse_lost
from taming_cli.runtime.run.sheets import CONDITION

if TYPE_CHECKING:
    from taming_cli.runtime.run.tensorboard import Board

_log = logging.getLogger(__name__)
WriteReport = Callable[[Path], object]
"""Writes the report of a run folder. Passed to the trainings, since the report is on a higher floor."""
DEEPEST = 4
"""Largest number of folders between `runs/` and a run, the run included."""
LOCK = ".lock"
"""The lock file of a run folder, held by the process that works in it."""
RESUMED = "resumed run"
"""The origin of a value that a resumed run keeps; config.json still records the original one."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is: in the folder `out`, or else in `root/<command>/<name>`, where `name` is a counter by default.

    `resume` continues the run of that name, or the newest run of the command.
    """

    out: Path | None = None
    name: str | None = None
    resume: bool = False
    root: Path = Path("runs")


class Run:
    """An open run folder of `command`, locked against other processes; a context manager. Created by `open_run`.

    With `tensorboard`, log lines and sheets are written as event files too.
    """

    def __init__(self, command: str, folder: Path, lock: IO[str] | None, *, tensorboard: bool = False) -> None:
        self.command, self.folder = command, folder
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
        """The model of the last save."""
        return self.checkpoints / "last.safetensors"

    @property
    def best(self) -> Path:
        """The model of the best validation so far."""
        return self.checkpoints / "best.safetensors"

    def kept(self, step: int) -> Path:
        """The model of a step that is kept."""
        return self.checkpoints / f"step_{step:07d}.safetensors"

    def keep(self, step: int) -> None:
        """Keep the last model as `step_*.safetensors` too: a hard link, which the next save leaves intact."""
        kept = self.kept(step)
        kept.unlink(missing_ok=True)
        try:
            os.link(self.last, kept)
        except OSError:  # a file system without hard links
            write_atomically(kept, lambda temporary: shutil.copy(self.last, temporary))
        sync_folder(self.checkpoints)

    def sync(self) -> None:
        """Flush the log and the names of the sheets to the disk."""
        sync_file(self.metrics)
        sync_folder(self.samples)

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        append_metrics(self.metrics, values)
        if self._board is not None:
            self._board.log(values)

    def show(self, step: int, sheet: Tensor, text: Mapping[str, str] | None = None) -> None:
        """Write a sheet of pictures, uint8 (3, H, W), to `samples/step_*.png`; `text` holds its PNG text chunks."""
        path = self.samples / f"step_{step:07d}.png"
        write_png(path, sheet, text)
        if self._board is not None:
            self._board.show(step, path)

    def rewind_log(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run logs them again."""
        kept = [line for line in read_metrics(self.metrics).lines if line["step"] <= step]
        write_metrics(self.metrics, kept)
        if self._tensorboard:
            from taming_cli.runtime.run.tensorboard import FOLDER, Board

            self._board = Board(self.folder / FOLDER, step, kept)


class Best(NamedTuple):
    """The best model of a run, its step, and its validation."""

    path: Path
    step: int
    validation: Mapping[str, float]


def best_of(run: Run, world: World = ALONE) -> Best:
    """The best model of a saved run; the last one where nothing is held out. Only the first process reads it: in the
    others, step and validation are empty, since the file may not be written yet."""
    path = run.best if run.best.exists() else run.last
    about = read_header(path).about if world.first else {}
    return Best(path, about.get("step", 0), about.get("metrics", {}))


class ExistingRun(NamedTuple):
    """The state of a place before anything is written there: the run's folder, None where a new one will be named, and
    the identity of its trainer file, None for a run that has never been saved."""

    folder: Path | None
    trainer: tuple[int, int, int] | None

    @property
    def saved(self) -> bool:
        """Whether the run will be resumed from its trainer file."""
        return self.trainer is not None


def inspect_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    *,
    inputs: Sequence[str],
    data: Callable[[], Data] | None = None,
) -> ExistingRun:
    """The run that `open_run` would open with the same arguments. Raises the same errors, and writes nothing."""
    folder = find_run(command, place)
    if folder is None or not folder.exists():
        return ExistingRun(folder, None)
    if not (folder / "config.json").exists():
        if any(path.name != LOCK and not path.match(TEMPORARY) for path in folder.iterdir()):
            raise UsageError(f"{folder} exists and is not a run; give another --out or --name")
        return ExistingRun(folder, None)
    before = read_settings(folder)
    if before["command"] != command:
        raise UsageError(f"{folder} is a run of {before['command']}; give another --out or --name")
    trainer = folder / "trainer.pt"
    if trainer.exists():
        check_same(folder, before, groups, inputs, data)
        status = trainer.stat()
        return ExistingRun(folder, (status.st_ino, status.st_mtime_ns, status.st_size))
    refuse_lost(folder)
    return ExistingRun(folder, None)


def open_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    *,
    inputs: Sequence[str],
    origins: Mapping[str, str],
    data: Callable[[], Data] | None = None,
    existing: ExistingRun | None = None,
    tensorboard: bool = False,
    world: World = ALONE,
) -> Run:
    """Open the run folder for these settings: a new one, or one to resume, whose `trainer.pt` then exists.

    Of several processes, the first one creates and locks the folder, and it alone may write there. `groups` maps group
    names to config dataclasses. `inputs` are the paths of the pictures or token files, and `data` returns a record of
    their contents, by which a run recognises its data after they were moved. `origins` is the origin of each value.
    `existing` is the result of `inspect_run`, where it was called before. A run that was never saved starts over,
    regardless of its settings.

    Raises UsageError where the place holds a run with other settings or other data, a trained run without its trainer
    file, or anything that is not a run.
    """
    opened: list[Run] = []

    def create() -> Path:
        opened.append(_create_run(command, place, groups, inputs, origins, data, existing, tensorboard))
        return opened[0].folder

    folder = world.by_first(create)
    return opened[0] if opened else Run(command, folder, None)


def _create_run(
    command: str,
    place: Place,
    groups: Mapping[str, Any],
    inputs: Sequence[str],
    given: Mapping[str, str],
    data: Callable[[], Data] | None,
    existing: ExistingRun | None,
    tensorboard: bool,
) -> Run:
    if existing is None:
        existing = inspect_run(command, place, groups, inputs=inputs, data=data)
    folder = existing.folder or next_folder(place.root / command)
    make_folder(folder)
    run = Run(command, folder, _lock(folder), tensorboard=tensorboard)
    try:
        now = inspect_run(command, Place(out=folder), groups, inputs=inputs, data=data)
        if now.trainer != existing.trainer:  # changed before this process had the lock
            raise UsageError(f"another process has just saved {folder}; repeat the command to resume it")
        origins = dict(given)
        if existing.saved:
            before = read_settings(folder)
            origins |= {name: was for name, was in before.get("origins", {}).items() if origins.get(name) == RESUMED}
        settings = {
            "command": command,
            "inputs": list(inputs),
            "config": {name: to_dict(config) for name, config in groups.items()},
            "origins": origins,
        }
        write_json(folder / "config.json", settings)
        write_json(folder / "env.json", environment())
        _prepare(run, resumed=existing.saved)
        if data is not None:
            write_data(folder / DATA, data(), resumed=existing.saved)
    except BaseException:
        run.__exit__()
        raise
    return run


def _prepare(run: Run, *, resumed: bool) -> None:
    """Create the subfolders. Remove temporary files and, unless the run is resumed, sheets of pictures."""
    run.checkpoints.mkdir(exist_ok=True)
    run.samples.mkdir(exist_ok=True)
    leftovers = [*run.folder.glob(TEMPORARY), *run.folder.glob(f"*/{TEMPORARY}")]
    if not resumed:
        if read_metrics(run.metrics).lines:
            _log.warning("the run in %s was never saved: it starts over", run.folder)
        leftovers += [*run.samples.glob("step_*.png"), *run.samples.glob(f"{CONDITION}*.png")]
    for leftover in leftovers:
        leftover.unlink()


def find_run(command: str, place: Place) -> Path | None:
    """The folder that `place` names; with `resume` alone, the newest run, preferably one that was saved; None where a
    new folder will be named.

    Raises UsageError where `resume` finds nothing.
    """
    if place.name is not None and (not place.name or place.name in (".", "..") or "/" in place.name):
        raise UsageError(f"name {place.name!r} is not a folder name; use --out for a path")
    if place.name is not None and place.out is not None:
        raise UsageError(f"--out {place.out} and --name {place.name} both name the run folder; leave one of them out")
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
    """The folder of the run at `place` that will be resumed from its trainer file; None for a new training."""
    folder = find_run(command, place)
    return folder if folder is not None and (folder / "trainer.pt").exists() else None


def absolute(path: str | None) -> str | None:
    """A path of the settings as a run records it: valid from any working directory. None stays None."""
    return os.path.abspath(path) if path else path  # noqa: PTH100 - the suffix of a link tells the kind of the file


def newest(
    command: str, file: str, root: Path = Path("runs"), suitable: Callable[[Path], bool] = lambda path: True
) -> Path | None:
    """The most recently written suitable `checkpoints/<file>` of the runs of `command` under `root`, or None."""
    files = [run / "checkpoints" / file for run in runs_below(root, command)]
    recent_first = sorted(filter(Path.is_file, files), key=lambda path: -path.stat().st_mtime_ns)
    return next(filter(suitable, recent_first), None)


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
    """The contents of a run's `config.json`: command, inputs, config by group, origins. BadFileError where it is
    damaged."""
    path = folder / "config.json"
    try:
        settings = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from None
    types = {"command": str, "inputs": list, "config": dict, "origins": dict}
    complete = isinstance(settings, dict) and {"command", "inputs", "config"} <= set(settings)
    if not complete or not all(isinstance(settings.get(name, of()), of) for name, of in types.items()):
        raise BadFileError(f"{path} is not a run's config")
    groups, inputs = settings["config"].values(), settings["inputs"]
    if not all(isinstance(each, dict) for each in groups) or not all(isinstance(each, str) for each in inputs):
        raise BadFileError(f"{path} is not a run's config")
    origins = former.renamed(settings.get("origins", {}), former.SETTINGS)
    config = former.renamed_settings(settings["config"])
    if "prior" in config:
        config["prior"] = {**former.PRIOR, **config["prior"]}
    return {**settings, "config": config, "origins": origins}


def next_folder(parent: Path) -> Path:
    """Create the next numbered folder in `parent`: `001` and so on."""
    make_folder(parent)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
    while True:
        folder = parent / f"{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another process has just created it
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
