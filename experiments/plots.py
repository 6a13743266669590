"""Forms of figures that pages share: curves, points, histograms and bands, with the same color for a norm everywhere.

A figure is begun by :func:`panels`, its axes are drawn by the functions here, and :func:`save` writes it.
"""
