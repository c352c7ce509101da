# `make demo` and `make test` each do everything on a fresh machine: virtual environment, install, run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo systems docs test long chaos check audit format clean

demo: $(VENV)/.demo
	$(BIN)/harness run sweeps/quickstart.yaml

# Every kind of task and of model, checked against the constant predictor: about 20 minutes on two cores.
systems: $(VENV)/.systems
	failed=0; for sweep in systems retention; do $(BIN)/harness run sweeps/$$sweep.yaml || failed=$$?; done; exit $$failed

test: check
	$(BIN)/python -m pytest -x -n 2 --dist loadfile

# The same promises on every family, precision and depth: about half an hour.
long: $(VENV)/.dev
	$(BIN)/python -m pytest -x -m long -n 2 --dist loadfile

# Faults injected for real, for minutes: kills, lost nodes, full disks.
chaos: $(VENV)/.chaos
	$(BIN)/python -m pytest -x -m chaos -n 2 --dist worksteal

# The quality gate: style, types, and that imports go one way.
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known faults of the pinned versions; asks the network, so no part of `make test`.
audit: $(VENV)/.dev
	$(BIN)/python -m pip install --disable-pip-version-check -q pip-audit
	$(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --strict

# The pages that are made from the registry.
docs: $(VENV)/.dev
	$(BIN)/python docs/systems.py
	$(BIN)/python docs/strategies.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e ".[demo]"
	touch $@

$(VENV)/.systems: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e ".[demo,kinds]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e ".[dev]"
	touch $@

# With what a job server needs, of which each Ray would start a part.
$(VENV)/.chaos: $(VENV)/.dev
	$(INSTALL) -e ".[cluster]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
