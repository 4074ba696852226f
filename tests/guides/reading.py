"""README and the guides as tests read them: every block of shell and Python, run as written and in order.

Length and size are set by environment variables (`SHORT`) and in some lines by other numbers (`SMALLER`). Programs that
start processes on other machines have stand-ins that start them here.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import taming_cli
from taming_cli.cli.app import main
from tests.processes import free_port, python

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDES = Path(taming_cli.__file__).parent / "guides"
SHORT = {
    "STEPS": "2",
    "BATCH_SIZE": "2",
    "SIZE": "32x32",
    "CH_MULT": "1,1,1,1",
    "HELD": "0.2",
    "VAL_IMAGES": "2",
    "VAL_WINDOWS": "2",
    "SAMPLES": "1",
    "PERCEPTUAL": "none",
    "DISC_WEIGHT": "0",
    "DEVICE": "cpu",
    "PRESET": "tiny",
}
SMALLER = {
    "demo-data demo": "demo-data demo -n 24 --size 96x96 --workers 0",
    "--n-layer 24 --n-embd 1024 --n-head 16": "--n-layer 2 --n-embd 64 --n-head 2",
    "1280x832": "96x64",
    "640x416": "96x64",
    "512x256": "128x96",
    "512x512": "64x64",
    'class_name="lake"': 'class_name="lake", size="64x48"',
    "--accept-rate 0.05": "--accept-rate 0.5",
    "--nproc 8": "--nproc 2",
    "--nnodes 2 --nproc-per-node 8": "--nnodes 1 --nproc-per-node 2",
    "--batch-size 512": "--batch-size 2",
    "-n 50000": "-n 8",
    "--preset dvae": "--preset dvae --ch 16",
    "--preset vq-vae-2": "--preset vq-vae-2 --ch 16",
    "--level": "--n-layer 1 --n-embd 32 --res-blocks 1 --level",
    "{1..64}": "1 2",
    "{}/64": "{}/2",
}
STAND_INS = {
    "taming": 'exec {python} -m taming_cli "$@"',
    "torchrun": 'exec {python} -m torch.distributed.run "$@"',
    # Slurm: two tasks on this machine, each with its variables.
    "srun": """while [ "${{1#-}}" != "$1" ]; do shift; done
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=127.0.0.1 SLURM_JOB_ID={port}
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!""",
    # GNU parallel: the command once for each word after `:::`, here.
    "parallel": """line=()
while [ "$1" != ::: ]; do case $1 in -S | --wd) shift 2 ;; *) line+=("$1"); shift ;; esac; done
shift; for each; do "${{line[@]//\\{{\\}}/$each}}" || exit; done""",
}
LANGUAGES = ("sh", "python")
"""Of the blocks. All of them are run, so there is no other."""


class Block(NamedTuple):
    """A fenced block, and the heading that it stands under."""

    heading: str
    language: str
    code: str

    def commands(self) -> list[str]:
        """The commands of a block of shell, continued lines joined."""
        lines = re.sub(r"\\\n\s*", "", self.code).splitlines()
        return [line for line in lines if line and not line.startswith("#")]


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, heading = [], ""
    for title, language, code in re.findall(
        r"^#{1,6} ([^\n]+)$|^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        heading = title or heading
        if not title:
            found.append(Block(heading, language, code))
    return found


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `folder` the working directory, with stand-ins on PATH and SHORT in the environment."""
    monkeypatch.chdir(folder)
    for name, value in SHORT.items():
        monkeypatch.setenv(f"TAMING_{name}", value)
    monkeypatch.setenv("TAMING_CACHE_DIR", str(folder / "cache"))
    port = free_port()
    for name, script in STAND_INS.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + script.format(python=shlex.quote(python()), port=port) + "\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def follow(found: list[Block]) -> dict[str, Any]:
    """Run these blocks; the names that those of Python define."""
    names: dict[str, Any] = {}
    for block in found:
        if block.language == "python":
            exec(_smaller(block.code), names)
        else:
            for line in block.commands():
                run(line)
    return names


def run(line: str) -> None:
    """Run a command as written, but for SMALLER; one of `taming` alone in this process."""
    line = _smaller(line)
    with pytest.MonkeyPatch.context() as here:
        if "--complete" in line:
            here.delenv("TAMING_SIZE")  # it is smaller than the picture
        if "--preset palette" in line:
            here.delenv("TAMING_CH_MULT")  # of several levels
        words = shlex.split(line, comments=True)
        if words[0] == "taming" and not re.search(r"[|$*]|--nproc", line):
            assert main(words[1:]) == 0, line
            return
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def _smaller(text: str) -> str:
    for written, smaller in SMALLER.items():
        text = text.replace(written, smaller)
    return text.replace("HOST:29500", f"127.0.0.1:{free_port()}")


def pages() -> Iterator[Path]:
    """README and all guides."""
    yield README
    yield from sorted(GUIDES.glob("*.md"))
