"""Tensor names of the same network in other layouts: rules that translate from the published names and back.

A rule is a pair of patterns, published and foreign, for the start of a name. `{i}` and `{j}` match numbers, `{-i}` a
level counted from the other end, as in decoders that list the lowest resolution first.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from taming_cli.errors import BadFileError

Rules = Sequence[tuple[str, str]]

_RESNET = [("norm1.", "norm1."), ("conv1.", "conv1."), ("norm2.", "norm2."), ("conv2.", "conv2.")]
_SAME = [
    *[(f"{side}.{layer}.", f"{side}.{layer}.") for side in ("encoder", "decoder") for layer in ("conv_in", "conv_out")],
    ("quantize.embedding.", "quantize.embedding."),
    ("quant_conv.", "quant_conv."),
    ("post_quant_conv.", "post_quant_conv."),
]


def _each(published: str, foreign: str, inner: Rules) -> list[tuple[str, str]]:
    return [(published + one, foreign + other) for one, other in inner]


def _diffusers(attention: Rules) -> Rules:
    resnet = [*_RESNET, ("nin_shortcut.", "conv_shortcut.")]
    rules = [*_SAME]
    for side in ("encoder", "decoder"):
        down = ("encoder.down.{i}", "encoder.down_blocks.{i}")
        ours, theirs = down if side == "encoder" else ("decoder.up.{i}", "decoder.up_blocks.{-i}")
        change = ("downsample", "downsamplers.0") if side == "encoder" else ("upsample", "upsamplers.0")
        rules += _each(f"{ours}.block.{{j}}.", f"{theirs}.resnets.{{j}}.", resnet)
        rules += _each(f"{ours}.attn.{{j}}.", f"{theirs}.attentions.{{j}}.", attention)
        rules += [(f"{ours}.{change[0]}.conv.", f"{theirs}.{change[1]}.conv.")]
        rules += _each(f"{side}.mid.block_1.", f"{side}.mid_block.resnets.0.", resnet)
        rules += _each(f"{side}.mid.attn_1.", f"{side}.mid_block.attentions.0.", attention)
        rules += _each(f"{side}.mid.block_2.", f"{side}.mid_block.resnets.1.", resnet)
        rules += [(f"{side}.norm_out.", f"{side}.conv_norm_out.")]
    return rules


DIFFUSERS = _diffusers(
    [("norm.", "group_norm."), ("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")]
)
OLD_DIFFUSERS = _diffusers(
    [("norm.", "group_norm."), ("q.", "query."), ("k.", "key."), ("v.", "value."), ("proj_out.", "proj_attn.")]
)
"""The names of diffusers before 0.15."""

LLAMAGEN: Rules = [
    *_SAME,
    *[
        rule
        for side, ours, theirs, change in (
            ("encoder", "encoder.down.{i}", "encoder.conv_blocks.{i}", "downsample"),
            ("decoder", "decoder.up.{i}", "decoder.conv_blocks.{-i}", "upsample"),
        )
        for rule in (
            (f"{ours}.block.{{j}}.", f"{theirs}.res.{{j}}."),
            (f"{ours}.attn.{{j}}.", f"{theirs}.attn.{{j}}."),
            (f"{ours}.{change}.", f"{theirs}.{change}."),
            (f"{side}.mid.block_1.", f"{side}.mid.0."),
            (f"{side}.mid.attn_1.", f"{side}.mid.1."),
            (f"{side}.mid.block_2.", f"{side}.mid.2."),
            (f"{side}.norm_out.", f"{side}.norm_out."),
        )
    ],
]


def to_published(names: Iterable[str], rules: Rules, where: str) -> Mapping[str, str]:
    """Foreign names -> published names. BadFileError for a name without a rule."""
    names = list(names)
    return _translated(names, [(theirs, ours) for ours, theirs in rules], _levels(names, rules, 1), where)


def from_published(names: Iterable[str], rules: Rules, where: str) -> Mapping[str, str]:
    """Published names -> foreign names. BadFileError for a name without a rule."""
    names = list(names)
    return _translated(names, rules, _levels(names, rules, 0), where)


def _translated(names: Sequence[str], rules: Rules, levels: int, where: str) -> Mapping[str, str]:
    translated = {}
    for name in names:
        new = next((new for rule in rules if (new := _apply(rule, name, levels)) is not None), None)
        if new is None:
            raise BadFileError(f"{where} has a tensor that belongs to no supported codec: {name}")
        translated[name] = new
    return translated


def _apply(rule: tuple[str, str], name: str, levels: int) -> str | None:
    match = _pattern(rule[0]).match(name)
    if match is None:
        return None
    numbers = {key: int(value) for key, value in match.groupdict().items()}
    if "i" in numbers and ("{-i}" in rule[0]) != ("{-i}" in rule[1]):
        numbers["i"] = levels - 1 - numbers["i"]
    return rule[1].replace("{-i}", "{i}").format(**numbers) + name[match.end() :]


def _levels(names: Sequence[str], rules: Rules, side: int) -> int:
    """The number of the encoder's levels, from names of the given side of the rules."""
    patterns = {_pattern(rule[side]) for rule in rules if rule[0].startswith("encoder.down.{i}")}
    return 1 + max((int(match["i"]) for name in names for p in patterns if (match := p.match(name))), default=-1)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    text = re.escape(text).replace(r"\{\-i\}", r"(?P<i>\d{1,9})").replace(r"\{i\}", r"(?P<i>\d{1,9})")
    return re.compile(text.replace(r"\{j\}", r"(?P<j>\d{1,9})"))
