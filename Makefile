# Everything a clean checkout needs: each target sets up its own .venv with the pinned torch first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

CLIENTS := build/clients

.PHONY: demo docs gateway-demo test clients lint evidence evidence-quick bench mutants pocket smol wheel clean

demo: $(STAMP)
	$(BIN)/roster demo

gateway-demo: $(STAMP)
	$(BIN)/python benchmarks/gateway_demo.py

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The gateway's tests with clients that people use, in an environment of their own: some want older packages.
clients:
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,clients]'
	$(CLIENTS)/bin/python -m pytest tests/gateway/test_clients.py tests/gateway/test_more_clients.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, in site/; any warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(STAMP)
	$(BIN)/python benchmarks/mixture.py
	$(BIN)/python benchmarks/moe.py
	$(BIN)/python benchmarks/routers.py
	$(BIN)/python benchmarks/lm_decide.py
	$(BIN)/python benchmarks/gateway.py

# Runs what the declarations ask for and the records lack; make evidence JOBS=4 for four processes.
JOBS ?= 1
evidence: $(STAMP)
	$(BIN)/python -m evidence.run --jobs $(JOBS)
	$(BIN)/python -m evidence.lm
	$(BIN)/python -m evidence.ladder

# Every contender of every check for a few steps; nothing is kept.
evidence-quick: $(STAMP)
	$(BIN)/python -m evidence.run --quick

# How many small changes to core code the tests notice: half an hour on one idle core; carries on where it stopped.
mutants: $(STAMP)
	$(PIP) -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python -m mutants --jobs $(JOBS)
	$(BIN)/python -m mutants.report

pocket: $(STAMP)
	$(BIN)/python -m roster.pocket.make

smol: $(STAMP)
	$(BIN)/roster smol prepare
	OMP_NUM_THREADS=2 $(BIN)/roster smol make

# What a user gets from the package index: the built wheel, alone in a fresh environment, away from the sources.
wheel: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build && fresh/bin/roster --version && fresh/bin/roster demo --examples 2

# $(call step,WHAT,COMMAND): one line that says what is done, and how long it took.
step = @printf '%s ... ' '$(1)'; start=$$(date +%s); $(2) && printf '%s s\n' $$(($$(date +%s) - start))
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

$(STAMP): pyproject.toml constraints.txt
	$(call step,set-up 1/3: Python environment in $(VENV),(test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)))
	$(call step,set-up 2/3: torch 2.13.0,$(PIP) torch==2.13.0)
	$(call step,set-up 3/3: roster and what it stands on,$(PIP) -c constraints.txt -e '.[dev]')
	@touch $@

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
