"""The only place that parses or prints: typer and rich, no torch at import."""
