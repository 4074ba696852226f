"""metrics.jsonl: what is written is read back, and a damaged line costs no other."""

import json
import math
from pathlib import Path

import pytest

from taming_cli.runtime.run.metrics import append_metrics, figures_in, is_number, read_metrics, write_metrics

LINES = [{"kind": "train", "step": step, "images": 8 * step, "seconds": 0.5, "l1": 1 / step} for step in (10, 20)]


def test_lines_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == ([], 0)
    for line in LINES:
        append_metrics(path, line)
    assert read_metrics(path) == (LINES, 0)
    write_metrics(path, LINES[1:])
    assert read_metrics(path) == (LINES[1:], 0)
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("damaged", ["broken", "[1]", "3", '{"kind": "train"}', '{"step": "10"}', '{"step": NaN}'])
def test_damaged_lines_are_counted_and_the_others_kept(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join((json.dumps(LINES[0]), damaged, json.dumps(LINES[1]), '{"kind": "train", "st')))
    assert read_metrics(path) == (LINES, 1)  # the last line is one that a kill cut short


def test_names_of_earlier_versions_are_read_as_todays(tmp_path: Path) -> None:
    append_metrics(tmp_path / "metrics.jsonl", {"kind": "train", "step": 1, "critic": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl").lines == [{"kind": "train", "step": 1, "discriminator": 0.5}]


def test_figures_are_the_finite_numbers_of_a_line() -> None:
    line = LINES[0] | {"psnr": math.nan, "l2": math.inf, "code_use": [1, 0], "flag": True, "count": 7}
    assert figures_in(line) == {"l1": 0.1, "count": 7}
    assert [is_number(value) for value in (1, 0.5, True, None, "1", math.nan)] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["step", "images", "seconds"])
@pytest.mark.parametrize("value", ["1e999", "NaN", '"5"', "null", "[]", "1" + 400 * "0"])
def test_a_line_whose_place_is_no_number_is_damaged(name: str, value: str, tmp_path: Path) -> None:
    """A report rounds its time, and compares its step."""
    path = tmp_path / "metrics.jsonl"
    text = json.dumps({**LINES[0], name: 7}).replace(f'"{name}": 7', f'"{name}": {value}')
    path.write_text(f"{text}\n{json.dumps(LINES[1])}\n")
    assert read_metrics(path) == (LINES[1:], 1)
