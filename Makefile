# make          virtual environment, system libraries, everything for `make train`
# make train    the whole loop on the default task; ARGS="--preset cube_pickup --seed 1"
# make test     unit, contract and integration tests
# make check    lint, format, types, import rules
# make bench    measure this machine; the last line is JSON
SHELL := /bin/bash
.DEFAULT_GOAL := setup

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -b constraints.txt

.PHONY: setup dev system train test check bench clean

setup: $(VENV)/.installed system
dev: $(VENV)/.installed-dev system

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv module is missing. Run: sudo apt-get install -y python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv

$(VENV)/.installed: pyproject.toml constraints.txt setup.py | $(BIN)/uv
	$(UV_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt setup.py | $(BIN)/uv
	$(UV_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

# Software rendering; does nothing when it works already.
system:
	@PYTHON=$(PYTHON) bash .ci/system_libraries.sh

train: setup
	$(BIN)/pld train $(ARGS)

test: dev
	$(BIN)/python -m pytest $(ARGS)

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/pld bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
