"""What a flag or an argument may be: words, or files of some type.

Choices are read where they are declared: from the type of a parameter, from its field of a config, or from a metavar or
help text like `tiny|small`; a word that a help text has in backquotes is one that may be given besides. The types of
files are told here, once: by the metavar, a vocabulary that the commands share; where that is but FILE or PATH by the
flag, which means the same everywhere; or by command and flag.
"""

import re
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import Kind, kinds
from taming_cli.config.kinds import COMPUTED, RULES, CodecKind
from taming_cli.config.presets import PRESETS
from taming_cli.data.images import EXTENSIONS
from taming_cli.pretrained import catalogue

ANY = ""
"""The end of every file's name."""
FOLDERS = ()
"""No file: folders are offered wherever files are, as the way to them."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """What may be written: one of `words`, with `many` several with commas between; or a file whose name ends in one of
    `suffixes` (None: no file at all, empty: a folder). After a key of `keys` and `=` comes such a file, and then only
    with `bare` a file without a key too."""

    words: tuple[str, ...] = ()
    many: bool = False
    suffixes: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()
    bare: bool = True


PICTURES = tuple(sorted(EXTENSIONS))
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LISTS = (".txt",)
MODEL, TOKENS, ARRAYS, YAML = (".safetensors",), (".h5",), (".npz",), (".yaml", ".yml")
WEIGHTS = (".pth", ".pt", ".safetensors")
CHECKPOINTS = (".ckpt", ".pkl", ".pt", ".pth", ".bin", ".safetensors")
MAPS = (*PICTURES, ".npy", ".json")

WITH_MAPS = typing.get_args(CodecKind)
"""Conditions whose maps are pictures."""
CONDITIONS = ("class", *WITH_MAPS, *RULES)

BY_METAVAR = {
    "CHECKPOINT": CHECKPOINTS,
    "CODEC": MODEL,
    "FILE": (ANY,),
    "FOLDER": FOLDERS,
    "GENERATED": (*PICTURES, *ARCHIVES, *LISTS, *TOKENS, *ARRAYS),
    "IMAGE": PICTURES,
    "IMAGES": (*PICTURES, *ARCHIVES, *LISTS),
    "MODEL": MODEL,
    "OUT": FOLDERS,
    "PATH": (ANY,),
    "PRIOR": MODEL,
    "REFERENCE": (*PICTURES, *ARCHIVES, *LISTS, *TOKENS, *ARRAYS),
    "RUN": FOLDERS,
    "TOKENS": TOKENS,
}

BY_NAME = {
    "--ckpt": Value(suffixes=MODEL),
    "--class-map": Value(suffixes=(".json",)),
    "--classifier": Value(words=("efficientnet-lite0", "resnet50")),
    "--codec": Value(suffixes=MODEL),
    "--cond-ckpt": Value(suffixes=MODEL),
    "--config": Value(suffixes=(".toml", ".json")),
    "--device": Value(words=("auto", "cpu", "cuda", "mps")),
    "--init": Value(suffixes=MODEL),
    "--mask": Value(suffixes=PICTURES),
    "--npz": Value(suffixes=ARRAYS),
    "--out": Value(suffixes=FOLDERS),
    "--perceptual": Value(words=kinds(CodecTrainConfig)["perceptual"].choices),
    "--preset": Value(words=tuple(PRESETS)),
    "--prior": Value(suffixes=MODEL),
    "--tokens": Value(suffixes=TOKENS),
    "--val": Value(suffixes=(*PICTURES, *ARCHIVES, *LISTS)),
    "--weights": Value(suffixes=WEIGHTS),
    "annotate segmentation --model": Value(
        words=(
            "deeplabv3_resnet50",
            "deeplabv3_resnet101",
            "deeplabv3_mobilenet_v3_large",
            "fcn_resnet50",
            "fcn_resnet101",
            "lraspp_mobilenet_v3_large",
        )
    ),
    "export --out": Value(suffixes=(".ckpt",)),
    "import --config": Value(suffixes=YAML),
    "import --out": Value(suffixes=MODEL),
    "info --config": Value(suffixes=YAML),
    "info FILE": Value(suffixes=(*CHECKPOINTS, *TOKENS)),
    "sample --cond": Value(keys=WITH_MAPS, suffixes=MAPS),
    "tokenize --cond": Value(keys=WITH_MAPS, words=COMPUTED, suffixes=FOLDERS, bare=False),
    "tokenize --out": Value(suffixes=TOKENS),
    "tokens merge --out": Value(suffixes=TOKENS),
    "train-prior --cond": Value(words=CONDITIONS),
    "weights fetch NAME": Value(words=tuple(catalogue.usual())),
    "weights verify NAME": Value(words=tuple(catalogue.usual())),
}
"""By flag, or by command and flag or metavar, which counts for more."""


def value_of(
    path: tuple[str, ...], names: tuple[str, ...], hint: Any, metavar: str, help: str, kind: Kind | None
) -> Value:
    """What the flag of these names (or the argument of this metavar) of the command at `path` may be."""
    many = kind is not None and kind.many
    if choices := _choices(hint, metavar, help, kind):
        return Value(words=choices, many=many)
    told = _told(path, names, hint, metavar)
    quoted = (word for word in re.findall(r"`([a-z0-9-]+)`", help) if not word.startswith("-"))
    words = tuple(dict.fromkeys((*told.words, *quoted)))
    return replace(told, words=words, many=many and words != ())


def _told(path: tuple[str, ...], names: tuple[str, ...], hint: Any, metavar: str) -> Value:
    keys = [" ".join((*path, name)) for name in names] + list(names)
    if key := next((key for key in keys if key in BY_NAME), None):
        return BY_NAME[key]
    nouns = [noun for noun in re.findall(r"[A-Z]+", metavar) if noun in BY_METAVAR]
    if nouns:
        return Value(suffixes=tuple(dict.fromkeys(suffix for noun in nouns for suffix in BY_METAVAR[noun])))
    return Value(suffixes=(ANY,)) if hint is Path else Value()


def _choices(hint: Any, metavar: str, help: str, kind: Kind | None) -> tuple[str, ...]:
    """What is declared as an alternative of words."""
    if kind is not None and kind.choices:
        return kind.choices
    if typing.get_origin(hint) is Literal:
        return tuple(map(str, typing.get_args(hint)))
    for text in (metavar, help):
        if re.fullmatch(r"[a-z0-9_.-]+(\|[a-z0-9_.-]+)+", text):
            return tuple(text.split("|"))
    return ()
