"""Sampling, completion and likelihood of the priors that read codes in raster order, through windows."""
