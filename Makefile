# `make demo` and `make test` are all a newcomer needs; both set up .venv first. Paths are relative, so a clone works anywhere.
# PYTHON: the interpreter that .venv is made of (3.10 to 3.13). PIP_ARGS: further arguments for pip, an index for instance.
PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
SHELL := /bin/bash

.PHONY: help venv setup setup-test setup-docs demo docs lint test test-long cluster-test coverage-models gpu-test web clean

help:
	@echo "make demo             set up .venv, answer three questions on this machine in two minutes, write report/"
	@echo "make test             set up .venv with test extras; ruff, mypy, import-linter and all tests that need no GPU"
	@echo "make venv             only the empty .venv (to put a CPU build of torch into it first, see README)"
	@echo "make setup            .venv with the project and its dependencies"
	@echo "make test-long        the tests that take minutes"
	@echo "make cluster-test     ray up, jobs and faults on several hosts (root; RIG=path of what makes hosts, tests/rig)"
	@echo "make docs             docs/configuration.md again, and the documentation as a site in site/; a broken link fails"
	@echo "make coverage-models  which timm models can be sliced: makes docs/models.md again (an hour)"
	@echo "make web              what the browser's page runs slices with, into clients/web (npm)"
	@echo "make gpu-test         the tests that need a CUDA device"
	@echo "make clean            remove .venv and caches"

venv: $(BIN)/python
setup: .venv/.project
setup-test: .venv/.test
setup-docs: .venv/.docs

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "$(PYTHON) is not Python 3.10 to 3.13: make PYTHON=python3.11 ..." >&2; exit 2; }
	"$(PYTHON)" -m venv .venv

# The marker files make a second call quick; what changes the install or what is compiled for it installs again.
INSTALLED := pyproject.toml setup.py slicer/core/codecs/transform/_compiled.c
.venv/.project: $(INSTALLED) | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -e .
	@touch $@

.venv/.test: $(INSTALLED) | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[test]'
	@touch .venv/.project $@

.venv/.docs: $(INSTALLED) | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[docs]'
	@touch .venv/.project $@

demo: setup
	$(BIN)/python -m headtail demo --out report

lint: setup-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

# Unit tests side by side, one process a core; those on a cluster share one Ray, so one after the other.
test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not gpu and not long" tests/unit
	$(BIN)/python -m pytest -m "not gpu and not long" tests/cluster

test-long: setup-test
	$(BIN)/python -m pytest -m "long and not gpu" --timeout 3600

docs: setup-docs
	$(BIN)/python docs/tools/make_configuration.py
	$(BIN)/python -m mkdocs build --strict

# RIG_VENV: the environment that the hosts of the rig share; ARGS: such as --only network,doctor.
cluster-test: setup-test
	RIG="$(RIG)" RIG_VENV="$(abspath .venv)" $(BIN)/python -m tests.rig --out docs/cluster.md $(ARGS)

coverage-models: setup-test
	$(BIN)/python benchmarks/models/coverage.py

# Without it the page of `headtail serve --web` works at cut 0.
web:
	@command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer" >&2; exit 2; }
	cd clients/web && npm ci

gpu-test: setup-test
	$(BIN)/python -m pytest -m gpu

clean:
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		slicer/core/codecs/transform/_compiled.*.so
