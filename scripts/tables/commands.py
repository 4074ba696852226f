"""Runs commands of `taming`, each once: a log records what is finished, and a later run of the script skips it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from taming_cli.errors import TamingError, UsageError

LOG = "commands.jsonl"
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
    """The commands of one output folder."""

    def __init__(self, out: Path) -> None:
        self._log = out / LOG
        self._done: dict[str, Mapping[str, Any]] = {}
        self._begun: set[str] = set()
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        for line in lines:
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
            print(f"== done before: taming {shlex.join(command)}", file=sys.stderr)
            return Done(before["values"], before["seconds"])
        print(f"== taming {shlex.join(command)}", file=sys.stderr, flush=True)
        resumed = name in self._begun
        self._write({"name": name, "command": command})
        self._begun.add(name)
        began = time.monotonic()
        code, text = _call([sys.executable, "-m", "taming_cli", *command, "--json"])
        if code not in (0, SKIPPED):
            stopped = "was interrupted" if code in (130, 143) else f"has failed (exit code {code})"
            raise FailedError(f"{name} {stopped}; start the script again to continue", code if code > 0 else 1)
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
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _call(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and standard output. A terminal sends Ctrl-C to the command too, which saves and ends; TERM is passed
    on."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:

        def forward(number: int, _: FrameType | None) -> None:
            if number == signal.SIGTERM:
                process.send_signal(number)

        former = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            text, _ = process.communicate()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
    return process.returncode, text
