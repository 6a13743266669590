"""Experiments: sweeps of which each has a page that says what was claimed, what came out here, and how sure that is.

It is part of a clone, and not installed: ``python -m experiments NAME`` trains what is missing and writes the page.
"""
