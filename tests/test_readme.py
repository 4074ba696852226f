"""README's commands, run as written: only their length and size are set, by environment variables."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from taming_cli.cli.app import main
from taming_cli.config.size import Size
from taming_cli.data import scenes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SHORT = {
    "STEPS": "2",
    "BATCH_SIZE": "2",
    "SIZE": "32x32",
    "CH_MULT": "1,1,1,1",
    "VAL_IMAGES": "2",
    "VAL_WINDOWS": "2",
    "SAMPLES": "1",
    "PERCEPTUAL": "none",
    "DISC_WEIGHT": "0",
    "DEVICE": "cpu",
    "PRESET": "tiny",
}


def blocks(title: str) -> list[str]:
    """The indented or fenced blocks of a section, without their language."""
    (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```\w*\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line and not line.startswith("#")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in SHORT.items():
        monkeypatch.setenv(f"TAMING_{name}", value)
    monkeypatch.setenv("TAMING_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def run(line: str) -> None:
    words = shlex.split(line, comments=True)
    if "|" in words:
        taming = f"{shlex.quote(sys.executable)} -m taming_cli"
        subprocess.run(["bash", "-c", f'taming() {{ {taming} "$@"; }}; set -o pipefail; {line}'], check=True)
    else:
        assert words.pop(0) == "taming"
        assert main(words) == 0, line


def test_the_overview(folder: Path) -> None:
    scenes.write(Path("photos"), count=6, size=Size(48, 48), seed=0)
    overview = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[0]
    for line in commands(overview):
        run(line)
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 17


def test_the_steps_and_the_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = blocks("Your pictures, step by step")
    for line in (line for block in steps for line in commands(block)):
        run(line)
    assert len(list(Path("runs/sample/002").glob("*.png"))) == 5
    assert len(list(Path("out").rglob("*.png"))) == 200
    for line in (line for block in blocks("Conditions, any size") for line in commands(block)):
        with monkeypatch.context() as here:
            if "--complete" in line:
                here.delenv("TAMING_SIZE")  # which is smaller than the picture
            run(line.replace("1280x832", "96x64").replace("512x256", "320x256"))
    assert len(list(Path("runs/sample").glob("*/000000.png"))) == 5
    (measuring,) = blocks("Measuring")
    for line in commands(measuring):
        run(line)
    assert {path.name for path in Path("measured").iterdir()} == {"best.png", "reconstruction.json", "worst.png"}
    (python,) = blocks("In Python")
    made: dict[str, Any] = {}
    exec(python, made)
    assert made["samples"].images.shape == (4, 3, 32, 32)


@pytest.mark.usefixtures("folder")
def test_published_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEPS", "BATCH_SIZE", "SIZE"):
        monkeypatch.delenv(f"TAMING_{name}")
    golden = Path(__file__).parent / "golden"
    for theirs, name in (("vqgan", "vqgan"), ("class_prior", "prior")):
        torch.save({"state_dict": load_file(golden / f"{theirs}.safetensors")}, f"{name}.ckpt")
        shutil.copy(golden / f"{theirs}.yaml", f"{name}.yaml")
    (block,) = blocks("Published models")
    for line in commands(block):
        run(line)
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 5


def test_the_set_up_is_two_scripts() -> None:
    (block,) = blocks("Set up")
    assert commands(block) == ["scripts/demo [PICTURES]", "scripts/test"]
    for line in commands(block):
        assert (ROOT / line.split()[0]).stat().st_mode & 0o111
