"""Quantizers: from vectors of the encoder to codes and entries of a codebook, and how the codebook learns."""
