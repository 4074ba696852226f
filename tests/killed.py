"""A command that kills itself with SIGKILL just before an operation on a file. Run by test_kill.py."""

import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from taming_cli.cli.app import main


class Before(NamedTuple):
    """Just before the operation `event` on `name` happens for the nth time."""

    name: str
    nth: int = 1
    event: str = "os.rename"


NEVER = Before("", 0)


def watch(moment: Before) -> None:
    """Kill this process when the moment comes."""
    met = 0

    def count(event: str, values: tuple[Any, ...]) -> None:
        nonlocal met
        if event == moment.event and Path(os.fsdecode(values[event in ("os.rename", "os.link")])).name == moment.name:
            met += 1
            if met == moment.nth:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    name, nth, event, *arguments = sys.argv[1:]
    watch(Before(name, int(nth), event))
    sys.exit(main(arguments))
