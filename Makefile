# make demo   set everything up and run the main job on real data
# make test   format, lint, types, import rules, and the whole test suite
# Both install what they need into .venv and are quick the second time.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check format test-slow test-feast bench clean

help:
	@sed -n 's/^# //p' Makefile
	@echo 'make check      format, lint, types and import rules alone (seconds)'
	@echo 'make format     bring the code into its format'
	@echo 'make test-slow  the tests that take minutes'
	@echo 'make test-feast the tests of registration in Feast, in an environment of its own ($(FEAST))'
	@echo 'make bench      every benchmark at its small size, but those beside other libraries'
	@echo 'make clean      remove the environment and all caches'

demo: $(VENV)/.installed-demo
	@$(BIN)/recokit demo

test: check
	@$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m slow

# Feast wants an older pandas than constraints.txt has, and no torch.
FEAST  ?= .venv-feast
test-feast: $(FEAST)/.installed
	@$(FEAST)/bin/python -m pytest tests/recokit/test_exports_feast.py

$(FEAST)/.installed: pyproject.toml setup.py
	@echo 'making $(FEAST)'
	@$(PYTHON) -m venv $(FEAST)
	@$(FEAST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[feast]' pytest
	@touch $@

check: $(VENV)/.installed-dev
	@$(BIN)/ruff format --check --quiet . || { echo 'some files are not formatted: make format'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >$(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

format: $(VENV)/.installed-dev
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

# Those beside other libraries need an environment of theirs; each says how to make it.
PEERS := benchmarks/against_bigraph.py benchmarks/quality_for_time.py
bench: $(VENV)/.installed-dev
	@for script in $(filter-out $(PEERS),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) $(FEAST) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'recokit needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...'; exit 1; }
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that its pinned version is there before anything asks for a range.
$(VENV)/.installed-demo: pyproject.toml constraints.txt setup.py $(wildcard pretrain/native/*.?pp) | $(BIN)/python
	@echo 'installing into $(VENV) (a minute or two the first time)'
	@$(PIP) torch
	@$(PIP) --editable '.[demo]'
	@$(PIP) hnswlib >$(VENV)/hnswlib.log 2>&1 \
		|| echo 'hnswlib was not installed: it has no wheel and needs a C++ compiler ($(VENV)/hnswlib.log); all else works without it'
	@touch $@

# torchrec's own requirements name a CUDA build of its native part, so the CPU pair goes in without them.
$(VENV)/.installed-dev: $(VENV)/.installed-demo
	@$(PIP) --editable '.[dev,torchrec]'
	@$(PIP) --no-deps torchrec fbgemm-gpu-cpu \
		|| echo 'torchrec or its native part was not installed: its tests will skip; all else works without it'
	@touch $@
