"""README: its commands and its Python run as written, and what it points to is there."""

import re
from pathlib import Path

from tests.guides.reading import README, ROOT, blocks, follow, run

TEXT = README.read_text()


def test_every_command_and_the_python_run(folder: Path) -> None:
    run("taming demo-data photos -n 6 --size 48x48")
    first, *rest = blocks(README)
    venv, install, *lines = first.commands()
    assert venv == "python3 -m venv .venv && source .venv/bin/activate"  # as scripts/environment does
    assert install.split("#")[0].strip() == "pip install ."
    names = follow([first._replace(code="\n".join(lines)), *rest])
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 5
    assert len(list(Path("runs/sample/002").glob("*.png"))) == 2
    assert len(list(Path("runs/sample/003").glob("*.png"))) == 17
    assert names["painted"].images.shape == (1, 3, 64, 96)
    assert names["whole"].images.shape == (2, 3, 96, 96)


def test_it_is_short() -> None:
    assert len(TEXT) < 11_000


def test_the_scripts_that_it_names_can_be_run() -> None:
    named = set(re.findall(r"`scripts/(\w+)", TEXT))
    assert {"demo", "test", "check"} <= named
    for name in named:
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111, name
