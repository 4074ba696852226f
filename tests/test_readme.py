"""README's commands, each run as written. Only length and size are set, by environment variables, and in some lines the
numbers in `SMALLER`; programs that start processes elsewhere are stood in for by ones that start them here."""

import os
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
from taming_cli.scenes.folder import write
from tests.processes import free_port

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
SMALLER = {
    "demo-data demo": "demo-data demo -n 48",
    "1280x832": "96x64",
    "640x416": "96x64",
    "512x256": "320x256",
    "--nproc 8": "--nproc 2",
    "--nnodes 2 --nproc-per-node 8": "--nnodes 1 --nproc-per-node 2",
    "--batch-size 512": "--batch-size 2",
    "-n 50000": "-n 8",
    "HOST:29500": "127.0.0.1:{port}",
    "{1..64}": "1 2",
    "{}/64": "{}/2",
}
OVERVIEW = "taming"
SETTINGS_OF_A_JOB = "#SBATCH"
STAND_INS = {
    "taming": 'exec {python} -m taming_cli "$@"',
    "torchrun": 'exec {python} -m torch.distributed.run "$@"',
    # Slurm: two tasks on this machine, with what the real one tells each.
    "srun": """while [ "${{1#-}}" != "$1" ]; do shift; done
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=127.0.0.1 SLURM_JOB_ID={port}
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!""",
    # GNU parallel: the command once for each word after `:::`, here.
    "parallel": """line=()
while [ "$1" != ::: ]; do case $1 in -S | --wd) shift 2 ;; *) line+=("$1"); shift ;; esac; done
shift; for each; do "${{line[@]//\\{{\\}}/$each}}" || exit; done""",
}


def blocks(title: str) -> list[str]:
    """The fenced blocks of a section, or of what stands before the first, without their language."""
    (section,) = re.findall(rf"^##? {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```\w*\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def commands(*sections: str) -> list[str]:
    """Their commands, in order."""
    lines = [line for title in sections for block in blocks(title) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in SHORT.items():
        monkeypatch.setenv(f"TAMING_{name}", value)
    monkeypatch.setenv("TAMING_CACHE_DIR", str(tmp_path / "cache"))
    port = free_port()
    for name, script in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/bash\n" + script.format(python=shlex.quote(sys.executable), port=port) + "\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def run(line: str) -> None:
    """Run a command as written, but for SMALLER; one of `taming` alone in this process."""
    for written, smaller in SMALLER.items():
        line = line.replace(written, smaller.replace("{port}", str(free_port())))
    words = shlex.split(line, comments=True)
    if words[0] != "taming" or re.search(r"[|$*]|--nproc", line):
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    else:
        assert main(words[1:]) == 0, line


def test_every_block_is_run_by_a_test_of_this_file() -> None:
    here = Path(__file__).read_text()
    titles = [OVERVIEW, *re.findall(r"^## (.*)$", README, re.MULTILINE)]
    with_commands = [title for title in titles if blocks(title)]
    assert len(with_commands) > 10
    for title in with_commands:
        assert f'"{title}"' in here or title in ("Measured", OVERVIEW), title
    assert [line for line in commands("Measured") if not line.startswith(("$", "psnr"))] == []


def test_at_once_and_on_ones_own_pictures(folder: Path) -> None:
    write(Path("photos"), count=6, size=Size(48, 48), seed=0)
    venv, install, *lines = commands(OVERVIEW)
    assert venv == "python3 -m venv .venv && source .venv/bin/activate"  # as scripts/environment does
    assert install.split("#")[0].strip() == "pip install ."
    for line in lines:
        run(line)
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 5
    assert len(list(Path("runs/sample/002").glob("*.png"))) == 2
    assert len(list(Path("runs/sample/003").glob("*.png"))) == 17


@pytest.mark.usefixtures("folder")
def test_the_steps_and_the_python(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in commands("Your pictures, step by step"):
        run(line)
    assert len(list(Path("runs/sample/002").glob("*.png"))) == 5
    assert len(list(Path("out").rglob("*.png"))) == 48
    for line in commands("Files", "Fine-tuning", "Conditions", "Large pictures, completion, rejection"):
        with monkeypatch.context() as here:
            if "--complete" in line:
                here.delenv("TAMING_SIZE")  # which is smaller than the picture
            run(line)
    assert len(list(Path("runs/sample").glob("*/000000.png"))) == 7
    for line in commands("Measuring"):
        run(line)
    assert {path.name for path in Path("measured").iterdir()} == {"best.png", "reconstruction.json", "worst.png"}
    made: dict[str, Any] = {}
    for python in blocks("In Python"):
        for written, smaller in SMALLER.items():
            python = python.replace(written, smaller)  # noqa: PLW2901
        exec(python, made)
    assert made["painted"].images.shape == (1, 3, 64, 96)
    assert made["whole"].images.shape == (2, 3, 256, 256)
    assert made["x_rec"].shape == made["x"].shape


def test_several_processes_and_machines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("photos"), count=8, size=Size(48, 48), seed=0)
    for line in ("train-vqgan photos/images --out c", "tokenize photos/images -o tokens.h5 --ckpt vq.safetensors"):
        assert main(line.split()) == 0
        shutil.copy("c/checkpoints/best.safetensors", "vq.safetensors")
    assert main(["train-prior", "tokens.h5", "--out", "p", "--condition-dropout", "0.1"]) == 0
    shutil.copy("p/checkpoints/best.safetensors", "prior.safetensors")
    shutil.copy("tokens.h5", "whole.h5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    for line in commands("Several GPUs, several machines"):
        if "merge" in line:
            for part in (2, 3, 4):
                run(f"taming tokenize photos --ckpt vq.safetensors -o tokens.h5 --shard {part}/4")
        run(line)
    assert {path.name for path in Path("many").glob("*.png")} == {"000000.png", "000004.png", "grid.png"}
    assert len(list(Path("runs/train-vqgan").iterdir())) == 1
    assert Path("runs/large/report.html").exists()
    assert {path.name for path in Path().glob("tokens.*-of-2.h5")} == {"tokens.1-of-2.h5", "tokens.2-of-2.h5"}


@pytest.mark.usefixtures("folder")
def test_published_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEPS", "BATCH_SIZE", "SIZE"):
        monkeypatch.delenv(f"TAMING_{name}")
    golden = Path(__file__).parent / "golden"
    for theirs, name in (("vqgan", "vqgan"), ("class_prior", "prior")):
        torch.save({"state_dict": load_file(golden / f"{theirs}.safetensors")}, f"{name}.ckpt")
        shutil.copy(golden / f"{theirs}.yaml", f"{name}.yaml")
    for line in commands("Published models"):
        run(line)
    assert len(list(Path("runs/sample/001").glob("*.png"))) == 5


@pytest.mark.usefixtures("folder")
def test_the_set_up_is_two_scripts_and_the_doctor_is_content() -> None:
    scripts, looks = blocks("Set up")
    assert scripts.splitlines() == ["scripts/demo [PICTURES]", "scripts/test"]
    for line in scripts.splitlines():
        assert (ROOT / line.split()[0]).stat().st_mode & 0o111
    for line in looks.splitlines():
        run(line)


def test_the_completions_are_where_the_shells_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    for line in commands("Completions"):
        run(line)
    bash = (tmp_path / ".bashrc").read_text() + "complete -p taming"
    done = subprocess.run(["bash", "--norc", "-c", bash], check=True, capture_output=True, text=True)
    assert "taming" in done.stdout
    assert f"fpath=('{ROOT}/completions' $fpath)" in (tmp_path / ".zshrc").read_text()
    assert (tmp_path / ".config/fish/completions/taming.fish").samefile(ROOT / "completions" / "taming.fish")


def test_every_picture_and_every_link_within_the_page_is_there() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", README, re.M)
    }
    for link in re.findall(r"\]\(#([^)]+)\)", README):
        assert link in anchors, link
