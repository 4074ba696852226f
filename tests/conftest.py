"""What every test may use."""

import signal
from pathlib import Path

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Ctrl-C is tested too, and whoever starts the tests in the background may have it ignored."""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pictures and golden models that lies beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real pictures and golden models is not here")
    return folder
