"""JSON and TOML of strangers: each text gives a value or a ValueError, soon; and what is read by it is one line."""

import json
import shutil
import time
from pathlib import Path

import pytest

from taming_cli.cli.app import main
from taming_cli.config.parsing import parse_json, parse_toml
from taming_cli.config.resolve import from_file
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.run.folder import read_settings
from tests.pages import codec_lines, make_run

DEEP = 100_000
NESTED = ("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP)


@pytest.mark.parametrize("text", NESTED)
def test_deep_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="nests too deeply"):
        parse_json(text)
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize(
    "text",
    [f"a = {NESTED[0]}", f"[{'.'.join('a' * 30_000)}]", f"{'.'.join('a' * 30_000)} = 1", "x = 1\n [[a" + ".b" * 99],
)
def test_deep_toml_is_a_value_error_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="nests too deeply"):
        parse_toml(text)
    assert time.process_time() - began < 1


def test_ordinary_toml_is_read() -> None:
    text = "[a.b.c]\nvalues = [" + ", ".join(["0.1"] * 999) + "]\nmore = [\n" + "0.1, " * 999 + "]\nd.e = 1\n"
    assert parse_toml(text)["a"]["b"]["c"]["d"] == {"e": 1}


@pytest.mark.parametrize("name", ["a.json", "a.toml"])
def test_a_deep_config_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(NESTED[0] if name.endswith("json") else f"steps = {NESTED[0]}")
    with pytest.raises(UsageError, match=rf"{name}: it nests too deeply"):
        from_file(tmp_path / name)


@pytest.mark.parametrize("name", ["config.json", "env.json", "metrics.jsonl", "eval.json"])
def test_a_report_leaves_out_a_file_that_nests_too_deeply(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", "train-vqgan", codec_lines())
    (run / name).write_text(f'{{"config": {NESTED[0]}}}\n[]\n')
    code = main(["report", str(run)])
    assert code == (1 if name == "config.json" else 0)
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [{"origins": []}, {"inputs": 5}, {"inputs": [1]}, {"config": {"train": 3}}, {"command": []}, {"config": None}],
)
def test_a_runs_config_of_other_types_is_one_line(changes: dict[str, object], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "train-vqgan", codec_lines())
    settings = json.loads((run / "config.json").read_text()) | changes
    (run / "config.json").write_text(json.dumps(settings))
    with pytest.raises(BadFileError, match=r"config\.json is not a run's config"):
        read_settings(run)
    shutil.rmtree(run)
