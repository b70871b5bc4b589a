# make demo and make test need python 3.11 or newer (with venv), and nothing else; both do the set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
DEMO ?= results/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP) ## Create .venv with the exact versions of requirements.txt, if it is missing or out of date

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(BIN)/python -c 'pass' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## Train a small ConvMixer on handwritten digits and look at its results
	@rm -rf $(DEMO)
	@$(BIN)/python -m convmixer train --dataset digits --dim 96 --depth 4 --kernel-size 5 --patch-size 1 \
		--epochs 30 --batch-size 32 --lr 0.005 --label-smoothing 0.1 --crop-padding 1 --randaugment 0 --erasing 0.2 \
		--seed 1 --out $(DEMO)
	@$(BIN)/python -m convmixer evaluate $(DEMO)
	@echo "Look at the pictures in $(DEMO), then see $(BIN)/convmixer --help."

test: $(STAMP) ## Run all tests
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(STAMP) ## Check style, types and the layers of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and all caches; runs and data stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
