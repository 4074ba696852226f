"""What the guides begin with."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.guides.reading import GUIDES, Block, blocks, follow, prepare

BEGUN_WITH = "Which model a command uses"
"""The heading of own-pictures before which all is made that other guides begin with."""


def own_pictures() -> tuple[list[Block], list[Block]]:
    """The blocks of own-pictures that make what other guides begin with, and the rest."""
    first, rest = list[Block](), list[Block]()
    titles = [line.lstrip("# ") for line in (GUIDES / "own-pictures.md").read_text().splitlines() if line[:1] == "#"]
    for block in blocks(GUIDES / "own-pictures.md"):
        (first if titles.index(block.heading) < titles.index(BEGUN_WITH) else rest).append(block)
    return first, rest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first part of own-pictures in it. One process makes it for all of a run; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / "own-pictures", base / "own-pictures.done"
    with (base / "own-pictures.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with pytest.MonkeyPatch.context() as here:
                prepare(folder, here)
                follow(own_pictures()[0])
            done.touch()
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    prepare(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def begun(made: Path, folder: Path) -> Path:
    """A working directory with a copy of what the first part of own-pictures makes."""
    shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bin"))
    return folder
