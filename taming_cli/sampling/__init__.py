"""Pictures from a prior and its codec: the public `Pipeline`, requests, completion, rejection sampling, files."""
