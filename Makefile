# Everything a user or a developer runs. Needs Python 3.11 or later with pip, and make; the rest goes into .venv.
# Another Python: make PYTHON=python3.13 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -q -c constraints.txt
STAMPED = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types bench docs dist clean

help:
	@echo 'make demo      simulate a capture, process it, and say which file to open'
	@echo 'make test      all tests'
	@echo 'make test-all  the same with what training needs ([train]: torch, onnx)'
	@echo 'make lint      style and formatting'
	@echo 'make types     type check'
	@echo 'make bench     benchmarks; results as JSON in benchmarks/results'
	@echo 'make docs      the figures of the documentation (needs the real capture: STRETCHSCOPE_DATA)'
	@echo 'make dist      wheel and source archive below dist'
	@echo 'make clean     remove .venv and everything made here'

demo: $(STAMPED)
	$(BIN)/stretchscope demo -o demo

test: $(STAMPED)-test
	$(BIN)/python -m pytest

# `make test-all ONLY='-m train'` runs what `make test` had to skip
test-all: $(STAMPED)-test $(STAMPED)-train
	$(BIN)/python -m pytest $(ONLY)

lint: $(STAMPED)-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow the mapping of rooms to sub-packages: show it a package made of links.
types: $(STAMPED)-lint
	rm -rf build/typed && mkdir -p build/typed/stretchscope
	ln -s ../../../stretchscope/__init__.py ../../../stretchscope/py.typed build/typed/stretchscope/
	for room in acquisition sr classify data pipeline; do ln -s ../../../$$room build/typed/stretchscope/$$room; done
	MYPYPATH=build/typed $(BIN)/mypy -p stretchscope

bench: $(STAMPED)-train
	for script in $$(grep -l __main__ benchmarks/*.py); do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

docs: $(STAMPED)
	$(BIN)/python docs/make_figures.py

dist: $(STAMPED)-build
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .

clean:
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each set of extras: the second run installs nothing, a change of the lists installs again.
$(STAMPED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(STAMPED)-%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[$*]'
	@touch $@ $(STAMPED)

# Where venv comes without pip (some Linux distributions), the Python that calls it has pip and brings it in.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "stretchscope needs Python 3.11 or later; '$(PYTHON) --version' says: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "Making $(VENV); installing into it takes a minute or two, once."
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV) \
	    && $(PYTHON) -m venv --without-pip $(VENV) \
	    && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; } || { rm -rf $(VENV); exit 2; }
