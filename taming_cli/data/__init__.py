"""Pictures, conditions and token files in and out."""
