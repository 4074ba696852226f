"""Frozen keyword-only dataclasses, one file per stage, and presets. Standard library only."""
