"""A training's folder: its name, its lock, what it records, and when it may be gone on with."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from taming_cli.config.fields import check, option
from taming_cli.errors import BadFileError, TamingError, UsageError
from taming_cli.runtime.run.folder import (
    Place,
    Run,
    find_run,
    inspect_run,
    newest,
    next_folder,
    open_run,
    read_settings,
    runs_below,
)
from taming_cli.runtime.run.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides a result, and what does not."""

    width: int = option(8, "Width.")
    steps: int = option(5, "How long.", live=True)

    def __post_init__(self) -> None:
        check(self)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Run]:
    def run(place: Place, settings: Settings | None = None, **changes: Any) -> Run:
        options: dict[str, Any] = {"inputs": ["/in"], "origins": {"width": "flag"}, **changes}
        command = options.pop("command", "train-x")
        return open_run(command, replace(place, root=tmp_path / "runs"), {"train": settings or Settings()}, **options)

    return run


def test_names_count_up_by_themselves(opened: Callable[..., Run], tmp_path: Path) -> None:
    for name in ("001", "002"):
        with opened(Place()) as run:
            assert run.folder == tmp_path / "runs" / "train-x" / name
    (tmp_path / "runs" / "train-x" / "041").mkdir()
    (tmp_path / "runs" / "train-x" / "named").mkdir()
    assert next_folder(tmp_path / "runs" / "train-x").name == "042"


def test_a_new_run_records_config_origins_inputs_and_environment(opened: Callable[..., Run]) -> None:
    with opened(Place(name="a")) as run:
        settings = read_settings(run.folder)
        environment = json.loads((run.folder / "env.json").read_text())
        assert run.checkpoints.is_dir()
        assert run.samples.is_dir()
    assert settings["command"] == "train-x"
    assert settings["inputs"] == ["/in"]
    assert settings["config"] == {"train": {"width": 8, "steps": 5}}
    assert settings["origins"] == {"width": "flag"}
    assert {"taming", "python", "torch", "platform", "command_line"} <= set(environment)


def test_the_same_settings_go_on_and_others_are_refused(opened: Callable[..., Run]) -> None:
    with opened(Place(name="a")) as run:
        folder = run.folder
        run.trainer.write_bytes(b"saved")
    with opened(Place(name="a"), Settings(steps=9)) as run:  # how long is not what
        assert run.folder == folder
    assert read_settings(folder)["config"]["train"]["steps"] == 9
    with pytest.raises(UsageError, match=r"has width 8, not 9; .* another --name"):
        opened(Place(name="a"), Settings(width=9))
    with pytest.raises(UsageError, match="made from /in;"):
        opened(Place(name="a"), inputs=["/other"])
    with pytest.raises(UsageError, match="is a run of train-x"):
        opened(Place(out=folder), command="train-y")
    assert read_settings(folder)["config"]["train"]["width"] == 8


def test_a_run_that_was_never_saved_is_begun_again_with_any_settings(
    opened: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    with opened(Place(name="a")) as run:
        run.log(kind="train", step=10)
        run.log(kind="validation", step=10)  # a kill while it was being saved
        (run.samples / "step_0000010.png").touch()
    with opened(Place(name="a"), Settings(width=9), inputs=["/other"]) as run:
        assert list(run.samples.iterdir()) == []
    assert read_settings(run.folder)["config"]["train"]["width"] == 9
    assert read_settings(run.folder)["inputs"] == ["/other"]
    assert f"the run in {run.folder} was never saved: it starts over" in caplog.text


def test_a_run_that_was_saved_between_two_looks_is_refused(opened: Callable[..., Run], tmp_path: Path) -> None:
    with opened(Place(name="a")) as run:
        pass
    found = inspect_run("train-x", Place(out=run.folder), {"train": Settings()}, inputs=["/in"])
    run.trainer.write_bytes(b"saved by another process")
    with pytest.raises(UsageError, match="another process has just saved"):
        opened(Place(out=run.folder), existing=found)
    with opened(Place(out=run.folder)):  # and nothing stays locked
        pass


def test_a_folder_that_holds_something_else_is_left_alone(opened: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a run"):
        opened(Place(out=tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    with opened(Place(out=tmp_path / "empty")) as run:
        assert run.folder == tmp_path / "empty"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up"])
def test_a_name_is_not_a_path(name: str, opened: Callable[..., Run], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out"):
        opened(Place(name=name))
    assert not (tmp_path / "runs").exists()


def test_a_second_process_is_kept_out_and_let_in_afterwards(opened: Callable[..., Run]) -> None:
    with opened(Place(name="a")), pytest.raises(UsageError, match="another process"):
        opened(Place(name="a"))
    with opened(Place(name="a")):
        pass


def test_what_a_killed_process_left_half_written_is_removed(opened: Callable[..., Run]) -> None:
    with opened(Place(name="a")) as run:
        leftovers = [run.folder / ".trainer.pt.99.tmp", run.checkpoints / ".last.safetensors.99.tmp"]
        for path in leftovers:
            path.write_text("half")
        (run.folder / "notes.tmp").write_text("mine")
    with opened(Place(name="a")) as run:
        assert not any(path.exists() for path in leftovers)
        assert (run.folder / "notes.tmp").exists()


def test_resume_takes_the_named_run_or_the_newest_one(opened: Callable[..., Run], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for age, name in ((10, "b"), (20, "a")):
        opened(Place(name=name)).__exit__()
        os.utime(root / "train-x" / name / "config.json", (time.time() - age,) * 2)
    assert find_run("train-x", Place(resume=True, root=root)) == root / "train-x" / "b"
    assert find_run("train-x", Place(resume=True, name="a", root=root)) == root / "train-x" / "a"
    assert find_run("train-x", Place(resume=True, out=root / "train-x" / "a")) == root / "train-x" / "a"


def test_resume_without_a_run_reports_it(tmp_path: Path) -> None:
    for place in (Place(root=tmp_path), Place(root=tmp_path, name="a"), Place(out=tmp_path)):
        with pytest.raises(UsageError, match="nothing to resume"):
            find_run("train-x", replace(place, resume=True))


def test_the_log_is_read_back_and_rewound(opened: Callable[..., Run]) -> None:
    with opened(Place(name="a")) as run:
        assert read_metrics(run.metrics) == ([], 0)
        for step in (10, 20, 30):
            run.log(kind="train", step=step, l1=0.5)
        with run.metrics.open("a") as stream:
            stream.write('{"kind": "train", "st')  # a kill in the middle of a line
        assert [line["step"] for line in read_metrics(run.metrics).lines] == [10, 20, 30]
        run.rewind_log(20)
        assert [line["step"] for line in read_metrics(run.metrics).lines] == [10, 20]
        run.log(kind="train", step=30, l1=0.25)
        assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [10, 20, 30]


def test_newest_is_the_most_recently_written_checkpoint_of_a_command_wherever_its_run_lies(tmp_path: Path) -> None:
    assert newest("train-x", "best.safetensors", tmp_path) is None
    runs = {
        "other": ("train-y", 0),
        "deep/one/a": ("train-x", 5),
        "train-x/b": ("train-x", 50),
        "a/b/c/d/e": ("train-x", 0),
    }
    for name, (command, age) in runs.items():
        path = tmp_path / name / "checkpoints" / "best.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
        (tmp_path / name / "config.json").write_text(json.dumps({"command": command, "inputs": [], "config": {}}))
    (tmp_path / "train-x" / "config.json").write_text("broken")
    assert newest("train-x", "best.safetensors", tmp_path) == tmp_path / "deep/one/a/checkpoints/best.safetensors"
    assert set(runs_below(tmp_path, "train-x")) == {tmp_path / "deep/one/a", tmp_path / "train-x/b"}


def test_runs_below_a_folder_are_those_that_can_be_read(tmp_path: Path) -> None:
    for name in ("b", "a", "a/inner", ".hidden", "a/.hidden/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text('{"command": "train-x", "inputs": [], "config": {}}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metrics.jsonl").touch()
    (tmp_path / "file").touch()
    unreadable: dict[str, str] = {}
    runs = list(runs_below(tmp_path, unreadable=unreadable))
    assert runs == [tmp_path / "a", tmp_path / "a" / "inner", tmp_path / "b"]
    assert list(unreadable) == [str(tmp_path / "broken")]
    assert list(runs_below(tmp_path, "train-y")) == list(runs_below(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"command": "x"}'])
def test_a_damaged_config_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadFileError, match=r"config\.json"):
        read_settings(tmp_path)


@pytest.mark.parametrize("command", ["train-vqgan", "train-prior"])
def test_a_folder_of_something_else_is_no_run_that_was_never_saved(command: str, tmp_path: Path) -> None:
    """A model of another program has a config.json too, and a run of the other training is not this one's."""
    folder = tmp_path / "model"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "step_1.png").write_bytes(b"x")
    other = {"command": "train-prior" if command == "train-vqgan" else "train-vqgan", "inputs": [], "config": {}}
    foreign = (json.dumps({"_class_name": "VQModel"}), "is not a run's config")
    for text, words in (foreign, (json.dumps(other), "is a run of")):
        (folder / "config.json").write_text(text)
        with pytest.raises(TamingError, match=words):
            open_run(command, Place(out=folder), {}, inputs=[], origins={})
        assert (folder / "config.json").read_text() == text
        assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "samples", "step_1.png"]
