"""Losses: pure functions, and thin modules around those that hold state."""
