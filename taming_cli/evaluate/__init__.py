"""Evaluation: metrics of images, codecs and priors, with the protocol of each result."""
