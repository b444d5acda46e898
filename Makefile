# Commands for developers and CI. Each target installs what it needs into $(VENV).
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
SOURCES := distributed_maddpg tests
# More processes than two cores, because tests over Ray mostly wait. A file's tests share what they set up.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest
PARALLEL := $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: train test test-fast test-slow test-versions check build docs clean

train: $(VENV)/.installed      ## install, then train on simple_adversary with Ray on the local cores
	$(BIN)/distributed-maddpg train

test: $(VENV)/.installed-dev   ## install, then run all tests but the slow ones; last those that need a quiet machine
	@failed=0; \
	$(PARALLEL) -m "not slow and not alone" || failed=1; \
	$(PYTEST) -m "not slow and alone" || failed=1; \
	exit $$failed

test-fast: $(VENV)/.installed-dev   ## the tests that neither start Ray nor kill runs: a minute or two
	$(PARALLEL) -m "not ray and not processes and not slow and not alone"

test-slow: $(VENV)/.installed-dev   ## the tests that take minutes: learning, kills at random, nodes, long runs
	$(PYTEST) -n 2 --dist load --maxschedchunk 1 -m slow

# Each version of Python and Ray in a virtual environment of its own. Where torch is pinned without a CPU-only
# build for a Python, its installation takes gigabytes.
VERSIONS := .versions
OLDEST_RAY := 2.59.0
define in_version  # Python, Ray, target
	@mkdir -p $(VERSIONS)
	sed 's/^ray==.*/ray==$(2)/' constraints.txt > $(VERSIONS)/$(1)-ray$(2).txt
	$(MAKE) $(3) PYTHON=$(1) VENV=$(VERSIONS)/$(1)-ray$(2) CONSTRAINTS=$(VERSIONS)/$(1)-ray$(2).txt
endef

test-versions:  ## fast and Ray tiers with the oldest and the newest Ray, the fast tier on the newest Python
	$(call in_version,python3.11,$(OLDEST_RAY),test)
	$(call in_version,python3.11,$(shell sed -n 's/^ray==//p' constraints.txt),test)
	$(call in_version,python3.13,$(shell sed -n 's/^ray==//p' constraints.txt),test-fast)

check: $(VENV)/.installed-dev  ## format, lint, types, import contracts
	$(BIN)/ruff format $(if $(CI),--check) $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_project.py

build: $(VENV)/.installed-dev  ## wheel and sdist in dist/
	@# An old egg-info would add files that are gone.
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --installer uv
	$(BIN)/python -m twine check --strict dist/*

docs: $(VENV)/.installed-dev   ## the documentation site in build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -n -W --keep-going -b html -c docs . build/docs

clean:
	rm -rf $(VENV) $(VERSIONS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@echo "installing into $(VENV), once: minutes, without a word where nothing is wrong"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@echo "compiling what every run needs, once: about a minute"
	rm -rf $(VENV)/first-run
	$(BIN)/distributed-maddpg train --run-dir $(VENV)/first-run --num-workers 0 --pacing.total-env-steps 12000 \
		--evaluation.final-episodes 1 > $(VENV)/first-run.log 2>&1 || (cat $(VENV)/first-run.log; exit 1)
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	touch $@
