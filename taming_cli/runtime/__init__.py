"""Where and how things run: device, precision, checkpoints, run directory, weights, report."""
