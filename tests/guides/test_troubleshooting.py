"""The guide troubleshooting."""

from pathlib import Path

from tests.guides.reading import GUIDES, blocks, follow


def test_every_command_runs(folder: Path) -> None:
    follow(blocks(GUIDES / "troubleshooting.md"))
