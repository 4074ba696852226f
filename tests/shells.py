"""Real shells, asked what they offer at the end of a line, and what they make of that line.

Each has a PATH that leads nowhere once it has started: what completes must not run a program.
"""

import os
import re
import select
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

PATIENCE = 20.0
"""Seconds that a shell may take to answer."""


COMPLAINT = re.compile(r"bash: |\S:\d+: ")
"""How bash and zsh say what is wrong with a script."""


class Answer(NamedTuple):
    """What is offered at a line's end, without quotes; and the arguments of the program where the line is entered after
    one TAB (None: not known)."""

    offered: list[str]
    arguments: list[str] | None


class Shell(ABC):
    """A shell that has read the completions in a folder, and stands in another."""

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, completions: Path, scratch: Path, folder: Path) -> None: ...

    @abstractmethod
    def ask(self, line: str) -> Answer:
        """What it offers at the end of a line, and what comes of that."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


class _AtTerminal(Shell):
    """An interactive shell with a terminal of its own, where a line, TAB and Return are typed. Its completions write
    down what they offer, and its command `taming` its arguments. `start` is what it reads first."""

    start: ClassVar[str]

    def __init__(self, completions: Path, scratch: Path, folder: Path) -> None:
        self.answers = scratch
        self._screen = b""
        self._terminal, theirs = os.openpty()
        start = self.start.replace("COMPLETIONS", str(completions)).replace("ANSWERS", str(scratch))
        self._process = subprocess.Popen(
            self.command(start),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(scratch), "ZDOTDIR": str(scratch)},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._wait_for("ready")

    @abstractmethod
    def command(self, start: str) -> Sequence[str]:
        """What starts it so that it reads `start`."""

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def ask(self, line: str) -> Answer:
        for file in self.answers.glob("*.txt"):
            file.unlink()
        self._screen = b""
        os.write(self._terminal, f"{line}\t\r".encode())
        arguments = self._wait_for("arguments")
        assert not COMPLAINT.search(self._screen.decode()), self._screen.decode()
        offered = self.answers / "offered.txt"
        lines = _lines(offered.read_text()) if offered.exists() else []
        return Answer([re.sub(r"\\(.)", r"\1", line).rstrip(" ") for line in lines], _lines(arguments))

    def _wait_for(self, what: str) -> str:
        """The text that the shell leaves under this name, once it is whole."""
        until = time.monotonic() + PATIENCE
        file = self.answers / f"{what}.txt"
        while time.monotonic() < until:
            if select.select([self._terminal], [], [], 0.005)[0]:
                self._screen += os.read(self._terminal, 65536)
            if file.exists() and (text := file.read_text()).endswith("end\n"):
                return text.removesuffix("end\n")
        os.write(self._terminal, b"\x03")
        raise AssertionError(f"{self.name} gave no {what}; its screen ends: {self._screen[-2000:].decode()!r}")


class Bash(_AtTerminal):
    """bash with the file sourced, and no bash-completion."""

    name = "bash"
    start = """
PS1=
bind 'set bell-style none'
bind 'set enable-bracketed-paste off'
bind 'set completion-query-items 0'
bind 'set page-completions off'
source 'COMPLETIONS/taming.bash'
offer() {
    _taming "$@"
    printf '%s\\n' "${COMPREPLY[@]}" >>'ANSWERS/offered.txt'
}
eval "$(complete -p taming | sed 's/-F _taming/-F offer/')"
taming() {
    printf '%s\\n' "$@" end >'ANSWERS/arguments.txt'
}
PATH=/nowhere
echo end >'ANSWERS/ready.txt'
"""

    def command(self, start: str) -> Sequence[str]:
        file = self.answers / "bashrc"
        file.write_text(start)
        return ("bash", "--noprofile", "--rcfile", str(file), "-i")


class PlainBash(Bash):
    """bash that, like 3.2, has no `compopt` to say what the replies are."""

    start = "enable -n compopt\n" + Bash.start


class Zsh(_AtTerminal):
    """zsh with the folder in its `fpath`, and `compinit`."""

    name = "zsh"
    start = """
PS1=
setopt no_auto_list no_beep
fpath=('COMPLETIONS' $fpath)
autoload -Uz compinit
compinit -u -D
compadd() {
    local -a offered
    if [[ ${argv[1,(i)(-|--)]} != *-(O|A|D)* ]]; then
        builtin compadd -A offered "$@"
        print -rl -- $offered >>'ANSWERS/offered.txt'
    fi
    builtin compadd "$@"
}
taming() {
    print -rl -- "$@" end >'ANSWERS/arguments.txt'
}
PATH=/nowhere
print end >'ANSWERS/ready.txt'
"""

    def command(self, start: str) -> Sequence[str]:
        (self.answers / ".zshrc").write_text(start)
        return ("zsh", "-d", "-i")


class Fish(Shell):
    """fish, which says itself what it would offer."""

    name = "fish"

    def __init__(self, completions: Path, scratch: Path, folder: Path) -> None:
        self._file, self._scratch, self._folder = completions / "taming.fish", scratch, folder

    def close(self) -> None:
        """Nothing runs between two questions."""

    def ask(self, line: str) -> Answer:
        code = 'source $argv[1]; set PATH /nowhere; set -e argv[1]; complete -C "$argv"'
        done = subprocess.run(
            ["fish", "--no-config", "-c", code, str(self._file), line],
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self._scratch)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return Answer([each.partition("\t")[0] for each in _lines(done.stdout)], None)


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


SHELLS: dict[str, type[Shell]] = {"bash": Bash, "bash without compopt": PlainBash, "zsh": Zsh, "fish": Fish}
