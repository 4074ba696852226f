"""The guide several-gpus."""

import shutil
from pathlib import Path

import pytest

from tests.guides.reading import GUIDES, blocks, run


def test_every_command_runs(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("taming demo-data photos -n 8 --size 48x48")
    shutil.copy(made / "runs/train-vqgan/001/checkpoints/best.safetensors", "vq.safetensors")
    shutil.copy(made / "runs/train-prior/001/checkpoints/best.safetensors", "prior.safetensors")
    shutil.copy(made / "demo.h5", "tokens.h5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    for block in blocks(GUIDES / "several-gpus.md"):
        for line in block.commands():
            if "merge" in line:
                for part in (2, 3, 4):
                    run(f"taming tokenize photos --ckpt vq.safetensors -o tokens.h5 --shard {part}/4")
            run(line)
    assert {path.name for path in Path("many").glob("*.png")} == {"000000.png", "000004.png", "grid.png"}
    assert len(list(Path("runs/train-vqgan").iterdir())) == 1
    assert Path("runs/large/report.html").exists()
    assert {path.name for path in Path().glob("tokens.*-of-2.h5")} == {"tokens.1-of-2.h5", "tokens.2-of-2.h5"}
