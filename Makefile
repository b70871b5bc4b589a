# Every target needs Python 3.11 or newer (with venv) and sets up what else it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
TOOLS := $(VENV)/.tools
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
AUDIT := $(VENV)/audit/.made
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
JOBS ?= 2
DEMO ?= results/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast torture lint format lock audit clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: $(TOOLS) ## Create or update .venv for development: requirements-dev.txt and the package, editable

$(PACKAGE): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(BIN)/python -c 'pass' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(TOOLS): $(PACKAGE) requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

demo: $(PACKAGE) ## Train a small ConvMixer on handwritten digits and look at its results
	@rm -rf $(DEMO)
	@$(BIN)/python -m convmixer train --dataset digits --dim 96 --depth 4 --kernel-size 5 --patch-size 1 \
		--epochs 30 --batch-size 32 --lr 0.005 --label-smoothing 0.1 --crop-padding 1 --randaugment 0 --erasing 0.2 \
		--seed 1 --out $(DEMO)
	@$(BIN)/python -m convmixer evaluate $(DEMO)
	@echo "Look at the pictures in $(DEMO), then see $(BIN)/convmixer --help."

test: $(TOOLS) ## Run all tests
	$(BIN)/python -m pytest -n $(JOBS)

test-fast: $(TOOLS) ## Run the tests that take about a second at most
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu"

torture: $(TOOLS) ## Kill, damage and deceive it for TORTURE_MINUTES (15), and write results/reliability
	$(BIN)/python -m tests.torture

lint: $(TOOLS) ## Check style, types and the layers of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TOOLS) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(AUDIT): Makefile $(PACKAGE)
	@$(PYTHON) -m venv --clear $(dir $@)
	@$(dir $@)bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1 uv==0.13.9
	@touch $@

# Of PyTorch the lock has its own CPU build (Linux, x86-64, Python 3.11), which is not on PyPI: beside PyPI's, pip would take that.
lock: $(AUDIT) ## Make requirements.lock anew: the versions of requirements.txt, with the SHA-256 of every file of them
	@$(dir $(AUDIT))bin/uv pip compile --quiet --no-config --no-deps --generate-hashes --no-annotate --python-version 3.11 \
		--custom-compile-command "make lock" --output-file requirements.lock requirements.txt
	@perl -0pi -e 's/^(torch==\S+ \\\n)(    --hash=\S+( \\)?\n)+/$$1    --hash=sha256:$(TORCH_CPU)\n/m' requirements.lock

audit: $(AUDIT) ## Look the locked versions up in PyPI's database of known vulnerabilities
	@$(dir $(AUDIT))bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock || \
		{ echo "make audit: a version is vulnerable, or could not be looked up, as the lines above say; it needs pypi.org." >&2; exit 1; }

clean: ## Remove the environment and all caches; runs and data stay
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
