"""Sampling and likelihood of PixelSNAIL, whose pictures have the size of its window."""
