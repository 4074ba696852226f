"""Text for a terminal: what names from strangers cannot do to it."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.cli.formatting import printable
from taming_cli.cli.styled_text import StyledText
from taming_cli.codec.vqgan import codec_file
from taming_cli.runtime.checkpoint import save_model
from tests.toys import FLAT, toy_codec

EVIL = "a\x1b]0;title\x07\x1b[2J\x9b1m\nforged line\r\u202egnp"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 猫 \u200d \u3000", "café 猫 \u200d \u3000"),
        ("\x1b[2J", "\\u001b[2J"),
        ("\x9b2J\x7f", "\\u009b2J\\u007f"),
        ("one\ntwo\ttab", "one\\u000atwo\\u0009tab"),
        ("\u202e\u2028", "\\u202e\\u2028"),
        ("stray \udcff", "stray \\udcff"),
    ],
)
def test_what_controls_a_terminal_is_escaped_and_other_text_is_kept(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert json.loads(f'"{shown}"') == text


@pytest.mark.parametrize("more", [[], ["--json"], ["-q"], ["-v"]])
def test_no_name_of_a_file_controls_the_terminal(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / EVIL
    folder.mkdir()
    for name in ("good.png", "bad.png"):
        (folder / f"{EVIL}{name}").write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{EVIL}good.png")
    (folder / f"{EVIL}.{EVIL}").write_text("other")
    save_model(folder / "vq.safetensors", codec_file(toy_codec(FLAT), {"label_names": [EVIL]}))
    codes = []
    for command in (
        ["reconstruct", folder, tmp_path / f"{EVIL}out", "--ckpt", folder / "vq.safetensors"],
        ["tokenize", folder, "--ckpt", folder / "vq.safetensors", "--size", "8x8", "-o", folder / f"{EVIL}.h5"],
        ["info", folder / "vq.safetensors"],
        ["info", folder / f"{EVIL}.h5"],
        ["tokens", "verify", folder / f"{EVIL}.h5"],
        ["report", folder],
        ["import", folder / EVIL],
    ):
        codes.append(main([*map(str, command), *more]))
        output = capsys.readouterr()
        assert printable(output.out.replace("\n", "")) == output.out.replace("\n", ""), command
        assert printable(output.err.replace("\n", "")) == output.err.replace("\n", ""), command
        assert not any(line.startswith("forged") for line in (output.out + output.err).splitlines()), command
    assert codes == [3, 3, 0, 0, 0, 1, 1]


def test_styled_text_keeps_its_own_colours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    text = StyledText()
    text.line(("name", "bold"), EVIL, wrapped=EVIL)
    assert "\x1b[1mname" in str(text)
    assert "\x1b[2J" not in str(text)
    assert "\x07" not in str(text)
