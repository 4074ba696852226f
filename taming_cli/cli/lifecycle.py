"""The context of every command: the log of `-v`, a clean end on Ctrl-C and TERM, and the limit on picture sizes."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from types import FrameType
from typing import Any

import taming_cli
from taming_cli.cli.console import LOG
from taming_cli.cli.formatting import printable
from taming_cli.cli.settings import log_settings
from taming_cli.errors import Interrupted, UsageError

PACKAGES = ("torch", "torchvision", "numpy", "typer")
"""Packages whose versions `-v` prints."""
LIMIT = "TAMING_MAX_PIXELS"
"""The variable that `data.formats` reads."""
NO_SETTINGS = ("json", "quiet", "debug", "verbose")
_ORIGINS = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "config file", "DEFAULT": "default"}
"""From typer's name of a value's origin to the name in a run's config.json."""


@contextmanager
def running(values: Mapping[str, Any], settled: Set[str]) -> Iterator[None]:
    """The context in which a command runs. `values` are those of all its options, with typer's `context`; options named
    in `settled` belong to config classes and are logged by `Settings`. UsageError for `-q` with `-v`."""
    verbose, quiet = bool(values["verbose"]), bool(values.get("quiet"))
    if verbose and quiet:
        raise UsageError("-q prints less and -v prints more; leave one of them out")
    logs = _logs(values)
    level = logging.ERROR if quiet or not logs else logging.INFO if verbose else logging.WARNING
    with stoppable(), logged(level), limited(values.get("max_pixels")):
        if level == logging.INFO:
            LOG.info("%s", _versions())
            _log_options(values, settled)
        yield


class _Terminated(KeyboardInterrupt):
    """TERM was received."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn Ctrl-C and TERM into `Interrupted`, unless something else handles them, so that everything is cleaned up.

    Where a launcher controls several processes, TERM ends the process at once, as without this context.
    """
    from taming_cli.runtime.processes import several

    own, main = os.getpid(), threading.current_thread() is threading.main_thread()
    handled = main and not several() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)  # in a process forked from this one
        os.kill(os.getpid(), number)

    if handled:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("stopped", 143 if isinstance(error, _Terminated) else 130) from None
    finally:
        if handled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def logged(level: int) -> Iterator[None]:
    """Write log records of this level and above to stderr; at INFO, then also the time and memory used."""
    handler, began, before = _StderrHandler(), time.monotonic(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(level)
    try:
        yield
    finally:
        if level == logging.INFO:
            LOG.info("%s", _used(time.monotonic() - began))
        LOG.setLevel(before)
        LOG.removeHandler(handler)


@contextmanager
def limited(pixels: int | None) -> Iterator[None]:
    """Limit the pixels of a picture here and, by an environment variable, in processes started within the context."""
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


def _log_options(values: Mapping[str, Any], settled: Set[str]) -> None:
    """Log the values of the options that belong to no config class, with their origins."""
    settings = {}
    for name, value in values.items():
        source = values["context"].get_parameter_source(name)
        if name not in settled and name not in NO_SETTINGS and source is not None:
            settings[name] = (value, _ORIGINS[source.name])
    log_settings(settings)


def _used(seconds: float) -> str:
    if "torch" not in sys.modules:
        return f"took {seconds:.1f} s"
    from taming_cli.runtime.device import peak_memory

    return f"took {seconds:.1f} s and at most {peak_memory() / 2**30:.2f} GiB of memory"


class _StderrHandler(logging.Handler):
    """Writes to the current sys.stderr, so that lines appear above a progress bar. Drops repeated lines."""

    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        line = printable(record.getMessage())
        if line != self.last:
            sys.stderr.write(f"{line}\n")
        self.last = line


def _logs(values: Mapping[str, Any]) -> bool:
    """Whether this process logs: the first of several does, and one that only launches others does not."""
    from taming_cli.runtime.processes import several, started

    if several():
        try:
            return started().first
        except UsageError:  # a command that needs the other processes raises this itself, later
            return True
    return values.get("nproc", 1) == 1 or bool(values.get("dry_run"))


def _versions() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = [f"taming {taming_cli.__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"{', '.join(versions)}, on {platform.platform()}"
