"""The networks of the priors, and what they attend to."""
