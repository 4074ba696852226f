"""The guide own-pictures."""

from pathlib import Path

from tests.guides.conftest import own_pictures
from tests.guides.reading import follow


def test_every_command_runs(begun: Path) -> None:
    first, rest = own_pictures()
    assert len(first) == 6
    assert len(list(Path("out").rglob("*.png"))) == 24
    assert len(list(Path("decoded").rglob("*.png"))) == 2 * 24
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 17
    assert len(list(Path("runs/sample/002").glob("*.png"))) == 5
    follow(rest)
    assert Path("listed.h5").exists()
    assert sorted(path.name for path in Path("runs/train-vqgan").iterdir()) == [
        "001",
        "002",
        "decoder",
        "drawn",
        "perturbed",
    ]
    assert sorted(path.name for path in Path("runs/train-prior").iterdir()) == ["001", "002"]
    for name in ("003", "004"):
        assert len(list(Path(f"runs/sample/{name}").glob("*.png"))) == 5
