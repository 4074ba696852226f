"""Frozen networks with published weights: perceptual, feature, classification and annotation networks."""
