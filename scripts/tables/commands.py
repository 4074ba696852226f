"""Runs commands of `taming`, each once: a log records what is finished, and a later run of the script skips it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from taming_cli.errors import TamingError, UsageError

LOG = "commands.jsonl"
LOGS = "logs"
STOPPED = (130, 143)
"""The exit codes of a command that a signal ended."""
SKIPPED = 3
"""The exit code of a command that is done but for some inputs, which it has listed."""
LEFT_OUT = ("details",)
"""Parts of results that the log does not repeat: values for each picture or code."""


class FailedError(TamingError):
    """A command has failed or was interrupted; it has printed why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Done(NamedTuple):
    """A finished command: the objects that it printed as JSON, and its time in seconds, or None if it was interrupted
    and continued."""

    values: list[dict[str, Any]]
    seconds: float | None

    @property
    def value(self) -> dict[str, Any]:
        """The one object of a command that prints one."""
        return self.values[-1]


class Commands:
    """The commands of one output folder, which several threads may run. With `logs`, what a command prints on stderr
    goes to a file of its own in the folder `logs`."""

    def __init__(self, out: Path, *, logs: bool = False) -> None:
        self._log = out / LOG
        self._logs = out / LOGS if logs else None
        self._done: dict[str, Mapping[str, Any]] = {}
        self._begun: set[str] = set()
        self._lock = threading.Lock()
        text = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the line that was being written when the machine stopped
                continue
            if "values" in entry:
                self._done[entry["name"]] = entry
            else:
                self._begun.add(entry["name"])

    def run(self, name: str, *words: object) -> Done:
        """Run `taming WORDS --json`, unless the log has it under this name. UsageError if that was another command;
        FailedError if it fails."""
        command = [str(word) for word in words]
        if (before := self._done.get(name)) is not None:
            if before["command"] != command:
                raise UsageError(
                    f"{self._log.parent} holds {name} by another command, `taming {shlex.join(before['command'])}`; "
                    "use the same arguments, or another --out"
                )
            note(f"done before: taming {shlex.join(command)}")
            return Done(before["values"], before["seconds"])
        note(f"taming {shlex.join(command)}")
        resumed = name in self._begun
        self._write({"name": name, "command": command})
        self._begun.add(name)
        began = time.monotonic()
        log = None if self._logs is None else self._logs / f"{name}.txt"
        code, text = _call([sys.executable, "-m", "taming_cli", *command, "--json"], log)
        if code not in (0, SKIPPED):
            stopped = "was interrupted" if code in STOPPED else f"has failed (exit code {code}{_last_line(log)})"
            raise FailedError(f"{name} {stopped}; start the script again to continue", code)
        seconds = None if resumed else time.monotonic() - began
        values = [json.loads(line) for line in text.splitlines()]
        values = [{key: value for key, value in each.items() if key not in LEFT_OUT} for each in values]
        return self._finish(name, command, values, seconds)

    def keep(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of `compute`, or the one that the log has under this name."""
        if (before := self._done.get(name)) is not None:
            return dict(before["values"][0])
        began = time.monotonic()
        value = compute()
        return self._finish(name, [], [value], time.monotonic() - began).value

    def to_dict(self) -> dict[str, str]:
        """All finished commands, by name."""
        return {
            name: f"taming {shlex.join(entry['command'])}" for name, entry in self._done.items() if entry["command"]
        }

    def _finish(self, name: str, command: Sequence[str], values: list[dict[str, Any]], seconds: float | None) -> Done:
        entry = {"name": name, "command": list(command), "seconds": seconds, "values": values}
        self._write(entry)
        self._done[name] = entry
        return Done(values, seconds)

    def _write(self, entry: Mapping[str, Any]) -> None:
        with self._lock:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab", buffering=0) as stream:
                stream.write(("\n" * self._torn + json.dumps(entry) + "\n").encode())
                os.fsync(stream.fileno())
            self._torn = False


def note(text: str) -> None:
    """Print a line on stderr, whole, whichever threads print."""
    sys.stderr.write(f"== {text}\n")
    sys.stderr.flush()


class _Running:
    """The processes of the commands that run, and the signal that has asked for a stop. Signals are those of the whole
    program, and so is this."""

    def __init__(self) -> None:
        self.processes: set[subprocess.Popen[str]] = set()
        self.stop: int | None = None

    def add(self, process: subprocess.Popen[str]) -> None:
        """Take in a process that was started; it may have missed the signal."""
        self.processes.add(process)
        if self.stop is not None:
            process.terminate()

    def on_signal(self, number: int, _: FrameType | None = None) -> None:
        """A terminal sends Ctrl-C to the commands too, which save and end; TERM is passed on."""
        self.stop = number
        if number == signal.SIGTERM:
            for process in tuple(self.processes):
                process.terminate()


_running = _Running()


@contextmanager
def ending_with_commands() -> Iterator[Callable[[int], None]]:
    """While inside, Ctrl-C and TERM end the commands, not this program, and later commands end at once. Of the main
    thread only. -> A function that does what a signal does."""
    handlers = {number: signal.signal(number, _running.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield _running.on_signal
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _running.stop = None


def _call(command: Sequence[str], log: Path | None = None) -> tuple[int, str]:
    """Exit code, as a shell gives it, and standard output. Standard error is added to `log`, or goes where that of
    this program goes."""
    if _running.stop is not None:
        return 128 + _running.stop, ""
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(ending_with_commands())
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        errors = None if log is None else stack.enter_context(log.open("a", encoding="utf-8"))
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)
        )
        _running.add(process)
        try:
            text, _ = process.communicate()
        finally:
            _running.processes.discard(process)
    code = process.returncode
    return code if code >= 0 else 128 - code, text


def _last_line(log: Path | None) -> str:
    """What a command that has failed printed last, after a colon."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
