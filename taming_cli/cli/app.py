"""The executable: runs a command, and turns errors into lines and exit codes."""

import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import taming_cli
from taming_cli.cli.console import discard, flushed
from taming_cli.cli.formatting import printable
from taming_cli.cli.program import Program
from taming_cli.errors import OfOneProcessError, TamingError

_FIRST_PRINTS = 5.0
"""Seconds that another process waits for the first one to print an error that all raise."""


app = typer.Typer(
    name="taming",
    cls=Program,
    help="Train a discrete image codec and a transformer prior, and sample new images of any size.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A setting can also be given as an environment variable, such as TAMING_BATCH_SIZE for --batch-size, or in "
    "a file with --config. A flag takes precedence.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"taming {taming_cli.__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(f"{context.get_usage()}\ntaming: name a command; `taming --help` lists them\n")
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 usage, 3 some inputs skipped, 130 interrupted, 143
    terminated."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        result: Any = app(arguments, standalone_mode=False, prog_name="taming")
        with flushed():
            pass
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer exits like this when a reader is gone
            return _closed_pipe()
        raise
    except TyperException as error:
        return _fail(_usage_message(error), getattr(error, "exit_code", 2))
    except OfOneProcessError as error:
        return _after_the_first(error, debug)
    except TamingError as error:
        return _fail(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except MemoryError:
        return _fail("out of memory; use a smaller --batch-size or --size; see: taming guide troubleshooting", 1, debug)
    except OSError as error:
        return _fail(_file_message(error), 1, debug)
    except Exception as error:
        if debug:
            raise
        kind, text = type(error).__name__, " ".join(str(error).split())
        if kind == "OutOfMemoryError" or "can't allocate memory" in text:  # torch's, for a device and for the CPU
            return _fail("out of memory; use a smaller --batch-size or --size; see: taming guide troubleshooting", 1)
        return _fail(f"{kind}: {text} (a defect of taming: run again with --debug and report the traceback)", 1)


def _fail(message: str, code: int, debug: bool = False) -> int:
    """Print an error on one line, and return the exit code."""
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"taming: {printable(' '.join(message.split()))}\n")
    return code


def _after_the_first(error: OfOneProcessError, debug: bool) -> int:
    """Give the first process time to print an error that all raise; its launcher then ends the others. If this process
    is still alive afterwards, the error is its own."""
    if error.stopped:
        return 0
    time.sleep(_FIRST_PRINTS)
    return error.exit_code if error.reported else _fail(str(error), error.exit_code, debug)


def _usage_message(error: TyperException) -> str:
    """typer's message, with a remedy."""
    context, format_message = getattr(error, "ctx", None), getattr(error, "format_message", None)
    text = str(format_message() if format_message else error).removesuffix(".").replace("Value error, ", "")
    if context is None or "?" in text or "(Possible" in text:  # typer names the nearest valid one
        return text
    return f"{text}; see `{context.command_path} --help`"


def _file_message(error: OSError) -> str:
    """The message of a failed read or write, with the free space if the disk is full."""
    from taming_cli.data.disk import FULL, no_handle, refusal_message

    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if error.errno in FULL:
        return refusal_message(Path(named or "file"), error)
    if no_handle(error):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        place = f"{named}: " if named else ""
        return f"{place}{error.strerror}: a process may open {most} here; raise the limit (ulimit -n)"
    return f"{named or 'file'}: {error.strerror or error}"


def _closed_pipe() -> int:
    """End quietly after the reader has closed its end, as in `| head`: that is no error, and nothing may report one at
    exit."""
    discard()
    return 0
