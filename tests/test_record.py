"""What a run folder records, and which folders are runs."""

from pathlib import Path

import pytest

from taming_cli.report.record import find_runs, read_run
from tests.pages import draw_sheet, line, make_run, read


def test_broken_parts_are_passed_over_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", [line("train", 10, l1=float("nan")), line("train", 20, l1=0.5)])
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('broken\n[1]\n{"kind": "train", "step": 30, "l1": 0.2')
    whole = draw_sheet(run / "samples" / "step_0000010.png")
    (run / "samples" / "step_0000020.png").write_bytes(whole[:-5])
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.safetensors").write_bytes(b"no")
    (run / "env.json").write_text("{")
    record = read_run(run)
    assert record.points("train", "l1") == [(20, 0.5)]
    assert [sheet.step for sheet in record.sheets] == [10]
    named = " ".join(record.notes)
    assert "2 unreadable lines" in named
    assert all(name in named for name in ("step_0000020.png", "last.safetensors", "env.json"))
    assert "2 unreadable lines" in read(run).text


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"rfid": 3}', '{"rfid": {"protocol": 3}}', '{"rfid": {"details": []}}']
)
def test_results_that_eval_did_not_write_are_noted(content: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "train-vqgan", [])
    (run / "eval.json").write_text(content)
    record = read_run(run)
    assert record.measured == {}
    assert any("eval.json" in note for note in record.notes)
    assert "eval.json" in read(run).text


def test_runs_are_found_in_folders_of_runs_each_once(tmp_path: Path) -> None:
    found = ["train-prior/001", "train-vqgan/001", "train-vqgan/002"]
    for name in (*found, ".hidden/003", "a/b/c/d/too-deep"):
        make_run(tmp_path / "runs" / name, "train-vqgan", [])
    (tmp_path / "runs" / "model").mkdir()
    (tmp_path / "runs" / "model" / "config.json").write_text('{"hidden_size": 8}')  # another program's
    broken = make_run(tmp_path / "runs" / "train-vqgan" / "003", "train-vqgan", [])
    (broken / "config.json").write_text("{")
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "train-vqgan")
    runs = find_runs([tmp_path / "runs", tmp_path / "link", tmp_path / "link" / "002"])
    assert [path.relative_to(tmp_path / "runs").as_posix() for path in runs.folders] == found
    assert "config.json cannot be read" in runs.skipped[str(broken)]
