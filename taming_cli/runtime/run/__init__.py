"""A training run: its folder, its data, its metrics, and how it resumes."""
