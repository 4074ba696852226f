"""The guide any-size."""

from pathlib import Path

from PIL import Image

from tests.guides.reading import GUIDES, blocks, follow


def test_every_command_runs(begun: Path) -> None:
    Path("photos").symlink_to("demo/images")
    before = len(list(Path("runs/sample").iterdir()))
    follow(blocks(GUIDES / "any-size.md"))
    runs = sorted(Path("runs/sample").iterdir())[before:]
    sizes = [Image.open(run / "000000.png").size for run in (*runs[:3], runs[4])]
    assert sizes == [(96, 64), (96, 96), (128, 96), (64, 64)]
    assert len(list(runs[3].glob("0*.png"))) == 4
