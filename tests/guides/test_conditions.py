"""The guide conditions."""

from pathlib import Path

from tests.guides.reading import GUIDES, blocks, follow


def test_every_command_runs(begun: Path) -> None:
    before = len(list(Path("runs/sample").iterdir()))
    follow(blocks(GUIDES / "conditions.md"))
    assert len(list(Path("runs/sample").iterdir())) == before + 5
    assert len(list(Path("edges").rglob("*.png"))) == 24
