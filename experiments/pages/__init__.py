"""The pages, a module each, which is found by being here; see :mod:`experiments.catalog`."""
