"""How a command declares its options: groups, panels, their order in `--help`, and what the function is called with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import typer

from taming_cli.cli import options as o
from taming_cli.cli.command import Command, Group, Panel, command, register
from taming_cli.cli.console import Output
from taming_cli.cli.help import HelpGroup
from taming_cli.cli.settings import Settings
from taming_cli.config.evaluate import KernelConfig
from taming_cli.config.resolve import Layer
from taming_cli.config.sampling import DecodingConfig
from taming_cli.errors import UsageError
from taming_cli.runtime.run.folder import RESUMED
from tests.test_cli import COMMANDS

CALLS: list[dict[str, Any]] = []


@dataclass
class Job:
    output: Output
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Files.")]
    device: o.Device = "auto"


@command("draw", first=("seed", "greedy", "out"), reads_pictures=True)
def draw(
    job: Job,
    output: Output,
    kernel: Annotated[KernelConfig, Panel("Kernel")],
    decoding: Annotated[DecodingConfig, Panel("Decoding")],
    out: o.Out = None,
    own: Annotated[int, o.number("--own", low=0, help="A number.")] = 3,
) -> int:
    """Draw.

    More.
    """
    CALLS.append({"job": job, "output": output, "kernel": kernel, "decoding": decoding, "out": out, "own": own})
    return 5


@command("train-prior")
def train(settings: Annotated[Settings, Panel("Decoding", DecodingConfig)]) -> int:
    """Train."""
    CALLS.append({"settings": settings})
    return 0


def program(*entries: Command | Group) -> typer.Typer:
    app = typer.Typer(cls=HelpGroup, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    for entry in entries:
        register(app, entry, "Use")
    return app


def run(*arguments: str) -> Any:
    CALLS.clear()
    return program(draw, Group("more", "More commands.", [train]))(list(arguments), standalone_mode=False)


def test_a_command_gets_its_options_groups_and_configs() -> None:
    line = ["draw", "a", "b", "--device", "cpu", "--top-k", "4", "--subsets", "7", "--own", "1", "-o", "x", "--json"]
    assert run(*line) == 5
    (call,) = CALLS
    assert (call["job"].files, call["job"].device, call["job"].output.json) == ([Path("a"), Path("b")], "cpu", True)
    assert (call["output"].json, call["out"], call["own"]) == (True, Path("x"), 1)
    assert (call["kernel"].subsets, call["decoding"].top_k, call["decoding"].greedy) == (7, 4, False)


def test_a_config_takes_values_of_the_environment_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text("top_k = 4\nseed = 9\ndevice = 'cpu'\n")
    monkeypatch.setenv("TAMING_SEED", "3")
    assert run("draw", "a", "--config", str(tmp_path / "mine.toml")) == 5
    (call,) = CALLS
    assert (call["decoding"].top_k, call["kernel"].seed, call["job"].device) == (4, 3, "cpu")


def test_a_command_may_resolve_its_settings_itself() -> None:
    assert run("more", "train-prior", "--top-k", "4", "--preset", "tiny") == 0
    settings = CALLS[0]["settings"]
    assert (settings.flags["top_k"], settings.flags["top_p"], settings.preset) == ("4", None, "tiny")
    with pytest.raises(UsageError, match="resumed run keeps its settings"):
        settings.resolve(DecodingConfig, recorded=Layer(RESUMED, {}))
    resumed = Settings(command="train-prior", flags=settings.flags).resolve(
        DecodingConfig, recorded=Layer(RESUMED, {"min_p": 0.5})
    )
    assert (resumed.configs[0].min_p, resumed.configs[0].top_k) == (0.5, 4)


def test_what_is_first_comes_first_then_own_options_panels_in_order_and_shared_ones() -> None:
    below = typer.main.get_command(program(draw)).commands["draw"]  # type: ignore[attr-defined]
    by_panel: dict[str | None, list[str]] = {}
    for parameter in below.params:
        by_panel.setdefault(parameter.rich_help_panel, []).append(parameter.name)
    assert list(by_panel) == [None, "Kernel", "Decoding", o.SHARED, o.CONSOLE]
    assert by_panel[None] == ["seed", "greedy", "out", "files", "own"]
    assert by_panel[o.SHARED] == ["device", "config", "max_pixels"]
    assert by_panel[o.CONSOLE] == ["json", "quiet", "verbose", "debug"]
    assert below.help == "Draw.\n\nMore."


def test_an_option_that_is_lifted_out_of_its_panel_stays_there_elsewhere() -> None:
    _, info = get_args(o.Out)
    assert info.rich_help_panel == o.SHARED


@pytest.mark.parametrize(
    ("path", "first"),
    [
        ("sample", ["-n", "--class", "--size", "--cond"]),
        ("train-vqgan", ["--preset", "--scale", "--minutes", "--steps", "--size", "--out"]),
        ("train-prior", ["--preset", "--scale", "--minutes", "--steps", "--out"]),
        ("tokenize", ["--ckpt", "--out", "--size"]),
        ("reconstruct", ["--ckpt", "--out", "--size"]),
    ],
)
def test_help_begins_with_what_people_look_for(path: str, first: list[str]) -> None:
    options = [each for each in COMMANDS[(path,)].params if each.param_type_name == "option"]
    assert [each.opts[-1] for each in options[: len(first)]] == first
    assert all(each.rich_help_panel is None for each in options[: len(first)])
