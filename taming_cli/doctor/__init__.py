"""Whether what a user needs works on this machine: versions, devices, weights, folders, settings."""
