"""What a command leaves: whether each file under a final name is whole, and whether the result is the undisturbed one.

The undisturbed run is recorded: each content that a name ever gets, in full. A file of a disturbed run is whole if it
has one of those contents, bit for bit; only times, the environment and the origins of settings are left out.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from forked import Ended, Watch
from jobs import Job, jobs, kept
from torch import Tensor

from taming_cli.runtime.checkpoint import load_trainer

LOCKS = (".lock", "lock")
_TIMES = ("seconds", "images_per_second", "waiting_seconds")


@dataclass(frozen=True)
class Reference:
    """The undisturbed run of a job: its final contents, all contents by name, its operations on files, and its time."""

    job: Job
    final: Mapping[str, str]
    contents: Mapping[str, frozenset[str]]
    operations: int
    seconds: float
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, job: Job, folder: Path) -> "Reference":
        """Run a job undisturbed, in a new folder."""
        record = folder.with_name(f"{folder.name}.record")
        record.mkdir()
        job.prepare(folder)
        contents: dict[str, set[str]] = {}
        for name, path in _files(folder):
            contents.setdefault(name, set()).add(digest(path, name))
        watch = Watch(folder, record=record)
        ended = job.run(folder, watch)
        assert ended.code == 0, ended
        for copy in sorted(record.iterdir()):
            name = (copy / "name").read_text()
            contents.setdefault(name, set()).add(digest(copy / "content", name))
        final = {name: digest(path, name) for name, path in _files(folder)}
        for name, value in final.items():
            contents.setdefault(name, set()).add(value)
        sizes = {name: path.stat().st_size for name, path in _files(folder)}
        timed = folder.with_name(f"{folder.name}.timed")
        job.prepare(timed)
        began = time.monotonic()
        assert job.run(timed).code == 0
        seconds = time.monotonic() - began
        assert (lost := different(timed, final)) == "", f"{job.name} is not repeatable: {lost}"
        return cls(job, final, {k: frozenset(v) for k, v in contents.items()}, watch.count, seconds, sizes)

    def damage(self, folder: Path) -> str:
        """Describe the first file under a final name that is not whole; empty if all are."""
        for name, path in _files(folder):
            if name.endswith(".tmp"):
                continue
            if name not in self.contents:
                return f"{name} is no file of this command"
            try:
                found = digest(path, name)
            except Exception as error:
                return f"{name} cannot be opened: {type(error).__name__}: {error}"
            if name.endswith(".jsonl"):
                if not self.final[name].startswith(found):
                    return f"{name} has other lines than the undisturbed run"
            elif found not in self.contents[name]:
                return f"{name} opens, but its content never was one of the undisturbed run"
        return ""

    def difference(self, folder: Path) -> str:
        """Describe the first difference between a folder and the undisturbed run's; empty if there is none."""
        return different(folder, self.final)

    def again(self, folder: Path, *, resume: bool = False) -> str:
        """Run the command again, or resume it, and describe what was lost; empty if the result is the undisturbed one.

        A command that refuses to replace a file may say that its complete result is there.
        """
        resumed = resume and bool(self.job.resume) and (folder / self.job.trainer).exists()
        ended = self.job.run(folder, resume=resumed)
        done = ended.code == 2 and self.job.refuses and ended.err.count("\n") == 1 and "exists" in ended.err
        if ended.code != 0 and not done:
            return f"the command run again ends with {ended.code}: {' '.join(ended.err.split())[-400:]}"
        if loss := self.difference(folder):
            return f"after the command was run again: {loss}"
        return ""


@cache
def undisturbed(name: str) -> Reference:
    """The undisturbed run of the job of that name, run once for all drills."""
    return Reference.of(jobs()[name], kept("undisturbed") / "run")


def different(folder: Path, final: Mapping[str, str]) -> str:
    """Describe the first difference between the files of a folder and these; empty if there is none."""
    found = dict(_files(folder))
    for path in folder.rglob("*"):
        if path.name == "lock" or (path.is_dir() and path.name.endswith(".parts")):
            return f"{path.relative_to(folder)} is left behind"
    for name in sorted(found.keys() | final.keys()):
        if name not in final:
            return f"{name} is left behind"
        if name not in found:
            return f"{name} is missing"
        if digest(found[name], name) != final[name]:
            return f"{name} differs from the undisturbed run"
    return ""


def one_line(ended: Ended, *words: str) -> str:
    """Describe what is wrong with a command's refusal: it has to be one line, without a traceback, with these words;
    empty if nothing is."""
    lines = [line for line in ended.err.splitlines() if line.startswith("taming: ")]
    if ended.code not in (1, 2):
        return f"exit code {ended.code}: {ended.err[-400:]}"
    if "Traceback" in ended.err or len(lines) != 1 or "(a defect of taming" in ended.err:
        return f"not one clear line: {ended.err[-600:]}"
    if missing := [word for word in words if word not in lines[0]]:
        return f"the line does not say {missing[0]!r}: {lines[0]}"
    return ""


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in LOCKS:
            yield str(path.relative_to(folder)), path


def digest(path: Path, name: str) -> str:
    """A hash of a file's content, without times and paths; `name` is its name in the command's folder. Raises where it
    cannot be opened. Of a log, its whole lines."""
    last = Path(name).name
    if last == "trainer.pt":
        state = hashlib.sha256()
        for key, value in _tensors(load_trainer(path)):
            state.update(f"{key}".encode())
            state.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
        return state.hexdigest()
    if last == "metrics.jsonl":
        lines = _log_lines(path.read_text(errors="replace"))
        return "".join(f"{ {k: v for k, v in line.items() if k not in _TIMES} }\n" for line in lines)
    if last == "report.html":
        if not path.read_text().rstrip().endswith("</html>"):
            raise ValueError("not a whole page")
        return "a page"
    if last in ("config.json", "env.json"):
        values = json.loads(path.read_text())
        values.pop("origins", None)
        return "environment" if last == "env.json" else json.dumps(values, sort_keys=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _log_lines(text: str) -> list[dict[str, Any]]:
    """The lines of a log up to one that is damaged, which has to be the end of what was appended last."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        try:
            json.loads(line)
        except ValueError:
            if any(each.strip("\0") for each in lines[number + 1 :]):
                raise ValueError("a line in the middle is damaged") from None
            return [json.loads(each) for each in lines[:number]]
    return [json.loads(each) for each in lines[:-1]]


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key in value:
            if key != "seconds":
                yield from _tensors(value[key], f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _tensors(one, f"{name}.{number}")
    else:
        yield name, value
