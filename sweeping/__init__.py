"""Sweeps: many trainings that one file of Weights & Biases describes, without its server."""
