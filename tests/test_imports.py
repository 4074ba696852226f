"""The contract of the floors: who may import whom, and what the program leaves alone until a command needs it."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import taming_cli
from taming_cli.cli.program import COMMANDS

ROOT = Path(taming_cli.__file__).parent
FLOORS = {
    "config": 1,
    "errors": 1,
    "version": 1,
    "scenes": 2,
    "data": 2,
    "metrics": 2,
    "runtime": 3,
    "pretrained": 4,
    "codec": 5,
    "prior": 5,
    "interop": 6,
    "sampling": 7,
    "report": 8,
    "evaluate": 8,
    "annotate": 8,
    "doctor": 8,
    "cli": 9,
    "__main__": 10,
}
NEVER_EACH_OTHER = {("codec", "prior"), ("prior", "codec")}
OF_THE_COMMAND_LINE = {"typer", "rich"}


class Import(NamedTuple):
    """One import: the module it names, its line, whether it runs when its file is imported, or never runs at all."""

    target: str
    line: int
    at_import: bool
    for_types_only: bool


def imports(module: str, source: str) -> Iterator[Import]:
    """Every import of a module, those inside functions and under TYPE_CHECKING too."""

    def walk(node: ast.AST, in_function: bool, types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, node.lineno, not in_function and not types, types)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            start = ".".join(filter(None, (base, node.module)))
            for name in node.names:  # `from taming_cli import data` names a room, not a thing in one
                whole = f"{start}.{name.name}"
                target = whole if start == "taming_cli" and name.name in FLOORS else start
                yield Import(target, node.lineno, not in_function and not types, types)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(node, ast.If) and child in node.body and checking
            yield from walk(child, inside, types or guarded)

    yield from walk(ast.parse(source), False, False)


def room(target: str) -> str | None:
    """`taming_cli.data.images` -> `data`; None for what is not ours, or the package itself (its version)."""
    parts = target.split(".")
    return parts[1] if parts[0] == "taming_cli" and len(parts) > 1 else None


def faults(module: str, source: str, *, begins_with_the_program: bool = False) -> list[str]:
    """What a file imports against the table, as text; the module is named as Python imports it."""
    own = room(module)
    found = []
    if own is None:  # the package itself, which gives its public names when they are asked for
        return [
            f"{module}:{one.line} imports {one.target}"
            for one in imports(module, source)
            if one.at_import
            and one.target.split(".")[0] not in sys.stdlib_module_names
            and room(one.target) != "version"
        ]
    for one in imports(module, source):
        other, top = room(one.target), one.target.split(".")[0]
        where = f"{module}:{one.line} imports {one.target}"
        if one.target.startswith("typer._click") or top.startswith("click"):
            found.append(f"{where}: typer carries its own click inside")
        if other is None:
            ours = top == "taming_cli"
            if FLOORS[own] == 1 and not ours and top not in sys.stdlib_module_names:
                found.append(f"{where}: the first floor has the standard library only")
            allowed = ours or top in sys.stdlib_module_names or top in OF_THE_COMMAND_LINE
            if own == "cli" and begins_with_the_program and one.at_import and not allowed:
                found.append(f"{where}: at the program's start")
            continue
        if other not in FLOORS:
            found.append(f"{where}: which is on no floor")
        elif FLOORS[other] > FLOORS[own] or (own, other) in NEVER_EACH_OTHER:
            found.append(f"{where}: {other} is not below {own}")
        elif own == "cli" and begins_with_the_program and one.at_import and other != "cli" and FLOORS[other] > 1:
            found.append(f"{where}: at the program's start")
    return found


def modules() -> dict[str, Path]:
    named = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(("taming_cli", *(part for part in parts if part != "__init__")))] = path
    return named


def started_with_the_program(named: dict[str, Path]) -> set[str]:
    """The rooms of the command line that `taming_cli.cli.app` and the commands import, one through the other, as they
    are imported."""
    reached, waiting = set[str](), ["taming_cli.cli.app"]
    for entries in COMMANDS.values():
        waiting += [f"taming_cli.cli.commands.{entry.where.split(':')[0]}" for entry in entries.values()]
    while waiting:
        module = waiting.pop()
        if module in reached or room(module) != "cli" or module not in named:
            continue
        reached.add(module)
        source = named[module].read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module in ("taming_cli.cli", "taming_cli.cli.commands"):
                waiting += [f"{node.module}.{name.name}" for name in node.names]
        waiting += [one.target for one in imports(module, source) if one.at_import]
    return reached


def test_every_room_imports_only_from_the_floors_below() -> None:
    named = modules()
    first = started_with_the_program(named)
    assert {"taming_cli.cli.commands.sample", "taming_cli.cli.options", "taming_cli.cli.console"} <= first
    found = []
    for module, path in named.items():
        found += faults(module, path.read_text(), begins_with_the_program=module in first)
    assert not found, "\n".join(found)


def test_no_room_is_longer_than_400_lines_and_no_package_has_more_than_20_files() -> None:
    rooms = list(modules().values())
    assert not {path.name: lines for path in rooms if (lines := len(path.read_text().splitlines())) > 400}
    packages = Counter(path.parent for path in rooms)
    assert not {package.name: count for package, count in packages.items() if count > 20}


def test_no_two_public_classes_share_a_name() -> None:
    homes = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def test_no_rooms_import_one_another_in_a_circle() -> None:
    """Nor by an import inside a function. The package itself hands on the names of its public rooms."""
    named = {module: path for module, path in modules().items() if module != "taming_cli"}
    targets = {
        module: {one.target for one in imports(module, path.read_text()) if one.target in named}
        for module, path in named.items()
    }
    while leaves := {module for module, below in targets.items() if not below & targets.keys() - {module}}:
        targets = {module: below for module, below in targets.items() if module not in leaves}
    assert not targets


def test_every_room_is_on_a_floor() -> None:
    assert {room(module) for module in modules()} - {None} <= set(FLOORS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("taming_cli.config.codec", "import numpy"),
        ("taming_cli.errors", "def f():\n    import torch"),
        ("taming_cli.data.images", "from taming_cli.runtime.device import autocast"),
        ("taming_cli.data.images", "from taming_cli import codec"),
        ("taming_cli.runtime.run.folder", "def f():\n    from taming_cli.pretrained.perceptual import build"),
        ("taming_cli.codec.train", "from taming_cli.prior.networks.gpt import GPT"),
        (
            "taming_cli.prior.train",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import taming_cli.codec.vqgan",
        ),
        ("taming_cli.codec.train", "from taming_cli.sampling.pipeline import Pipeline"),
        ("taming_cli.prior.train", "from ..codec import vqgan"),
        ("taming_cli.sampling.pipeline", "from taming_cli.cli.console import Output"),
        ("taming_cli.cli.codec", "from taming_cli.codec.train import fit"),
        ("taming_cli.cli.codec", "if True:\n    import torch"),
        ("taming_cli.cli.codec", "def f():\n    from typer._click import echo"),
        ("taming_cli.cli.codec", "def f():\n    import click_default_group"),
        ("taming_cli", "from taming_cli.sampling.pipeline import Pipeline"),
        ("taming_cli.data.images", "from taming_cli.utils import helper"),
    ],
)
def test_an_import_against_the_table_is_found(module: str, source: str) -> None:
    assert len(faults(module, source, begins_with_the_program=True)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("taming_cli.config.codec", "import json\nfrom taming_cli.errors import UsageError"),
        ("taming_cli.prior.train", "import torch\nfrom taming_cli.runtime.run.folder import Run"),
        ("taming_cli.cli.codec", "import typer\ndef f():\n    from taming_cli.codec.train import fit"),
        (
            "taming_cli.cli.codec",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from taming_cli.data.sources import Listing",
        ),
        ("taming_cli.sampling.pipeline", "import taming_cli\nfrom taming_cli.codec.vqgan import VQGAN"),
    ],
)
def test_an_import_that_the_table_allows_is_not_found(module: str, source: str) -> None:
    assert faults(module, source, begins_with_the_program=True) == []


@pytest.mark.parametrize(
    "arguments", [None, ["--help"], ["train-vqgan", "--help"], ["presets", "ls"], ["guide", "conditions"], []]
)
def test_the_program_starts_without_torch_numpy_and_h5py(arguments: list[str] | None, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from taming_cli.cli.app import main\n"
        f"main({arguments!r})\n"
        "print('loaded', sorted({'torch', 'numpy', 'h5py', 'PIL', 'torchvision'} & set(sys.modules)))\n"
    )
    if arguments is None:
        code = code.replace("main(None)\n", "")
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.splitlines()[-1] == "loaded []", done.stderr
