"""Completions: what is committed is what the commands give, and the shells themselves offer what the commands take."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from taming_cli.cli.app import app
from taming_cli.config.annotate import DepthConfig, PoseConfig, SegmentationConfig
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.evaluate import FeatureConfig
from taming_cli.config.fields import flag_name, kinds
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.sampling import SampleConfig
from taming_cli.data import archives
from taming_cli.pretrained.perceptual import NAMES
from tests.shells import SHELLS

ROOT = Path(__file__).parents[1]
FILES = {"bash": "taming.bash", "zsh": "_taming", "fish": "taming.fish"}
CONFIGS: dict[str, tuple[type[Any], ...]] = {
    "train-vqgan": (CodecConfig, DiscriminatorConfig, CodecTrainConfig),
    "train-prior": (PriorConfig, PriorTrainConfig),
    "sample": (SampleConfig,),
    "annotate segmentation": (SegmentationConfig,),
    "annotate depth": (DepthConfig,),
    "annotate pose": (PoseConfig,),
    "eval fid": (FeatureConfig,),
}


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    yield " ".join(path), command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *path, name)


COMMANDS = dict(commands(typer.main.get_command(app)))


def part_of_generator(name: str) -> Any:
    """A module of scripts/completion, which is no package."""
    sys.path.insert(0, str(ROOT / "scripts" / "completion"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of each type; what lies there is named below."""
    folder = tmp_path_factory.mktemp("here")
    for place in ("my pictures", "out"):
        (folder / place).mkdir()
    names = (
        "tok.h5, vq.safetensors, old.ckpt, net.pth, set.toml, c.json, vq.yaml, x.npz, z.tar.gz, d.npy, note.md, l.txt"
    )
    pictures = "it's a.png, my pictures/a b.png, my pictures/C.JPG, my pictures/note.md"
    for name in (*names.split(", "), *pictures.split(", ")):
        (folder / name).touch()
    return folder


class Asked:
    """A shell that has read the completions of a folder."""

    def __init__(self, name: str, completions: Path, scratch: Path, folder: Path) -> None:
        if shutil.which(SHELLS[name].name) is None:
            pytest.skip(f"{SHELLS[name].name} is not installed")
        self.shell = SHELLS[name](completions, scratch, folder)

    def __call__(self, line: str) -> set[str]:
        """What is offered at the line's end, of each the last part: shells differ in how much of a word they repeat.
        `--cond=depth=my maps/` -> `my maps`."""
        return {re.split("[=/,]", each.rstrip("=/"))[-1] for each in self.shell.ask(f"taming {line}").offered}

    def last_word(self, line: str) -> str:
        """What the program gets for the line's last word, which has but one continuation."""
        said = self.shell.ask(f"taming {line}")
        (word,) = said.offered if said.arguments is None else said.arguments[-1:]
        return word.rstrip("/")


@pytest.fixture(scope="module", params=SHELLS)
def offered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Asked]:
    asked = Asked(request.param, ROOT / "completions", tmp_path_factory.mktemp("shell"), folder)
    yield asked
    asked.shell.close()


# --- the files --------------------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_the_commands_give(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", ROOT / "scripts" / "completion" / "write.py", tmp_path]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert {file.name for file in (ROOT / "completions").iterdir()} == set(FILES.values())
    for name in FILES.values():
        given, committed = ((place / name).read_text() for place in (tmp_path, ROOT / "completions"))
        assert given == committed, f"completions/{name} is not what the commands give now: run scripts/completions"


@pytest.mark.parametrize("shell", FILES)
def test_each_file_is_in_its_shells_language(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", ROOT / "completions" / FILES[shell]], check=True)


# --- commands and flags -----------------------------------------------------------------------------------------------


def test_under_every_group_its_commands_are_offered(offered: Asked) -> None:
    for path, command in COMMANDS.items():
        if below := getattr(command, "commands", {}):
            assert offered(f"{path} " if path else "") == set(below), path


def test_all_flags_of_every_command_are_offered(offered: Asked) -> None:
    for path, command in COMMANDS.items():
        flags = {"-h", "--help"}
        for parameter in command.params:
            if parameter.param_type_name == "option":
                flags |= {*parameter.opts, *parameter.secondary_opts}
        line = f"{path} " if path else ""
        assert offered(f"{line}-") == flags, path
        assert offered(f"{line}--") == {flag for flag in flags if flag.startswith("--")}, path


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("tok", "tokenize tokens"),
        ("tokens m", "merge"),
        ("sample --gr", "--greedy"),
        ("sample --json --js", ""),
        ("sample -o out --ou", ""),
        ("sample --out=out --ou", ""),
        ("sample -qn 4 --qu", ""),
        ("sample -qn4 --qu", ""),
        ("sample -qn 4 --see", "--seed"),
        ("train-vqgan --flip --no-f", ""),
        ("train-vqgan --no-flip --fl", ""),
        ("train-vqgan --cache 3 --cach", ""),
        ("eval fid --cache --cach", ""),
        ("tokenize --cond edges --cond", "--cond --cond-ckpt"),
        ("train-vqgan -- --js", ""),
        ("nothing --js", ""),
        ("nothing ", ""),
    ],
)
def test_a_flag_is_offered_where_it_may_still_be_given(line: str, names: str, offered: Asked) -> None:
    assert offered(line) == set(names.split())


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS)
def test_the_choices_of_every_setting_are_offered(path: str, offered: Asked) -> None:
    for config in CONFIGS[path]:
        for field in fields(config):
            choices, flag = kinds(config)[field.name].choices, flag_name(field)
            if choices and not field.metadata["hidden"]:
                assert offered(f"{path} {flag} ") == set(choices)
                assert choices[0] in offered(f"{path} {flag}={choices[0][:-1]}")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "train-vqgan photos --preset ",
            "tiny scale-2 scale-3 scale-4 small scale-6 vq-vae vq-vae-2 dvae palette f16-1024 f16-16384",
        ),
        ("train-vqgan --preset=ti", "tiny"),
        ("presets show ", "tiny scale-2 scale-3 scale-4 small scale-6 vq-vae vq-vae-2 dvae palette f16-1024 f16-16384"),
        ("guide s", "several-gpus settings security"),
        ("sample --precision ", "auto fp32 bf16 fp16"),
        ("sample --device=", "auto cpu cuda mps"),
        ("train-prior --device c", "cpu cuda"),
        ("eval recon codec images --perceptual ", " ".join(NAMES)),
        ("demo-data --kind ", "landscape figure"),
        ("export --to=", "compvis diffusers"),
        ("annotate segmentation --model fcn", "fcn_resnet50 fcn_resnet101"),
        ("train-prior --cond ", "class image segmentation depth pose edges lowres coords none"),
        ("train-prior --cond class,depth,", "image segmentation pose edges lowres coords none"),
        ("train-prior --cond=class,d", "depth"),
        ("tokenize --cond ", "image segmentation depth pose edges lowres coords"),
        ("sample --mask upp", "upper-half"),
        ("sample --seed ", ""),
        ("sample --size=", ""),
        ("train-vqgan --betas ", ""),
    ],
)
def test_words_are_offered_where_they_may_stand(line: str, words: str, offered: Asked) -> None:
    assert offered(line) == set(words.split())


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("train-vqgan ", "it's a.png, z.tar.gz, l.txt"),
        ("train-vqgan --init=", "vq.safetensors"),
        ("train-vqgan photos --config ", "set.toml, c.json"),
        ("train-vqgan photos --val ", "it's a.png, z.tar.gz, l.txt"),
        ("train-vqgan photos -o ", ""),
        ("train-prior --json ", "tok.h5"),
        ("tokenize photos --cond-ckpt ", "vq.safetensors"),
        ("tokenize photos --out ", "tok.h5"),
        ("tokenize --cond segmentation=", ""),
        ("sample --cond=depth=", "it's a.png, d.npy, c.json"),
        ("sample --complete ", "it's a.png"),
        ("sample --npz ", "x.npz"),
        ("sample --class-map=", "c.json"),
        ("sample --weights ", "net.pth, vq.safetensors"),
        ("decode ", "tok.h5"),
        ("decode tok.h5 ", ""),
        ("decode --codec vq.safetensors tok.h5 ", ""),
        ("decode my\\ pictures --device cpu ", ""),
        ("import ", "old.ckpt, net.pth, vq.safetensors"),
        ("import old.ckpt --config ", "vq.yaml"),
        ("export vq.safetensors --out ", "old.ckpt"),
        ("tokens merge a.h5 b.h5 -o ", "tok.h5"),
        ("eval fid ", "it's a.png, z.tar.gz, l.txt, tok.h5, x.npz"),
        ("eval codebook ", "vq.safetensors"),
        ("eval codebook vq.safetensors ", "it's a.png, z.tar.gz, l.txt, tok.h5"),
        ("eval all ", ""),
    ],
)
def test_files_are_offered_by_type_and_folders_with_them(line: str, files: str, offered: Asked) -> None:
    assert offered(line) == {"my pictures", "out", *filter(None, files.split(", "))}


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("train-vqgan my\\ pictures/", "a b.png, C.JPG"),
        ("sample --ckpt v", "vq.safetensors"),
        ("info v", "vq.safetensors"),
        ("import o", "out, old.ckpt"),
        ("train-prior note", "note.md"),
        ("train-vqgan --colours s", "set.toml"),
        ("tokenize --cond my", ""),
    ],
)
def test_of_files_those_that_begin_so(line: str, files: str, offered: Asked) -> None:
    assert offered(line) == set(filter(None, files.split(", ")))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("presets sh", "show"),
        ("train-vqgan --preset=ti", "--preset=tiny"),
        ("info my", "my pictures"),
        ("info my\\ pic", "my pictures"),
        ('info "my pictures/C', "my pictures/C.JPG"),
        ("info 'my pictures/C", "my pictures/C.JPG"),
        ("info it", "it's a.png"),
        ("info it\\'s", "it's a.png"),
        ("sample --out=my", "--out=my pictures"),
        ("sample --out my", "my pictures"),
        ("tokenize --cond=segmentation=my", "--cond=segmentation=my pictures"),
        ("tokenize --cond segmentation=ou", "segmentation=out"),
        ("train-prior --cond class,de", "class,depth"),
        ("train-prior --cond=class,de", "--cond=class,depth"),
    ],
)
def test_what_is_completed_reaches_the_program(line: str, word: str, offered: Asked) -> None:
    assert offered.last_word(line) == word


# --- help -------------------------------------------------------------------------------------------------------------


def test_bash_lists_commands_and_flags_with_their_help() -> None:
    code = """
        source completions/taming.bash
        COMP_WORDS=(taming "$@") COMP_CWORD=$# COMP_LINE="taming $*" COMP_TYPE=63 COLUMNS=60
        COMP_POINT=${#COMP_LINE}
        _taming
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    for line, replies in (
        ("tok", "tokenize  Encode pictures to a token file; tokens    Check and join token files"),
        (
            "de",
            "decode     Decode a token file to pictures; demo-data  Draw a small data set of landscapes and figures,",
        ),
        ("tokens merge --ou", "--out"),
        ("demo-data --se", "--seed"),
        (
            "demo-data --s",
            "--size  Size of the pictures in pixels. Default 256x256.; --seed  Seed of the scenes. Default 0.",
        ),
    ):
        command = ["bash", "-c", code, "bash", *line.split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == replies.split("; "), line


def test_fish_lists_commands_and_flags_with_their_help() -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    code = 'source completions/taming.fish; complete -C "taming tok"; complete -C "taming train-vqgan --no-f"'
    done = subprocess.run(["fish", "--no-config", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "tokenize\tEncode pictures to a token file",
        "tokens\tCheck and join token files",
        "--no-flip\tTurn --flip off.",
    ]


# --- commands that are not there yet ----------------------------------------------------------------------------------

TRAP = 'It\'s `touch trap` $(touch trap) "q": [a] {b} \\ 100% *? ~ ; | & #'


def toy() -> typer.Typer:
    """Commands of every form, with texts that want quoting."""
    root = typer.Typer(add_completion=False, context_settings={"help_option_names": ["--help"]})
    group, inner = typer.Typer(help=TRAP), typer.Typer()
    root.add_typer(group, name="one")
    group.add_typer(inner, name="two")

    @root.command(hidden=True)
    def secret() -> None: ...

    @group.command(help=TRAP)
    def plain() -> None: ...

    @inner.command(help=TRAP)
    def three(
        thing: Annotated[str, typer.Argument(metavar="THING", help="red|green")],
        folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help=TRAP)],
        others: Annotated[list[Path] | None, typer.Argument(metavar="OTHERS", help=TRAP)] = None,
        level: Annotated[typing.Literal["low", "high"], typer.Option("--level", "-l", help=TRAP)] = "low",
        special: Annotated[Path | None, typer.Option(metavar="FILE", help="A file, or `magic`.")] = None,
        fast: Annotated[bool, typer.Option("--fast/--slow", "-f/-s", help=TRAP)] = True,
        loud: Annotated[int, typer.Option("-v", "--loud", count=True, help=TRAP)] = 0,
        hidden: Annotated[bool, typer.Option(hidden=True)] = False,
    ) -> None: ...

    return root


@pytest.mark.parametrize("shell", SHELLS)
def test_new_commands_need_no_other_generator(shell: str, tmp_path: Path, folder: Path) -> None:
    for name in ("completions", "scratch"):
        (tmp_path / name).mkdir()
    part_of_generator("write").write(typer.main.get_command(toy()), tmp_path / "completions")
    offered = Asked(shell, tmp_path / "completions", tmp_path / "scratch", folder)
    for line, words in (
        ("", "one"),
        ("-", "--help"),
        ("one ", "two plain"),
        ("one two th", "three"),
        ("one two three ", "red green"),
        ("one two three --l", "--level --loud"),
        ("one two three -", "-l --level --special -f --fast -s --slow -v --loud --help"),
        ("one two three -s -v --", "--level --special --loud --help"),
        ("one two three -l ", "low high"),
        ("one two three --level=h", "high"),
        ("one two three red ou", "out"),
        ("one two three red v", ""),
        ("one two three red out vq", "vq.safetensors vq.yaml"),
        ("one two three red out vq.yaml --special m", "magic"),
    ):
        assert offered(line) - {"my pictures"} == set(words.split()), line
    offered.shell.close()
    assert not (folder / "trap").exists()


# --- what the generator is told ---------------------------------------------------------------------------------------


def test_names_that_the_generator_receives_exist() -> None:
    values = part_of_generator("values")
    helps = {}
    for path, command in COMMANDS.items():
        for parameter in command.params:
            option = parameter.param_type_name == "option"
            for name in parameter.opts if option else [parameter.metavar]:
                helps |= {name: parameter.help, f"{path} {name}": parameter.help}
    assert set(values.BY_NAME) <= set(helps)
    for name in (
        "--classifier",
        "--device",
        "annotate segmentation --model",
    ):  # which are listed there and in their help
        assert all(word in helps[name] for word in values.BY_NAME[name].words), name
    assert all(archives.suffix(Path(f"x{suffix}")) == suffix for suffix in values.ARCHIVES)
