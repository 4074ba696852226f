"""The measurements: what networks see in pictures is compared; codecs and priors are asked how they do."""
