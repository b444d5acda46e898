# Commands for developers and CI. Each target installs what it needs into $(VENV).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SOURCES := distributed_maddpg tests

.PHONY: train test test-fast check format clean

train: $(VENV)/.installed      ## install, then train on simple_adversary with Ray on the local cores
	$(BIN)/distributed-maddpg train

test: $(VENV)/.installed-dev   ## install, then run all tests
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-dev   ## the tests that start no process and take seconds
	$(BIN)/python -m pytest -m "not ray and not slow"

check: $(VENV)/.installed-dev  ## format, lint, types, import contracts
	$(BIN)/ruff format $(if $(CI),--check) $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_project.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
