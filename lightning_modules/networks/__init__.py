"""Networks, free of any training logic."""
