# Needs make and Python >= 3.11, nothing else: the first target builds .venv with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := envs agents buffers trainers
CODE := $(PACKAGES) tests $(wildcard benchmarks)
INSTALLED := .venv/.installed

# What `make demo` runs.
DEMO ?= train --preset gmm25-t5-adaptive --seed 0 --out runs/demo --overwrite

# One thread per process: the networks of the tests are small, and more threads only get into each other's way.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: $(INSTALLED) ## train a sampler on a 25-mode mixture and write its run folder, runs/demo
	$(BIN)/ebbflow $(DEMO)

test: lint $(INSTALLED) ## lint, types, and all tests (docstring examples included) with coverage
	$(BIN)/pytest --numprocesses auto --dist loadfile --cov --cov-report=term

lint: types $(INSTALLED) ## formatting, lint rules and types; changes nothing
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

# The folders appear under their import name, as links, so that the type checker sees `ebbflow` as users do.
types: $(INSTALLED) ## type check of the four packages
	@mkdir -p build/typing/ebbflow
	@for package in $(PACKAGES); do ln -sfn "$(CURDIR)/$$package" "build/typing/ebbflow/$$package"; done
	$(BIN)/mypy

format: $(INSTALLED) ## reformat and fix what can be fixed by itself
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

clean: ## remove what tools left behind; .venv/ and runs/ stay
	rm -rf build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "ebbflow needs Python >= 3.11; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@
