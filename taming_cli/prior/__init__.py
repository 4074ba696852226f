"""Stage 2: a distribution over tokens, and how to draw from it."""
