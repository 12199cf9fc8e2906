"""Programs evaluated on numbers that are known up to radii."""
