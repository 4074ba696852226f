"""New pictures from a prior and its codec: the public `Pipeline`, completion, rejection, files."""
