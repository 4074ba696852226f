"""Plans, sampling and likelihood of the priors that draw groups of cells in any order."""
