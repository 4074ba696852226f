"""The kinds of condition, and which of them a codec can be trained on."""

from typing import Literal

CodecKind = Literal["image", "segmentation", "depth", "pose", "edges"]
"""What a codec takes: pictures, or the maps of one kind of condition."""

RULES = ("lowres", "coords")
"""Conditions whose codes a rule makes of the picture, without a codec."""

MADE = ("edges", *RULES)
"""Conditions that can be made of the picture itself; the others need a map beside it."""
