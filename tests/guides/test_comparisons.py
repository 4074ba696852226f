"""The guide comparisons."""

import json
from pathlib import Path

from tests.guides.reading import GUIDES, blocks, follow


def test_every_command_runs(begun: Path) -> None:
    follow(blocks(GUIDES / "comparisons.md"))
    networks = {
        name: json.loads((Path("runs/train-vqgan") / name / "config.json").read_text())["config"]["codec"]["network"]
        for name in ("vq-vae", "dvae", "vq-vae-2")
    }
    assert networks == {"vq-vae": "vqgan", "dvae": "dvae", "vq-vae-2": "vq-vae-2"}
    assert len(list(max(Path("runs/sample").iterdir()).glob("0*.png"))) == 4
