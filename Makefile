# What a developer does with the project. `make` lists it; every target but `install` and `versions` uses .venv.
BIN ?= .venv/bin

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## make .venv with everything that the other targets need
	python3 -m venv .venv && .venv/bin/pip install -e ".[dev,docs]"

test:  ## all tests, on two cores
	$(BIN)/pytest -n 2 --dist worksteal

quick:  ## the tests that take less than about five seconds each
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

lint:  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage:  ## all tests, and which lines they leave out
	$(BIN)/pytest -n 2 --dist worksteal --cov --cov-report term --cov-report html:out/coverage

docs:  ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench:  ## whether the benchmark of the norms works; CONTRIBUTING.md says how to measure
	$(BIN)/python benchmarks/norms.py --quick

versions:  ## the quick tests with the oldest and the newest versions that pyproject.toml allows; 11 GB in out/
	for resolution in lowest-direct highest; do \
		$(BIN)/uv venv --clear --python 3.11 out/$$resolution && \
		$(BIN)/uv pip install --python out/$$resolution --resolution $$resolution -e ".[test]" && \
		$(BIN)/uv pip list --python out/$$resolution && \
		out/$$resolution/bin/pytest -n 2 --dist worksteal -m "not slow" || exit 1; \
	done

.PHONY: help install test quick lint coverage docs bench versions
