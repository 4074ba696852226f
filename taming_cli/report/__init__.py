"""Pages about runs: pictures, charts, figures, settings, and several runs compared."""
