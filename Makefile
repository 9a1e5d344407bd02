# Each target sets up what it needs. `make demo` and `make test` are the two to know.
PYTHON ?= python3
BIN := .venv/bin

# Some images set it. Each worker and each process that a test starts would compile all tests and the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint types fast slow test-vllm docs warm-start benchmark clean

demo: .venv/.installed
	$(BIN)/rethink demo

test: lint types fast

test-all: test slow

lint: .venv/.installed-test
	$(BIN)/ruff format --check src tests examples benchmarks tools
	$(BIN)/ruff check src tests examples benchmarks tools
	$(BIN)/lint-imports

types: .venv/.installed-test
	$(BIN)/mypy

fast: .venv/.installed-test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

# What trains, starts processes, or takes longer than a second or two.
slow: .venv/.installed-test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

# vLLM itself: its CPU build, in a separate environment.
test-vllm: .venv-vllm/.installed
	.venv-vllm/bin/python -m pytest -q tests/with_vllm

# The documentation site, in build/site: ten seconds. Dead links, pages that the navigation does not name, and requests to other
# hosts fail. NO_MKDOCS_2_WARNING hides the theme's notice of its successor.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

# Trains the tiny model that ships in the package again (see src/rethink/models/tiny/README.md).
warm-start: .venv/.installed
	$(BIN)/rethink train warm-start

benchmark: .venv/.installed
	$(BIN)/python benchmarks/vs_trl.py --quick
	$(BIN)/python benchmarks/roofline.py

clean:
	rm -rf .venv .venv-vllm .venv-docs build dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-test: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/.installed

.venv-vllm/.installed: pyproject.toml tests/with_vllm/install.py tests/with_vllm/constraints.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python tests/with_vllm/install.py
	touch $@

.venv-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet "pip>=25.1"
	.venv-docs/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	touch $@
