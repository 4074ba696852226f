"""The executable: registers the commands, and is the one place where errors become lines and exit codes."""

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

import taming_cli
from taming_cli.cli import annotate, codec, doctor, evaluate, exchange, files, guide, prior, report, sample, weights
from taming_cli.cli.console import sent, silence
from taming_cli.cli.lifecycle import surrounded
from taming_cli.errors import OfOneProcessError, TamingError

_FIRST_SPEAKS = 5.0
"""Seconds that it has for that."""


class _SwitchesTakeNothing:
    """Of a command: its page shows no type beside a switch, nor beside --help."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)  # type: ignore[misc]
        for each in params:
            if getattr(each, "is_flag", False):
                each.metavar = ""
        return params


class _Command(_SwitchesTakeNothing, TyperCommand):
    """A command."""


class _Group(_SwitchesTakeNothing, TyperGroup):
    """A group of commands."""


app = typer.Typer(
    name="taming",
    cls=_Group,
    help="Train a discrete image codec and a transformer prior, and sample new images of any size.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each setting may also stand in the environment, as TAMING_BATCH_SIZE for --batch-size, or in the file that "
    "--config names; a flag comes first.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"taming {taming_cli.__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(f"{context.get_usage()}\ntaming: name a command; `taming --help` lists them\n")
        raise typer.Exit(2)


for _register in (
    codec.register,
    prior.register,
    sample.register,
    annotate.register,
    evaluate.register,
    exchange.register,
    files.register,
    report.register,
    weights.register,
    doctor.register,
    guide.register,
):
    _register(app)

for _each in app.registered_groups:
    _each.cls = _Group
for _group in (app, *(each.typer_instance for each in app.registered_groups)):
    for _command in _group.registered_commands if _group else ():
        assert _command.callback is not None
        _command.cls = _Command
        _command.callback = surrounded(_command.callback)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 usage, 3 some inputs skipped, 130, 143."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        result: Any = app(arguments, standalone_mode=False, prog_name="taming")
        with sent():
            pass
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        return _closed_pipe()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer leaves so where a reader has gone
            return _closed_pipe()
        raise
    except TyperException as error:
        return _say(_message(error), getattr(error, "exit_code", 2))
    except OfOneProcessError as error:
        return _behind_the_first(error, debug)
    except TamingError as error:
        return _say(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped", 130)
    except MemoryError:
        return _say("out of memory; use a smaller --batch-size or --size; see: taming guide troubleshooting", 1, debug)
    except OSError as error:
        return _say(_of_a_file(error), 1, debug)
    except Exception as error:
        if debug:
            raise
        kind, text = type(error).__name__, " ".join(str(error).split())
        if kind == "OutOfMemoryError" or "can't allocate memory" in text:  # torch's for devices, and for this machine
            return _say("out of memory; use a smaller --batch-size or --size; see: taming guide troubleshooting", 1)
        return _say(f"{kind}: {text} (a defect of taming: run again with --debug and report what it shows)", 1)


def _behind_the_first(error: OfOneProcessError, debug: bool) -> int:
    """The first process speaks for all where it has the same to say; the launcher then ends the others. Where it has
    not, this one does."""
    if error.stopped:
        return 0
    time.sleep(_FIRST_SPEAKS)
    return error.exit_code if error.told else _say(str(error), error.exit_code, debug)


def _of_a_file(error: OSError) -> str:
    """What an error of reading or writing is, in one line; with what is free where the disk is full."""
    from taming_cli.data.disk import FULL, refusal_message

    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if error.errno in FULL:
        return refusal_message(Path(named or "file"), error)
    return f"{named or 'file'}: {error.strerror or error}"


def _closed_pipe() -> int:
    """Nobody reads any more, as with `| head`: that is no error, and nothing may complain of it at exit."""
    silence()
    return 0


def _message(error: TyperException) -> str:
    """What typer says, with what to do about it."""
    context, format_message = getattr(error, "ctx", None), getattr(error, "format_message", None)
    text = str(format_message() if format_message else error).removesuffix(".").replace("Value error, ", "")
    if context is None or "?" in text or "(Possible" in text:  # it names the nearest valid one
        return text
    return f"{text}; `{context.command_path} --help` says what is there"


def _say(message: str, code: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"taming: {' '.join(message.split())}\n")
    return code
