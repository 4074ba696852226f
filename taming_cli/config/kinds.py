"""The kinds of condition."""

from typing import Literal, get_args

CodecKind = Literal["image", "segmentation", "depth", "pose", "edges"]
"""The content of a codec: pictures, or the maps of one kind of condition."""

RULES = ("lowres", "coords")
"""Conditions whose codes are computed from the picture by a rule, without a codec."""

KINDS = (*get_args(CodecKind)[1:], *RULES)
"""All conditions but the class."""

COMPUTED = ("edges", *RULES)
"""Conditions that are computed from the picture if there is no map; the others need maps."""
