"""The variants that `scripts/recipes` compares: flags of `taming train-vqgan` beside those of all."""

import re
import shlex
from collections.abc import Iterable

from taming_cli.config.fields import one_of
from taming_cli.errors import UsageError

DEFAULT = "default"
VARIANTS = {
    DEFAULT: "",
    "vq": "--quantizer vq",
    "rotation": "--gradient rotation",
    "vq-rotation": "--quantizer vq --gradient rotation",
    "simvq": "--quantizer simvq",
    "simvq-rotation": "--quantizer simvq --gradient rotation",
    "ibq": "--quantizer ibq",
    "fsq": "--quantizer fsq",
    "ifsq": "--quantizer fsq --fsq-bound sigmoid",
    "lfq": "--quantizer lfq",
    "normalize": "--normalize",
    "disc-schedule": "--disc-final-lr 0.02",
    "lecam": "--lecam-weight 0.05",
    "augment": "--disc-augment colour,translation,cutout",
    "blur": "--disc-blur",
    "logits": "--logits-weight 0.001",
    "deferred": "--quantize-start 0.1",
    "wide-decoder": "--decoder-ch 40",
    "plain": "--patch-size 1 --ch-mult 1,1,2,4 --no-shortcut",
    "no-patch": "--patch-size 1 --ch-mult 1,1,2,4",
    "no-shortcut": "--no-shortcut",
    "rate": "--learning-rate 1e-3",
}
"""The flags of each variant by its name."""
SHARED = ("--minutes", "--seed", "--size", "--out", "-o", "--name", "--resume")
"""Flags that are the same for all variants."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def chosen(names: str | None, own: Iterable[str] = ()) -> dict[str, str]:
    """The flags of the variants that are compared, `default` first. `names` is a list with commas; without one, all
    variants, or, with `own` ones, `default` alone. `own` are texts like `NAME=FLAGS`.

    UsageError for a name that does not exist or is used twice, and for flags that all variants share.
    """
    added: dict[str, str] = {}
    for text in own:
        name, flags = _own(text)
        if name in VARIANTS or name in added:
            raise UsageError(f"variant {name} exists already: {(VARIANTS | added)[name]!r}; use another name")
        added[name] = flags
    asked = [name.strip() for name in names.split(",")] if names is not None else []
    for name in asked:
        if name not in VARIANTS and name not in added:
            raise UsageError(f"no variant is called {name!r}; {one_of([*VARIANTS], name)}, or --variant NAME='FLAGS'")
    if names is None and not added:
        asked = [*VARIANTS]
    order = dict.fromkeys((DEFAULT, *asked, *added))
    return {name: (VARIANTS | added)[name] for name in order}


def _own(text: str) -> tuple[str, str]:
    name, sign, flags = text.partition("=")
    if not sign or not NAME.fullmatch(name):
        raise UsageError(f"variant {text!r} is not NAME=FLAGS, with a name of letters, digits and -_.+")
    try:
        words = shlex.split(flags)
    except ValueError as error:
        raise UsageError(f"variant {name}: {error} in {flags!r}") from error
    for word in words:
        if word.partition("=")[0] in SHARED:
            raise UsageError(f"variant {name} sets {word}, which is the same for all variants; leave it out")
    return name, shlex.join(words)
