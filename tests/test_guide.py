"""`taming guide`, and what every guide keeps to."""

import json
import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

import taming_cli
from taming_cli.cli.commands.guide import NAMES, purpose
from taming_cli.cli.markdown import rendered
from tests.guides.reading import GUIDES, LANGUAGES, README, ROOT, blocks, pages
from tests.test_cli import taming

WIDTH = 80
"""Columns of a terminal that every guide fits."""
LINK = re.compile(r"\]\(([^)]+)\)")


def read(name: str) -> str:
    return (GUIDES / f"{name}.md").read_text()


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


# --- the command ------------------------------------------------------------------------------------------------------


def test_without_a_name_all_guides_are_listed_each_on_a_line_of_a_terminal() -> None:
    listed = taming("guide")
    assert (listed.code, listed.err) == (0, "`taming guide NAME` prints one\n")
    lines = listed.out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    for name, line in zip(NAMES, lines, strict=True):
        assert line.endswith(purpose(name))
        assert len(line) <= WIDTH
    assert taming("guide", "-q").out.split() == list(NAMES)
    assert json.loads(taming("guide", "--json").out) == {name: purpose(name) for name in NAMES}


def test_a_pipe_gets_the_markdown() -> None:
    assert taming("guide", "conditions").out == read("conditions")
    assert json.loads(taming("guide", "conditions", "--json").out) == {
        "name": "conditions",
        "purpose": purpose("conditions"),
        "text": read("conditions").rstrip(),
    }
    assert Path(taming("guide", "conditions", "-q").out.strip()) == GUIDES / "conditions.md"


def test_another_name_is_refused_with_the_nearest_one() -> None:
    said = taming("guide", "conditons")
    assert said.code == 2
    assert "no guide is called 'conditons'; did you mean 'conditions'?" in said.err


def test_a_terminal_gets_it_rendered() -> None:
    code = (
        "import pty, sys\n"
        "status = pty.spawn([sys.executable, '-W', 'error', '-m', 'taming_cli', 'guide', 'conditions'])\n"
        "sys.exit(status)"
    )
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "\x1b[" in done.stdout
    assert "`" not in done.stdout
    assert "## " not in done.stdout


# --- the guides -------------------------------------------------------------------------------------------------------


def test_the_command_knows_every_guide() -> None:
    assert {path.stem for path in GUIDES.glob("*.md")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_guide_has_a_title_a_purpose_what_the_reader_has_and_where_to_go_on(name: str) -> None:
    title, sentence, have, *_ = read(name).split("\n\n")
    assert re.fullmatch(r"# [^\n]+", title)
    assert re.fullmatch(r"[A-Z][^.\n]+\.", sentence)
    assert have.startswith("You have: ")
    *_, last = read(name).split("\n## ")
    assert last.startswith("See also\n")
    assert len(LINK.findall(last)) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_rendered_it_fits_a_narrow_terminal_and_no_code_is_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = rendered(read(name), WIDTH).splitlines()
    for block in blocks(GUIDES / f"{name}.md"):
        for line in block.code.splitlines():
            assert len(line) <= WIDTH, line
            assert line in lines
    assert all(len(line) <= WIDTH for line in lines)


def test_every_page_is_run_by_a_test() -> None:
    for path in pages():
        assert {block.language for block in blocks(path)} <= set(LANGUAGES), path
        assert (ROOT / "tests" / "guides" / f"test_{path.stem.lower().replace('-', '_')}.py").exists()


@pytest.mark.parametrize("path", [*pages(), ROOT / "scripts" / "RESULTS.md"], ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        if not link.startswith("https://"):
            place, _, anchor = link.partition("#")
            target = (path.parent / place).resolve() if place else path
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize(
    "path", [*pages(), ROOT / "scripts" / "RESULTS.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.stem
)
def test_every_table_is_whole(path: Path) -> None:
    """Each row has the cells of its headings, and no other text interrupts a table."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^.*\|.*\n)+", text, re.MULTILINE):
        lines = [line for line in table.splitlines() if line.startswith("|") or line.endswith(" |")]
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(cells) <= 1, lines
        assert not lines or re.fullmatch(r"\|(?:[-:]+\|)+", lines[1]), lines[:2]
        assert all(line.startswith("|") and line.endswith("|") for line in lines), lines


def test_readme_links_every_guide() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(README.read_text())}
    assert {path.resolve() for path in GUIDES.glob("*.md")} <= linked


def test_every_guide_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["taming_cli"]
    package = Path(taming_cli.__file__).parent
    for path in GUIDES.glob("*.md"):
        assert any(fnmatch(str(path.relative_to(package)), pattern) for pattern in patterns), path


def test_errors_name_guides_that_are_there() -> None:
    named = set()
    for path in (ROOT / "taming_cli").rglob("*.py"):
        code = re.sub(r'"\n\s*f?"', "", path.read_text())  # a message goes on in the next line
        named |= set(re.findall(r"see: taming guide ([\w-]+)", code))
    assert {"conditions", "troubleshooting"} <= named <= set(NAMES)
