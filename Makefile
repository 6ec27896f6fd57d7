# Everything a contributor does, by name. `make` alone lists it.
#
#   PYTHON=python3.12 VENV=.venv312 make test     another interpreter, in its own environment
#   TORCH=torch==2.4.1 VENV=.venv-old make test   another torch

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help venv test test-fast check format format-check lint types bench demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## make .venv with all that tests and checks need (again only when pyproject.toml changed)

# torch is named in the same command as the rest, so that no package can swap it for another build.
$(READY): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "LycoPatch needs Python 3.10 or newer; name one with PYTHON=python3.x"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing torch and the test tools into $(VENV); this takes a few minutes the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e '.[test,dev]'
	@touch $@

test: venv ## run all tests; ARGS="-k word" picks some
	@$(BIN)/python -m pytest $(ARGS)

test-fast: venv ## run the tests that take no time
	@$(BIN)/python -m pytest -m "not slow and not bench and not webui" $(ARGS)

check: format-check lint types test ## what has to pass before a commit: format, lint, types, tests

format: venv ## rewrite the files in the one format, and fix what the linter can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

format-check: venv ## say which files are not in the one format
	@$(BIN)/ruff format --check .

lint: venv ## look for mistakes and for imports that cross a layer
	@$(BIN)/ruff check .

types: venv ## check the types: strict in engine/, basic elsewhere
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

bench: venv ## measure, and print one table
	@$(BIN)/python -m benchmarks $(ARGS)

demo: venv ## run LycoPatch's main job on a small model of its own
	@$(BIN)/python -m lycopatch.demo $(ARGS)

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) build dist extensions_lib/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
