# Everything runs inside .venv, which `make env` builds from requirements.lock, hashes checked.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation
DEMO := results/demo
REFERENCE := .reference
# Inputs of each test of spoilt files.
FUZZ_EXAMPLES ?= 5300
# Of several calls in one folder at a time one builds, the others wait, and look again whether they must.
ALONE := +$(PYTHON) tools/alone.py

.PHONY: help env demo test faults fuzz test-slurm lint audit bench gpu

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(READY) ## .venv, from requirements.lock

ifndef LOCKED
$(READY): requirements.lock pyproject.toml
	$(ALONE) $(VENV).lock $(MAKE) --no-print-directory LOCKED=yes $@

$(REFERENCE)/.ready: benchmarks/requirements.txt | $(READY)
	$(ALONE) $(REFERENCE).lock $(MAKE) --no-print-directory LOCKED=yes $@
else
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}; call make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
# First what builds packages that are published as source alone, and torch: with hashes, pip would pass
# over a CPU build that lies in the user's own folder of wheels for the CUDA build of the index.
	$(BIN)/pip download --quiet --no-deps --dest $(VENV)/torch $$(grep -o '^torch==[^ ]*' requirements.lock)
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > $(VENV)/first.txt
	sed -n '/^torch==/,/[^\\]$$/p' requirements.lock | sed "1s|^[^ ]*|$$(echo $(VENV)/torch/*.whl)|" >> $(VENV)/first.txt
	$(INSTALL) --require-hashes --no-deps --requirement $(VENV)/first.txt
	$(INSTALL) --require-hashes --no-deps --requirement requirements.lock
# Brings what a CUDA build of torch asks for beside itself; with a CPU build nothing is left to install.
	$(INSTALL) --editable .
	$(BIN)/pip check
	rm -r $(VENV)/torch
	touch $@

# What a benchmark compares with stays out of the environment: nothing else may come to need it.
$(REFERENCE)/.ready: benchmarks/requirements.txt
	rm -rf $(REFERENCE)
	$(INSTALL) --require-hashes --no-deps --target $(REFERENCE) --requirement $<
	touch $@
endif

demo: $(READY) ## the whole workflow on eight small heads, and its report
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml
	$(BIN)/snakemake --cores 1 --configfile config/demo.yaml --report $(DEMO)/report.html
	@echo
	@echo "Report:  $(abspath $(DEMO))/report.html"
	@echo "Table 1: $(abspath $(DEMO))/table1.md"

lint: $(READY) ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Two files of tests at a time, with one thread each: many wait for jobs of one core.
test: lint ## lint and all tests but the next two
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Debian and root: it installs SLURM, starts its daemons, and ends them. Elsewhere it says why not.
test-slurm: $(READY) ## the workflow on a real SLURM: Debian, root
	$(BIN)/python -m pytest -rs -m slurm

# One kill in each rule, and more in training.
faults: $(READY) ## the workflow killed in every rule
	$(BIN)/python -m pytest --kills 36 tests/robustness/test_faults.py

# 19 tests of 5300 inputs each.
fuzz: $(READY) ## 100,000 spoilt scans and images
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/pipeline/scans/test_fuzz.py tests/pipeline/scans/test_listmode.py tests/pipeline/images/test_fuzz.py

audit: $(READY) ## known vulnerabilities of the locked packages
	$(BIN)/python -m tools.audit

bench: $(READY) $(REFERENCE)/.ready ## all benchmarks
	$(BIN)/snakemake --cores $(CORES) --configfile config/demo.yaml -- $(DEMO)/weights/cDPM.safetensors data/demo/shards/subject05.h5
	$(BIN)/python -m benchmarks

# Without a GPU every step runs at a tiny size on the CPU.
gpu: $(READY) ## what is right and how fast on this GPU: docs/gpu
	$(BIN)/python -m benchmarks.gpu
