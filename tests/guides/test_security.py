"""The guide security."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.guides.reading import GUIDES, ROOT, blocks, follow


def test_every_command_runs(begun: Path) -> None:
    torch.save({"state_dict": load_file(ROOT / "tests" / "golden" / "vqgan.safetensors")}, "vqgan.ckpt")
    follow(blocks(GUIDES / "security.md"))
