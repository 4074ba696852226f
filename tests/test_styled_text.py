"""Styled text: colours and wrapping on a terminal, and neither elsewhere."""

import io
import re
import sys

import pytest

from taming_cli.cli.styled_text import StyledText

LONG = "one two three `a command of several words` four five six /a/path/that/is/longer/than/the/line/is/wide seven"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def rendered(stdout: io.StringIO) -> str:
    before, sys.stdout = sys.stdout, stdout
    try:
        made = StyledText()
        made.line("  ", ("FAIL", "bold red"), "  name  ", wrapped=LONG)
        made.line(("Title", "bold"))
        made.line("")
        return str(made)
    finally:
        sys.stdout = before


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "50")
    return monkeypatch


def test_elsewhere_lines_are_plain_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert rendered(io.StringIO()) == f"  FAIL  name  {LONG}\nTitle"


def test_on_a_terminal_lines_are_wrapped_under_their_beginning_and_commands_and_paths_are_whole(
    terminal: pytest.MonkeyPatch,
) -> None:
    terminal.setenv("NO_COLOR", "1")
    assert re.sub(r"\x1b\[[01]m", "", rendered(Terminal())).splitlines() == [
        "  FAIL  name  one two three",
        "              `a command of several words` four",
        "              five six",
        "              /a/path/that/is/longer/than/the/line/is/wide",
        "              seven",
        "Title",
    ]


def test_colours_follow_the_terminal_and_no_color(terminal: pytest.MonkeyPatch) -> None:
    assert "\x1b[1;31mFAIL" in rendered(Terminal())
    terminal.setenv("NO_COLOR", "1")
    assert "31m" not in rendered(Terminal())
    terminal.delenv("NO_COLOR")
    terminal.setenv("TERM", "dumb")
    assert "\x1b" not in rendered(Terminal())


def test_a_terminal_that_is_too_narrow_wraps_by_itself(terminal: pytest.MonkeyPatch) -> None:
    terminal.setenv("COLUMNS", "30")
    assert re.sub(r"\x1b\[[0-9;]*m", "", rendered(Terminal())).splitlines()[0] == f"  FAIL  name  {LONG}"
