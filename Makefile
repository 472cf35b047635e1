# Everything runs inside .venv, which `make env` builds from requirements.lock alone.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := results/demo
REFERENCE := .reference

.PHONY: env demo test test-slurm lint bench

env: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}; call make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(READY)
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml
	$(BIN)/snakemake --cores 1 --configfile config/demo.yaml --report $(DEMO)/report.html
	@echo
	@echo "Report:  $(abspath $(DEMO))/report.html"
	@echo "Table 1: $(abspath $(DEMO))/table1.md"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

test: lint
	$(BIN)/python -m pytest

# Debian and root: it installs SLURM, starts its daemons, and ends them. Elsewhere it says why not.
test-slurm: $(READY)
	$(BIN)/python -m pytest -rs tests/slurm_dag.py

bench: $(READY) $(REFERENCE)/.ready
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml -- $(DEMO)/weights/cDPM.safetensors data/demo/shards/subject05.h5
	$(BIN)/python -m benchmarks

# What a benchmark compares with stays out of the environment: nothing else may come to need it.
$(REFERENCE)/.ready: benchmarks/requirements.txt | $(READY)
	rm -rf $(REFERENCE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(REFERENCE) --requirement $<
	touch $@
