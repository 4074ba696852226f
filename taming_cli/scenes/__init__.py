"""Procedural scenes: landscapes and people, each with its segmentation, depth, pose and class.

`scene` draws one from its number; `write` makes a folder of them.
"""

from taming_cli.scenes.canvas import CLASSES, LABELS, PALETTE, Scene
from taming_cli.scenes.folder import workers_for, write
from taming_cli.scenes.generate import Kind, label_of, scene

__all__ = ["CLASSES", "LABELS", "PALETTE", "Kind", "Scene", "label_of", "scene", "workers_for", "write"]
