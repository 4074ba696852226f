"""The guide settings."""

import pkgutil
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.guides.reading import GUIDES, ROOT, blocks, follow

PAGE = GUIDES / "settings.md"
COMPLETIONS = "Completions"


def test_every_command_and_the_python_run(begun: Path) -> None:
    names = follow([block for block in blocks(PAGE) if block.heading != COMPLETIONS])
    assert names["painted"].images.shape == (1, 3, 64, 96)
    assert names["whole"].images.shape == (2, 3, 96, 96)
    assert names["x_rec"].shape == names["x"].shape


def test_the_completions_are_where_the_shells_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    follow([block for block in blocks(PAGE) if block.heading == COMPLETIONS])
    bash = (tmp_path / ".bashrc").read_text() + "complete -p taming"
    done = subprocess.run(["bash", "--norc", "-c", bash], check=True, capture_output=True, text=True)
    assert "taming" in done.stdout
    assert f"fpath=('{ROOT}/completions' $fpath)" in (tmp_path / ".zshrc").read_text()
    assert (tmp_path / ".config/fish/completions/taming.fish").samefile(ROOT / "completions" / "taming.fish")


def test_every_function_is_there() -> None:
    named = re.findall(r"`(taming_cli[.\w]+)`", PAGE.read_text())
    assert len(named) >= 7
    for name in named:
        named_thing = pkgutil.resolve_name(name)
        assert callable(named_thing) or isinstance(named_thing, ModuleType)
    from taming_cli.codec.reconstruct import decode, reconstruct

    assert callable(decode)
    assert callable(reconstruct)
