"""The guide published-models."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.guides.reading import GUIDES, ROOT, blocks, follow


def test_every_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEPS", "BATCH_SIZE", "SIZE"):
        monkeypatch.delenv(f"TAMING_{name}")
    golden = ROOT / "tests" / "golden"
    for theirs, name in (("vqgan", "vqgan"), ("class_prior", "prior")):
        torch.save({"state_dict": load_file(golden / f"{theirs}.safetensors")}, f"{name}.ckpt")
        shutil.copy(golden / f"{theirs}.yaml", f"{name}.yaml")
    follow(blocks(GUIDES / "published-models.md"))
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 5
