"""What a run has learned, as pages to look at: charts, pictures, figures, and runs compared."""
