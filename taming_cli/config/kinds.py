"""The kinds of condition."""

from typing import Literal, get_args

CodecKind = Literal["image", "segmentation", "depth", "pose", "edges"]
"""The content of a codec: pictures, or the maps of one kind of condition."""

RULES = ("lowres", "coords")
"""Conditions whose codes are computed from the picture by a rule, without a codec."""

KINDS = (*get_args(CodecKind), *RULES)
"""All conditions but the class; `image` is a picture that is paired with the one to draw."""

COMPUTED = ("edges", *RULES)
"""Conditions that are computed from the picture if there is no map; the others need maps."""
