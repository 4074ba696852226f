"""Frozen, pretrained networks: perceptual, feature, classifier."""
