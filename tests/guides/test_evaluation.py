"""The guide evaluation."""

from pathlib import Path

from tests.guides.reading import GUIDES, blocks, follow


def test_every_command_runs(begun: Path) -> None:
    follow(blocks(GUIDES / "evaluation.md"))
    assert {path.name for path in Path("measured").iterdir()} == {"best.png", "reconstruction.json", "worst.png"}
    assert Path("runs/train-vqgan/001/eval.json").exists()
    assert Path("compared.html").exists()
