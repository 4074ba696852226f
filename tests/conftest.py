"""What every test may use."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import stop_server

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Ctrl-C is tested too, and whoever starts the tests in the background may have it ignored."""


LONGEST = (
    "test_own_pictures",
    "test_distributed",
    "test_conditions",
    "test_several_gpus",
    "test_evaluate",
    "test_evaluate_all",
    "test_command_line",
    "test_cli",
)
"""Files that take minutes. They are begun first, so that none is left to one process while the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """It starts when a test needs it, and ends with the run."""
    yield
    stop_server()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pictures and golden models that lies beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real pictures and golden models is not here")
    return folder
