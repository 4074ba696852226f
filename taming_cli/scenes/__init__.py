"""Procedural scenes: landscapes and people, each with its segmentation, depth, pose and class.

`generate.scene` draws one from its number; `folder.write` makes a data set of them.
"""
