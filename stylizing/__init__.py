"""Repainting photos with a trained style-transfer network."""
