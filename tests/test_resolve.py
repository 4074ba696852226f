"""Where a value comes from: layers, their order, and the origins that are kept."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from taming_cli.config.fields import check, option
from taming_cli.config.resolve import Layer, flatten, from_environment, from_file, from_flags, resolve
from taming_cli.config.size import Size
from taming_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Net:
    """One class of settings."""

    width: int = option(8, "Width.", low=1)
    levels: tuple[int, ...] = option((1, 2), "Levels.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Another."""

    learning_rate: float = option(0.1, "Rate.", low=0)
    size: Size | None = option(None, "Size.")
    flip: bool = option(True, "Flip.")
    count: int = option(1, "How many.", flag="-n", low=1)

    def __post_init__(self) -> None:
        check(self)


BOTH = (Net, Train)


def test_the_first_layer_that_names_a_field_wins_and_the_rest_keeps_its_default() -> None:
    layers = [Layer("flag", {"width": 3}), Layer("file", {"width": 4, "flip": False}), Layer("preset", {"width": 5})]
    resolved = resolve(BOTH, layers)
    assert resolved.configs == (Net(width=3), Train(flip=False))
    assert resolved.origins == {
        "width": "flag",
        "levels": "default",
        "learning_rate": "default",
        "size": "default",
        "flip": "file",
        "count": "default",
    }


def test_values_are_revived_as_the_fields_hold_them() -> None:
    resolved = resolve(BOTH, [Layer("file", {"levels": [4, 5], "size": "64x32", "learning_rate": 1})])
    assert resolved.configs == (Net(levels=(4, 5)), Train(size=Size(64, 32), learning_rate=1.0))


def test_an_unknown_key_is_refused_with_its_layer_and_the_nearest_key_of_all_classes() -> None:
    with pytest.raises(UsageError, match=r"^file: unknown key 'lerning_rate'; did you mean 'learning_rate'\?"):
        resolve(BOTH, [Layer("file", {"lerning_rate": 1})])


def test_only_given_flags_count_and_text_is_parsed() -> None:
    given = from_flags(BOTH, {"width": "7", "levels": "1,2,3", "flip": False, "size": None})
    assert given == Layer("flag", {"width": 7, "levels": (1, 2, 3), "flip": False})


@pytest.mark.parametrize(
    ("name", "flag"), [("width", "--width"), ("learning_rate", "--learning-rate"), ("count", "-n")]
)
def test_a_bad_flag_is_named_as_it_is_written(name: str, flag: str) -> None:
    with pytest.raises(UsageError, match=f"^{flag}: "):
        from_flags(BOTH, {name: "many"})


def test_every_field_can_come_from_the_environment() -> None:
    variables = {
        "TAMING_WIDTH": "9",
        "TAMING_LEARNING_RATE": "1e-3",
        "TAMING_FLIP": "no",
        "WIDTH": "1",
        "TAMING_X": "1",
    }
    assert from_environment(BOTH, variables) == Layer(
        "environment", {"width": 9, "learning_rate": 0.001, "flip": False}
    )
    with pytest.raises(UsageError, match=r"^TAMING_WIDTH: "):
        from_environment(BOTH, {"TAMING_WIDTH": "wide"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "width = 9\n[train]\nflip = false\n"),
        ("a.json", json.dumps({"width": 9, "train": {"flip": False}})),
        ("config.json", json.dumps({"command": "x", "config": {"net": {"width": 9}, "train": {"flip": False}}})),
    ],
)
def test_a_file_may_be_toml_or_json_or_a_runs_config(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert from_file(tmp_path / name) == Layer(f"config file {tmp_path / name}", {"width": 9, "flip": False})


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.toml", b"width = "), ("a.json", b"{"), ("a.json", b"[1]"), ("a.toml", b"\xff\xfe"), ("a.json", b"null")],
)
def test_a_file_that_holds_no_settings_is_refused_by_name(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=name):
        from_file(tmp_path / name)


@pytest.mark.parametrize("text", ["width = 0", 'width = "x"', 'size = "3y4"', "witdh = 3", "levels = 1"])
def test_a_bad_value_in_a_file_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=re.escape(str(path))):
        resolve(BOTH, [Layer("flag", {"count": 2}), from_file(path)])
    path.write_text("width = 3")
    with pytest.raises(UsageError, match=r"^count is 0"):
        resolve(BOTH, [Layer("flag", {"count": 0}), from_file(path)])


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(UsageError, match=f"config file {path}"):
            from_file(path)


def test_groups_are_flattened() -> None:
    assert flatten({"codec": {"ch": 32}, "steps": 5}) == {"ch": 32, "steps": 5}
