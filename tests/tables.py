"""The modules of `scripts/tables`, which are no package, and their commands within the process of a test."""

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from taming_cli.cli.app import main as taming

TABLES = Path(__file__).resolve().parents[1] / "scripts" / "tables"
SMALL = {
    "STEPS": "1",
    "BATCH_SIZE": "2",
    "CH": "8",
    "DISC_NDF": "8",
    "VAL_IMAGES": "2",
    "PERCEPTUAL": "none",
    "DISC_WEIGHT": "0",
    "DEVICE": "cpu",
    "WORKERS": "0",
}


def load(*names: str) -> list[ModuleType]:
    """Import modules by their names."""
    sys.path.insert(0, str(TABLES))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.pop(0)


def make_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this the working directory, and trainings one step long."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TAMING_CACHE_DIR", str(folder / "cache"))
    for name, value in SMALL.items():
        monkeypatch.setenv(f"TAMING_{name}", value)


def run_here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run commands in this process, which saves seconds for each. -> Those that ran."""
    ran = []

    def call(command: Sequence[str], log: Path | None = None) -> tuple[int, str]:
        assert list(command[:3]) == [sys.executable, "-m", "taming_cli"]
        ran.append(list(command[3:]))
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = taming(list(command[3:]))
        return code, printed.getvalue()

    set_call(monkeypatch, call)
    return ran


def refuse_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, a command that is run fails the test."""

    def refuse(command: Sequence[str], log: Path | None = None) -> tuple[int, str]:
        pytest.fail(f"ran {command}")

    set_call(monkeypatch, refuse)


def set_call(monkeypatch: pytest.MonkeyPatch, call: Callable[..., tuple[int, str]]) -> None:
    """Replace what runs a command: `call(command, log)` -> exit code and standard output."""
    monkeypatch.setattr(load("commands")[0], "_call", call)
