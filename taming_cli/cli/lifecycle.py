"""What surrounds every command: `-v`, with which it says what it works with, what it chooses on the way and what all
took; and Ctrl-C and TERM, which end it with a line and leave the terminal as it was."""

import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

import taming_cli
from taming_cli.cli import options as o
from taming_cli.cli.console import HEARD, printable
from taming_cli.errors import Interrupted, UsageError

PACKAGES = ("torch", "torchvision", "numpy", "typer")
"""Whose versions are said."""
CONTEXT = "context"
"""typer's own argument, which a command may ask for too."""
LIMIT = "TAMING_MAX_PIXELS"
"""What `data.formats` reads."""
NO_SETTINGS = ("json", "quiet", "debug", "verbose")
_ORIGINS = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "config file", "DEFAULT": "default"}
"""How typer calls where a value came from, and how the run's config.json does."""


def surrounded(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command, with `-v` besides."""
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
    ]
    more = [inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=o.Verbose)]
    asks = any(parameter.name == CONTEXT for parameter in own)
    if not asks:
        more.append(inspect.Parameter(CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    if getattr(command, "reads_pictures", False):
        more.append(
            inspect.Parameter("max_pixels", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=o.MaxPixels)
        )
    settled: frozenset[str] = getattr(command, "settled", frozenset())

    def wrapper(*, verbose: bool, **arguments: Any) -> Any:
        context = arguments[CONTEXT] if asks else arguments.pop(CONTEXT)
        quiet = bool(arguments.get("quiet"))
        if verbose and quiet:
            raise UsageError("-q says less and -v says more; leave one of them out")
        verbose, quiet = verbose and _speaks(arguments), quiet or not _speaks(arguments)
        with stoppable(), heard(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING):
            if verbose:
                _say_what_is_used(context, {name: arguments[name] for name in arguments if name not in settled})
            with limited(arguments.pop("max_pixels", None)):
                return command(**arguments)

    wrapper.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
    wrapper.settled = settled  # type: ignore[attr-defined]
    return wrapper


class _Terminated(KeyboardInterrupt):
    """TERM has come."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C and TERM, where nobody else takes them, become the error `Interrupted`, so that all is cleaned up.

    Of several processes those who started them end each: there TERM ends at once, as without this context.
    """
    from taming_cli.runtime.processes import several

    own, main = os.getpid(), threading.current_thread() is threading.main_thread()
    taken = main and not several() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)  # a process that was forked from this one
        os.kill(os.getpid(), number)

    if taken:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("stopped", 143 if isinstance(error, _Terminated) else 130) from None
    finally:
        if taken:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def heard(level: int) -> Iterator[None]:
    """What the rooms say at this level is written to stderr meanwhile; where that is much, then also what all took."""
    voice, began, before = _Voice(), time.monotonic(), HEARD.level
    HEARD.addHandler(voice)
    HEARD.setLevel(level)
    try:
        yield
    finally:
        if level == logging.INFO:
            HEARD.info("%s", _taken(time.monotonic() - began))
        HEARD.setLevel(before)
        HEARD.removeHandler(voice)


@contextmanager
def limited(pixels: int | None) -> Iterator[None]:
    """Meanwhile pictures may have so many pixels, in the processes too that are started: the environment says it."""
    before = os.environ.get(LIMIT)
    if pixels is not None:
        os.environ[LIMIT] = str(pixels)
    try:
        yield
    finally:
        if before is not None:
            os.environ[LIMIT] = before
        elif pixels is not None:
            del os.environ[LIMIT]


def _say_what_is_used(context: typer.Context, arguments: Mapping[str, Any]) -> None:
    HEARD.info("%s", _versions())
    settings = {}
    for name, value in arguments.items():
        source = context.get_parameter_source(name)
        if name not in NO_SETTINGS and source is not None:
            settings[name] = (value, _ORIGINS[source.name])
    o.say_settings(settings)


def _taken(seconds: float) -> str:
    if "torch" not in sys.modules:
        return f"took {seconds:.1f} s"
    from taming_cli.runtime.device import peak_memory

    return f"took {seconds:.1f} s and at most {peak_memory() / 2**30:.2f} GiB of memory"


class _Voice(logging.Handler):
    """Writes to what stderr is at the moment: above a bar, while there is one. Nothing is said twice in a row."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(record.getMessage())
        if line != self.last:
            sys.stderr.write(f"{line}\n")
        self.last = line


def _speaks(arguments: Mapping[str, Any]) -> bool:
    """Of several processes the first alone; and what starts them has nothing to say itself."""
    from taming_cli.runtime.processes import several, started

    if several():
        try:
            return started().first
        except UsageError:  # a command that is not done by several processes goes on; any other refuses it by itself
            return True
    return arguments.get("nproc", 1) == 1 or bool(arguments.get("dry_run"))


def _versions() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    said = [f"taming {taming_cli.__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{', '.join(said)}, on {platform.platform()}"
