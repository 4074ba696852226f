"""Which of how many processes this is, what incomplete variables get, and what a process says that waits in vain."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.errors import UsageError
from taming_cli.runtime import assembly
from taming_cli.runtime.device import pick_device
from taming_cli.runtime.distributed import world
from taming_cli.runtime.processes import Started, first_host, several, started
from tests.processes import free_port

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[04-05]",
    "SLURM_JOB_ID": "123456",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in TORCHRUN:
            monkeypatch.delenv(name)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.fromarray(np.full((32, 32, 3), 50 * number, np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, Started()),
        (TORCHRUN, Started(1, 4, 1, "127.0.0.1", 29500, "torchrun")),
        ({**TORCHRUN, "LOCAL_RANK": ""}, Started(1, 4, None, "127.0.0.1", 29500, "torchrun")),
        ({"WORLD_SIZE": "1"}, Started()),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, Started()),
        (dict.fromkeys(TORCHRUN, ""), Started()),
        ({"MASTER_ADDR": "node", "MASTER_PORT": "1"}, Started()),
        ({"LOCAL_RANK": "2"}, Started()),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "4", "PMI_RANK": "2"}, Started()),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "5"}, Started()),  # a batch script, or salloc
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Started()),  # one task, as of a notebook
        (SLURM, Started(3, 4, 1, "gpu04", 23456, "srun")),
        ({**SLURM, "WORLD_SIZE": "4", "MASTER_PORT": "77"}, Started(3, 4, 1, "gpu04", 77, "srun")),
        ({**SLURM, "WORLD_SIZE": "1"}, Started(3, 4, 1, "gpu04", 23456, "srun")),
        ({**SLURM, "WORLD_SIZE": "1", "RANK": "0"}, Started()),  # torchrun in each task
        (
            {**TORCHRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
            Started(1, 4, 1, "127.0.0.1", 29500, "torchrun"),
        ),
    ],
)
def test_which_process_this_is(variables: dict[str, str], found: Started) -> None:
    assert started(variables) == found


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("node", "node"),
        ("a1,a2", "a1"),
        ("node[03-07,11],other", "node03"),
        ("n[1,3]-ib", "n1-ib"),
        ("gpu,n[1-3]", "gpu"),
    ],
)
def test_slurm_lists_hosts(listed: str, first: str) -> None:
    assert first_host(listed) == first


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "4"}, ["WORLD_SIZE is 4", "RANK, MASTER_ADDR and MASTER_PORT are not set", "unset WORLD_SIZE"]),
        ({**TORCHRUN, "MASTER_PORT": " "}, ["MASTER_PORT is not set", "start the processes with torchrun"]),
        ({"RANK": "2"}, ["RANK is 2", "WORLD_SIZE, MASTER_ADDR and MASTER_PORT are not set", "unset RANK"]),
        ({**TORCHRUN, "RANK": "4"}, ["RANK is 4", "WORLD_SIZE is 4"]),
        ({**TORCHRUN, "RANK": "-1"}, ["RANK is '-1'"]),
        ({"WORLD_SIZE": "0"}, ["WORLD_SIZE is '0'"]),
        ({"WORLD_SIZE": "four"}, ["WORLD_SIZE is 'four'"]),
        ({**TORCHRUN, "MASTER_PORT": "295000"}, ["MASTER_PORT is '295000'", "65535"]),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ["SLURM_PROCID is not set", "unset SLURM_STEP_NUM_TASKS"]),
        ({**SLURM, "SLURM_PROCID": "4"}, ["SLURM_PROCID is 4"]),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}, ["SLURM_STEP_NODELIST", "MASTER_ADDR"]),
        ({**SLURM, **TORCHRUN}, ["RANK is 1", "task 3 of srun"]),  # RANK=$SLURM_PROCID, set once for all
    ],
)
def test_an_incomplete_set_of_variables_is_refused(variables: dict[str, str], words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        started(variables)
    assert all(word in str(refused.value) for word in words), refused.value
    assert several(variables) or "SLURM" not in str(variables)


@pytest.mark.parametrize(
    "line",
    [
        ["sample", "-n", "2", "-o", "out"],
        ["reconstruct", "pictures", "out"],
        ["decode", "t.h5", "out"],
        ["tokenize", "pictures", "-o", "out"],
        ["annotate", "edges", "pictures", "out"],
        ["eval", "recon", "builtin", "pictures", "--perceptual", "none"],
        ["train-vqgan", "pictures", "--out", "out"],
        ["train-vqgan", "pictures", "--out", "out", "--nproc", "2"],
        ["train-vqgan", "pictures", "--out", "out", "--nproc", "2", "--dry-run"],
        ["train-prior", "t.h5", "--out", "out"],
    ],
    ids=" ".join,
)
def test_a_leftover_world_size_stops_every_command(
    line: list[str], pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: pytest.fail("processes started"))
    assert main(line) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "RANK, MASTER_ADDR and MASTER_PORT are not set" in said
    assert "unset WORLD_SIZE" in said
    assert not Path("out").exists()


def test_a_command_that_one_process_does_minds_no_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["presets", "ls", "-v"]) == 0
    assert capsys.readouterr().err.startswith("taming ")


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM], ids=["torchrun", "srun"])
def test_nproc_beside_processes_that_are_started_is_refused(
    variables: dict[str, str], pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, variables)
    monkeypatch.setattr(assembly, "ASSEMBLY", 0.0)
    assert main(["train-vqgan", "pictures", "--out", "out", "--nproc", "4"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "--nproc is 4, but this is already process" in said
    assert "unset" in said


def test_a_part_by_number_is_named(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, {**TORCHRUN, "WORLD_SIZE": "2"})
    for line in (
        ["annotate", "edges", "pictures", "edges"],
        ["reconstruct", "pictures", "again", "--ckpt", "builtin", "--device", "cpu"],
        ["tokenize", "pictures", "-o", "t.h5", "--ckpt", "builtin", "--size", "32x32", "--device", "cpu"],
    ):
        assert main(line) == 0
        said = capsys.readouterr()
        assert "part 2 of 2 of the work, by RANK, WORLD_SIZE of torchrun" in said.err
        assert "part 2 of 2" in said.out
    assert main(["annotate", "edges", "pictures", "json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["part"] == "2/2"
    assert len(list(Path("edges").glob("*.png"))) == 2


def test_nothing_is_written_into_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, SLURM)
    before = dict(os.environ)
    from taming_cli.cli.console import Output
    from taming_cli.cli.processes import own_part

    assert str(own_part(Output(json=False, quiet=True), None)) == "4/4"
    assert dict(os.environ) == before


def test_a_process_takes_the_gpu_of_its_number_on_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    set_all(monkeypatch, SLURM)
    before = dict(os.environ)
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert dict(os.environ) == before
    set_all(monkeypatch, {**TORCHRUN, "SLURM_STEP_NUM_TASKS": "", "LOCAL_RANK": ""})
    with pytest.raises(UsageError, match="torch finds 2 CUDA devices, but LOCAL_RANK"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda") == torch.device("cuda", 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_waiting_process_reports_for_whom_and_for_how_long(
    rank: int, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    set_all(monkeypatch, {**TORCHRUN, "RANK": str(rank), "MASTER_PORT": str(port)})
    monkeypatch.setattr(assembly, "NOTICE", 0.0)
    monkeypatch.setattr(assembly, "ASSEMBLY", 0.3)
    assert main(["eval", "recon", "builtin", "pictures", "--perceptual", "none", "-q", "--device", "cpu"]) == 1
    notice, refusal = capsys.readouterr().err.splitlines()
    who = "process 1, 2 and 3" if rank == 0 else "process 0 (Connection refused)"
    assert notice.startswith(f"process {rank} of 4 is waiting for {who} at 127.0.0.1:{port}, for at most 0.")
    assert f"has waited 0.3 seconds for {who} at 127.0.0.1:{port}" in refusal
    assert "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT" in refusal


def test_waiting_is_reported_within_ten_seconds_and_ends_within_minutes() -> None:
    assert assembly.NOTICE < 10
    assert assembly.ASSEMBLY <= 15 * 60


def test_a_port_in_use_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        set_all(monkeypatch, {**TORCHRUN, "RANK": "0", "MASTER_PORT": str(port)})
        with pytest.raises(UsageError, match=f"cannot listen on port {port}"), world():
            pass


def test_processes_find_each_other_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with ThreadPoolExecutor() as pool:  # the one that serves the others comes last
        stores = [
            pool.submit(assembly.assembled, Started(rank, 3, rank, "127.0.0.1", port, "srun")) for rank in (2, 1, 0)
        ]
        stores[0].result().set("said", "by 2")
        assert stores[2].result().get("said") == b"by 2"
    assert capsys.readouterr().err == ""
