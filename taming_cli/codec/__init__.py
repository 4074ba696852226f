"""Stage 1: the codec that turns pictures into codes and back."""
