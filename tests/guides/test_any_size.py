"""The guide any-size."""

from pathlib import Path

from PIL import Image

from tests.guides.reading import GUIDES, blocks, follow


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def test_every_command_runs(begun: Path) -> None:
    Path("photos").symlink_to("demo/images")
    before = len(list(Path("runs/sample").iterdir()))
    follow(blocks(GUIDES / "any-size.md"))
    runs = sorted(Path("runs/sample").iterdir())[before:]
    assert [size_of(next(run.glob("0*.png"))) for run in runs] == [
        (96, 64),
        (96, 96),
        (128, 96),
        (32, 32),
        (32, 32),
        (64, 64),
        (64, 64),
    ]
    assert [len(list(run.glob("0*.png"))) for run in runs] == [1, 1, 1, 4, 4, 1, 1]
