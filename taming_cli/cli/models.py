"""Which model a command uses where `--ckpt` is left out, said on stderr. Imported inside command bodies only."""

import os
from pathlib import Path

from taming_cli.cli.console import Output
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import read_header
from taming_cli.runtime.model_files import BUILTIN, MODELS, named
from taming_cli.runtime.model_files import path as builtin_path
from taming_cli.runtime.run.folder import newest


def codec_path(output: Output, given: Path | None) -> Path:
    """The codec to use: `--ckpt`, else $TAMING_CKPT, else the newest train-vqgan run's best checkpoint, else the
    built-in one."""
    return _choose(output, given, "train-vqgan", "codec")


def prior_path(output: Output, given: Path | None) -> Path:
    """The prior to use: `--ckpt`, else $TAMING_CKPT, else the newest train-prior run's best checkpoint, else the
    built-in one."""
    return _choose(output, given, "train-prior", "prior")


def _choose(output: Output, given: Path | None, command: str, what: str) -> Path:
    if given is not None:
        return named(given)
    if variable := os.environ.get("TAMING_CKPT"):
        output.note(f"{what}: {variable} ($TAMING_CKPT)")
        return named(Path(variable))
    found = next(filter(None, (newest(command, name, suitable=_of_pictures) for name in MODELS)), None)
    if found is not None:
        output.note(f"{what}: {found} (the newest run)")
        return found
    if not builtin_path().is_file():
        raise UsageError(f"no {what} is named and no run of {command} is under runs; give --ckpt, or train one first")
    output.note(f"{what}: {BUILTIN}, of drawn landscapes; no run of {command} is under runs, and --ckpt names none")
    return builtin_path()


def _of_pictures(path: Path) -> bool:
    """Whether a model file is whole, and not a codec of condition maps."""
    try:
        return bool(read_header(path).about.get("content", "image") == "image")
    except BadFileError:
        return False
