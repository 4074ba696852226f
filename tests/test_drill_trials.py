"""`scripts/drills/trials.py` and `watch.py`: each kind of loss is seen, and the trials after it are still made."""

import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from taming_cli.errors import BadFileError

DRILLS = Path(__file__).parents[1] / "scripts" / "drills"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A module of scripts/drills, which is no package."""
    monkeypatch.syspath_prepend(DRILLS)
    return importlib.import_module


def spend() -> str:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    return ""


TRIALS: dict[str, Callable[[], Any]] = {
    "": lambda: "",
    "a loss": lambda: "a loss",
    "ZeroDivisionError": lambda: 1 // 0,
    "SystemExit": lambda: sys.exit(3),
    "died of SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit code 7": lambda: os._exit(7),
    "no end within": lambda: time.sleep(60),
    " MiB more than the intact read": lambda: str(bytearray(100 * 2**20)[:0].decode()),
    "MemoryError": lambda: bytearray(2**40),
    "Traceback": lambda: os.write(2, b"Traceback of a thread\n") and "",
    "\\x1b[2J": lambda: os.write(2, b"\x1b[2J") and "",
    "0.2 s": spend,
}


def test_each_loss_is_seen_and_the_next_trial_is_made(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = module("trials")
    monkeypatch.setattr(trials, "HANG", 4.0)
    kinds = [kind for each in TRIALS for kind in (each, "")]
    limits = trials.Limits(seconds=0.1, memory=50 * 2**20)
    ended = list(trials.attempted(range(len(kinds)), lambda number: TRIALS[kinds[number]](), lambda: "", limits))
    assert [each.number for each in ended] == list(range(len(kinds)))
    for kind, each in zip(kinds, ended, strict=True):
        assert kind in each.loss if kind else not each.loss, (kind, each)


def test_trials_do_not_begin_if_the_intact_file_cannot_be_read(module: Callable[[str], Any]) -> None:
    trials = module("trials")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(trials.attempted(range(3), lambda number: "", lambda: str(1 // 0), trials.Limits(1, 2**28)))


def test_damage_is_of_each_kind_and_the_same_for_the_same_seed(module: Callable[[str], Any]) -> None:
    damages = module("damages")
    data = random.Random(0).randbytes(5000)
    made = [damages.damaged(data, random.Random(f"0 {number}")) for number in range(400)]
    assert made == [damages.damaged(data, random.Random(f"0 {number}")) for number in range(400)]
    assert {each.name.split()[0] for each in made} == {"flip", "cut", "zeros", "swap"}
    assert sum(each.data == data for each in made) < 40
    assert all(len(each.data) == len(data) for each in made if not each.name.startswith("cut"))
    assert {len(damages.damaged(b"a", random.Random(number)).data) for number in range(40)} <= {0, 1}


def test_growth_more_files_and_less_speed_are_losses(module: Callable[[str], Any]) -> None:
    soak, watch = module("soak"), module("watch")
    run = soak.Run("train", 10_000, lambda suffix: None)
    again = [watch.Look(20 + 1.5 * step / 50, step, 100, 5, 2) for step in range(0, 2350, 50)]

    def lost(**late: float) -> list[str]:
        looks, time_now = [], 0.0
        for step in range(0, 10_001, 50):
            now = late if step >= 9000 else {}
            time_now += now.get("seconds", 1.5)
            sizes = int(now.get("memory", 100)), int(now.get("files", 5)), int(now.get("threads", 2))
            looks.append(watch.Look(time_now, step, *sizes))
        return [outcome.trial for outcome in soak.judged(run, looks, again) if outcome.loss]

    assert lost() == lost(memory=104, seconds=1.53) == lost(memory=50, files=4, seconds=0.5) == []
    assert lost(memory=107) == ["memory"]
    assert lost(files=6) == ["open files"]
    assert lost(threads=3) == ["threads"]
    assert lost(seconds=1.6) == ["speed"]


def test_the_end_of_a_long_command_is_watched_in_turns_with_a_fresh_one(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watch = module("watch")
    works = """
import pathlib, sys, time
for number in range(100):
    pathlib.Path(sys.argv[1], str(number)).touch()
    time.sleep(0.01)
"""
    folders = [tmp_path / name for name in ("first", "again")]

    def begin(folder: Path, program: str = works) -> Any:
        folder.mkdir()
        monkeypatch.setattr(watch, "COMMAND", (sys.executable, "-c", program))
        return watch.Command([folder], lambda: len(list(folder.iterdir())), tmp_path / "log")

    looks, again = watch.watched(begin(folders[0]), lambda: begin(folders[1]), 100)
    assert looks[-1].done > 90
    assert all(a.done <= b.done and a.time <= b.time for each in (looks, again) for a, b in pairwise(each))
    assert len(list(folders[0].iterdir())) == 100
    assert 10 <= again[-1].done <= len(list(folders[1].iterdir())) < 100  # ended before its end
    with pytest.raises(RuntimeError, match="no room"):
        watch.watched(begin(tmp_path / "failed", "raise SystemExit('no room')"), lambda: begin(tmp_path / "none"), 100)


@pytest.mark.parametrize(
    "harm", ["os.system", "outside was changed", "was read", "does not name the file", "shows another"]
)
def test_a_reader_that_obeys_a_hostile_file_is_found_out(
    harm: str, module: Callable[[str], Any], tmp_path: Path
) -> None:
    hostile, attacks = module("hostile"), module("attacks")
    outside, path = tmp_path / "outside", tmp_path / "evil.ckpt"
    outside.mkdir()

    def read(path: Path) -> str:
        if harm == "os.system":
            os.system("true")
        elif harm == "outside was changed":
            os.mkdir(outside / "made")  # noqa: PTH102
        elif harm == "was read":
            return "content"
        raise BadFileError({"does not name the file": "damaged", "shows another": attacks.SECRET}.get(harm, str(path)))

    (outcome,) = hostile.row_of("row", [attacks.Attack("evil", path, read)], outside)
    assert harm in outcome.loss


def test_calls_of_all_threads_are_recorded_also_those_that_were_interrupted(
    module: Callable[[str], Any], tmp_path: Path
) -> None:
    recorded = module("recorded")
    name = "".join(f"\\x{byte:02x}" for byte in b"a")
    log = tmp_path / "log"
    log.write_text(
        f'7  openat(AT_FDCWD, "{name}", O_WRONLY|O_CREAT, 0666) = 3\n'
        '7  write(3, "\\x31\\x32" <unfinished ...>\n'
        "9  fsync(5) = 0\n"
        "7  <... write resumed>, 2) = 2\n"
        '8  pwrite64(3, "\\x33", 1, 2) = 1\n'
        "7  clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0} => {parent_tid=[8]}, 88) = 8\n"
        "7  clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD) = 9\n"
        "7  fsync(3 <unfinished ...>\n"
        "7  <... fsync resumed>)              = 0\n"
        "7  fsync(3) = -1 EIO (Input/output error)\n"
    )
    calls = list(recorded._Reader("7", tmp_path).calls(log))
    assert [(call.kind, call.offset, call.data) for call in calls] == [
        ("create", 0, b""),
        ("write", 0, b"12"),
        ("write", 2, b"3"),
        ("sync", 0, b""),
    ]
