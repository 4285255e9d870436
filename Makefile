# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check test-slow test-deployment test-gpu bench docs clean

help:
	@echo "make demo       install, then federated LoRA of MiniLM on Reuters R8 (the main job)"
	@echo "make test       install, then lint, types and tests"
	@echo "make check      lint and types only"
	@echo "make test-slow  the tests that start Flower and Ray, on the real model and data"
	@echo "make test-deployment  of those, the ones of the deployment guide, keys and faults"
	@echo "make test-gpu   the tests that need an NVIDIA GPU"
	@echo "make docs       the documentation site, into build/site (opens no connection)"
	@echo "make bench      side-by-side measurements (20 minutes; writes benchmarks/results/)"
	@echo "make clean      remove the environment and what tools left behind"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "fedpeft needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/fedpeft run --recipe recipes/demo.toml --nodes 10

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --timeout 1800

# A part of test-slow. What stands before a server is tried only where nginx is installed.
test-deployment: $(READY)
	$(BIN)/python -m pytest -m slow --timeout 1800 tests/integration/test_deployment_*.py

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu --timeout 1800

bench: $(READY)
	$(BIN)/python benchmarks/bench.py

# The variable is Material's: it ends a notice about the next major version of MkDocs.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist
