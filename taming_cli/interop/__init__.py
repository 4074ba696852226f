"""Import and export of other programs' model files."""
