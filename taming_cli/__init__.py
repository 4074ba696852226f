"""Train a discrete image codec, a transformer prior on its codes, and sample new images."""

__version__ = "0.1.0"
