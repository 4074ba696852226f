"""Lists of paths wherever pictures are taken: what a `.txt` may look like, and trainings that go on without it."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taming_cli.codec.setup import held_out
from taming_cli.data.contents import Pictures
from taming_cli.data.sources import list_items
from taming_cli.errors import UsageError
from taming_cli.runtime.checkpoint import read_header
from taming_cli.sampling import conditions
from tests.test_cli import CODEC, Said, taming


def pictures(root: Path, *names: str) -> list[Path]:
    rng = np.random.default_rng(len(names))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(root / name)
    return [root / name for name in names]


def listed(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [item.name for item in list_items([path]).items]


# --- what a list may look like -----------------------------------------------------------------------------------


def test_a_list_names_pictures_from_the_working_directory_or_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pictures(tmp_path, "here/cat/1.png", "there/dog/2.png", "there/cat/3.png")
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "there" / "list.txt"
    path.write_text(f"cat/1.png\ndog/2.png\n{tmp_path}/there/cat/3.png\n")
    found = list_items([path]).items
    assert [item.name for item in found] == ["here/cat/1.png", "there/dog/2.png", "there/cat/3.png"]
    assert [item.path for item in found] == [tmp_path / item.name for item in found]
    assert listed(path, "dog/2.png\ncat/3.png\n") == ["dog/2.png", "cat/3.png"]
    assert [item.label for item in list_items([path]).items] == ["dog", "cat"]


@pytest.mark.parametrize(
    "content",
    [
        "a.png\r\n\r\nb c.png\r\n",
        "\ufeff# two pictures\n  a.png\n\n'b c.png'",
        '"a.png"\n"b c.png" \n',
        "a.png\nb c.png\n".encode("utf-16"),
        "a.png\nb c.png\n".encode("utf-8-sig"),
        b"a.png\0b c.png\0",
    ],
)
def test_lists_of_other_systems_are_read(tmp_path: Path, content: str | bytes):
    pictures(tmp_path, "a.png", "b c.png")
    assert listed(tmp_path / "LIST.TXT", content) == ["a.png", "b c.png"]


def test_names_that_look_like_comments_or_quotes_are_names_first(tmp_path: Path):
    pictures(tmp_path, "#1.png", "'2'.png", " 3.png", "é.png")
    content = b"#1.png\n'2'.png\n 3.png\n#4.png\n" + os.fsencode("é.png")
    assert listed(tmp_path / "l.txt", content) == ["#1.png", "'2'.png", " 3.png", "é.png"]


def test_missing_files_are_told_once_and_skipped_where_the_others_are(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    pictures(tmp_path, "cat/1.png", "dog/2.png")
    names = listed(tmp_path / "l.txt", "cat/1.png\ncat/gone.png\ndog/2.png\ncat/gone too.png\n")
    assert names == ["cat/1.png", "cat/gone.png", "dog/2.png", "cat/gone too.png"]
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == f"{tmp_path / 'l.txt'}: 2 of the 4 files are missing; the first is cat/gone.png"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"Dear all,\nthese are the pictures of our holidays.\n",
            "none of its 2 lines names an existing file.*'Dear all,'",
        ),
        (bytes(range(256)) * 9, "none of its \\d+ lines names"),
        (b"", "it is empty"),
        (b"\n# a.png\n", "it is empty"),
        (b"x" * 9000, "'x{60}'"),
        (b"a folder\nprose", "none of its \\d+ lines names"),
        (b"a folder\n", "names no picture"),
    ],
)
def test_a_text_that_is_no_list_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "a folder").mkdir()
    with pytest.raises(UsageError, match=words) as caught:
        listed(tmp_path / "notes.txt", content)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_called_txt_is_a_picture(tmp_path: Path):
    pictures(tmp_path, "a.png")[0].rename(tmp_path / "a.txt")
    assert [item.name for item in list_items([tmp_path / "a.txt"]).items] == ["a.txt"]


def test_of_several_lists_each_gives_its_name(tmp_path: Path):
    pictures(tmp_path, "cat/1.png", "dog/2.png", "more/3.png")
    (tmp_path / "one.txt").write_text("cat/1.png\ndog/2.png\n")
    (tmp_path / "two.txt").write_text("dog/2.png\n")
    found = list_items([tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "more"]).items
    assert [item.name for item in found] == ["one/cat/1.png", "one/dog/2.png", "two/2.png", "more/3.png"]


# --- every command -----------------------------------------------------------------------------------------------


def piped(content: bytes) -> Any:
    return io.TextIOWrapper(io.BytesIO(content))


def train(*arguments: object, stdin: Any = None) -> Said:
    said = taming("train-vqgan", *arguments, "--json", stdin=stdin)
    assert said.code == 0, said.err
    return said


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of six pictures; the working directory is another one."""
    pictures(tmp_path / "set", *(f"{n}.png" for n in range(6)))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "set"


def test_a_training_on_a_list_continues_without_it(elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    """The list is of another folder, is gone afterwards, and so is the working directory that it was read from."""
    lists = [elsewhere.parent / name for name in ("train.txt", "val.txt")]
    lists[0].write_text("".join(f"../set/{n}.png\n" for n in range(4)))
    lists[1].write_text("../set/4.png\n../set/5.png\n")
    run = elsewhere.parent / "run"
    train(lists[0], *CODEC, "--val", lists[1], "--steps", 2, "--out", run)
    assert {item.name for item in held_out(run)} == {"4.png", "5.png"}
    for path in lists:
        path.unlink()
    monkeypatch.chdir("/")
    said = train("--resume", "--out", run, "--steps", 3)
    assert said.json["step"] == 3
    assert {item.path for item in held_out(run)} == {elsewhere / "4.png", elsewhere / "5.png"}
    about = read_header(run / "checkpoints" / "last.safetensors").about
    assert about["data"]["train"] == 4
    (recorded,) = about["images"]
    assert len(list_items([Path(recorded)]).items) == 4


def test_a_training_on_stdin_continues_without_it(elsewhere: Path):
    names = [f"../set/{n}.png".encode() for n in range(4)]
    run = elsewhere.parent / "run"
    train("-", "-0", *CODEC, "--steps", 2, "--out", run, stdin=piped(b"\0".join(names)))
    held = held_out(run)
    assert len(held) == 1
    assert train("--resume", "--out", run, "--steps", 3).json["step"] == 3
    assert held_out(run) == held
    assert train("-", *CODEC, "--steps", 4, "--out", run, stdin=piped(b"\n".join(names))).json["step"] == 4


def test_what_stdin_may_not_be_is_refused_in_one_line(elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    assert "cannot be combined" in taming("train-vqgan", "-", elsewhere, *CODEC).refusal
    assert "stdin names no picture" in taming("train-vqgan", "-", *CODEC, stdin=piped(b"\n")).refusal
    assert "add -0" in taming("train-vqgan", "-", *CODEC, stdin=piped(b"a\0b\0")).refusal
    assert "no list" not in taming("train-vqgan", "-", *CODEC, stdin=piped(b"gone.png\n")).refusal
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "write them to a file" in taming("train-vqgan", "-", *CODEC, stdin=piped(b"a.png\n")).refusal


def test_several_processes_are_given_what_stdin_says(elsewhere: Path, monkeypatch: pytest.MonkeyPatch):
    from torch.distributed.launcher import api

    given: list[list[str]] = []

    def launch(config: object, program: str) -> Any:
        def run(*arguments: str) -> None:
            given.append([*arguments, *(path.name for path in map(list_name, arguments[-1:]))])

        return run

    def list_name(argument: str) -> Path:
        assert len(list_items([Path(argument)]).items) == 2
        return Path(argument)

    monkeypatch.setattr(api, "elastic_launch", launch)
    monkeypatch.setattr(sys, "argv", ["taming", "train-vqgan", "-", "-0", "--nproc", "2"])
    assert (
        taming(
            "train-vqgan", "-", "-0", "--nproc", 2, "--device", "cpu", stdin=piped(b"../set/0.png\0../set/1.png\0")
        ).code
        == 0
    )
    ((*front, last, name),) = given
    assert front == ["-m", "taming_cli", "train-vqgan", "--nproc", "2"]
    assert name == "stdin.txt"
    assert not Path(last).exists()


def test_every_command_that_takes_pictures_takes_a_list(elsewhere: Path):
    path = elsewhere.parent / "list.txt"
    path.write_text("set/1.png\nset/3.png\n")
    out = elsewhere.parent
    train(elsewhere, *CODEC, "--steps", 1, "--out", out / "run")
    codec = out / "run" / "checkpoints" / "last.safetensors"
    on_cpu = ("--device", "cpu", "--json")
    assert taming("tokenize", path, "--ckpt", codec, "-o", out / "t.h5", *on_cpu).json["count"] == 2
    assert taming("reconstruct", path, out / "back", "--ckpt", codec, *on_cpu).json["count"] == 2
    assert sorted(each.name for each in (out / "back").glob("*.png")) == ["1.png", "3.png"]
    assert taming("annotate", "edges", path, out / "edges", "--json").json["count"] == 2
    assert taming("eval", "codebook", codec, path, *on_cpu).json["codes_counted"] == 2 * 20 * 18
    encoders: Any = {"image": SimpleNamespace(reads=Pictures())}
    assert [item.name for item in conditions._items(encoders, {"image": path})["image"]] == ["1.png", "3.png"]
