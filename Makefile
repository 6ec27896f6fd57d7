# Everything a contributor does, by name. `make` alone lists it.
#
#   PYTHON=python3.12 VENV=.venv312 make test     another interpreter, in its own environment
#   TORCH=torch==2.4.1 VENV=.venv-old make test   another torch
#   GRADIO=3.41.2 make test-gradio                one release of gradio instead of all three
#   WEBUI_DIR=../stable-diffusion-webui make test-webui    inside a real WebUI; more in tests/webui/installation.py

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
GRADIO ?= 3.32.0 3.41.2 4.40.0
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help venv test test-fast test-gradio test-webui check format format-check lint types bench demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## make .venv with all that tests and checks need (again only when pyproject.toml changed)

# torch is named in the same command as the rest, so that no package can swap it for another build. open_clip_torch
# carries CLIP's vocabulary, for checkpoints in the demo; what it depends on would replace torch.
$(READY): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "LycoPatch needs Python 3.10 or newer; name one with PYTHON=python3.x"; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing torch and the test tools into $(VENV); this takes a few minutes the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -e '.[demo,test,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps open_clip_torch
	@touch $@

test: venv ## run all tests; ARGS="-k word" picks some
	@$(BIN)/python -m pytest $(ARGS)

test-fast: venv ## run the tests that take no time
	@$(BIN)/python -m pytest -m "not slow and not bench and not webui and not gradio" $(ARGS)

test-gradio: $(addprefix test-gradio-,$(GRADIO)) ## run the tab in each gradio that WebUIs bring; GRADIO=3.41.2 picks one

# gradio's warnings are its own affair; the tests of the tab make those that our modules cause an error again.
test-gradio-%: $(VENV)-gradio/%/.ready
	@echo "gradio $*:"
	@GRADIO=$* $(VENV)-gradio/$*/bin/python -m pytest -q -m "" -W ignore $(ARGS) \
	  tests/gradio_tab tests/hosts/a1111/test_api.py

# Small environments: gradio and what it needs in the releases of its day, in front of torch and the test tools of $(VENV).
# The path to those is written last, so that pip does not take them for its own.
$(GRADIO:%=$(VENV)-gradio/%/.ready): $(VENV)-gradio/%/.ready: tests/gradio_tab/requirements-%.txt $(READY)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' \
	  || { echo "These gradio releases need Python 3.10 to 3.12; name one with PYTHON=python3.12 VENV=.venv312"; exit 1; }
	@echo "Installing gradio $* into $(@D)."
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	  $(BIN)/python -c "$$site" > "$$($(@D)/bin/python -c "$$site")/of-the-main-environment.pth"
	@touch $@

test-webui: $(if $(WEBUI_DIR),venv) ## start the WebUI in WEBUI_DIR with the extension and test in there; some minutes
	@$(if $(WEBUI_DIR),$(BIN)/python -m pytest -m webui $(ARGS) tests/webui, \
	  echo "Skipped, as there is no WebUI: WEBUI_DIR=/path/to/stable-diffusion-webui make test-webui")

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

demo: venv ## open a page to try networks on a small Stable Diffusion; ARGS="--prompt 'a red circle' --out a.png" without it
	@$(BIN)/python -m lycopatch.demo $(ARGS)

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) $(VENV)-gradio build dist extensions_lib/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
