"""The kinds of condition, and which of them a codec can be trained on."""

from typing import Literal, get_args

CodecKind = Literal["image", "segmentation", "depth", "pose", "edges"]
"""What a codec takes: pictures, or the maps of one kind of condition."""

RULES = ("lowres", "coords")
"""Conditions whose codes a rule makes of the picture, without a codec."""

KINDS = (*get_args(CodecKind)[1:], *RULES)
"""Conditions that come with the pictures, besides their class."""

MADE = ("edges", *RULES)
"""Conditions that can be made of the picture itself; the others need a map beside it."""
