# make setup | up | down | test | check | proto | docs | bench | stack-test. Only Python ≥ 3.11 and make are needed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
.DEFAULT_GOAL := help
# The tests and the station start hundreds of processes; without kept bytecode each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROBE := import sys; sys.exit(sys.version_info < (3, 11))
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SOURCES := chassis services cli bench tests deploy
# Three even on two cores, for a quarter of the time is waiting for real processes. More than four was never tried.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 3); echo $$(( n < 3 ? 3 : n > 4 ? 4 : n )))

.PHONY: help setup up down test check check-python proto docs bench stack-test \
	check-lint check-types check-imports check-protos check-locks check-compose

help:
	@sed -n '1s/^# //p' Makefile

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON); install Python 3.11 or newer, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -c '$(PROBE)' || { echo "make: $$($(PYTHON) --version) is too old; the station needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }

# One environment; the stamps remember which lock it was made from, so that the second time is quick.
$(VENV)/.dev-stamp: requirements-dev.lock pyproject.toml | check-python
	@echo "making $(VENV) with what developers need (a minute or two the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps -e .
	touch $@ $(VENV)/.run-stamp

$(VENV)/.run-stamp: requirements.lock pyproject.toml | check-python
	@echo "making $(VENV) (a minute or two the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps -e .
	touch $@

setup: $(VENV)/.dev-stamp

up: $(VENV)/.run-stamp
	@$(BIN)/calyx up --detach $(ARGS)

down: $(VENV)/.run-stamp
	@$(BIN)/calyx down $(ARGS)

# Each file in one process: stations and clocks of a file are shared by its tests.
test: setup
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: check-lint check-types check-imports check-protos check-locks check-compose
	@echo "check: all good"

check-lint: setup
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: setup
	@$(BIN)/mypy
	$(BIN)/mypy examples/python-agent/main.py

check-imports: setup
	@$(BIN)/lint-imports --no-cache

# The contracts on main are what others may already speak; an own branch is compared with them.
check-protos: setup
	@cd protos
	../$(BIN)/buf lint
	for main in refs/remotes/origin/main refs/heads/main; do
	  if git rev-parse --verify --quiet $$main:protos/buf.yaml >/dev/null; then
	    ../$(BIN)/buf breaking --against "$$(git rev-parse --path-format=absolute --git-common-dir)#ref=$$main,subdir=protos"
	    break
	  fi
	done
	PYTHON=../$(BIN)/python ./generate.sh --check

# Resolve again with the lock's pins as preference: it changes only if pyproject.toml asks for something else.
check-locks: setup
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT
	for lock in requirements.lock requirements-dev.lock requirements-chroma.lock requirements-bench.lock; do
	  read -r -a args < <(sed -n '2s/^# *uv pip compile //p' $$lock | sed "s| -o .*||")
	  cp $$lock $$folder/$$lock
	  if ! $(BIN)/uv pip compile --quiet "$${args[@]}" -o $$folder/$$lock 2>$$folder/err; then
	    if grep -qiE 'failed to (fetch|download)|error sending request|dns|connect|network|offline' $$folder/err; then
	      echo "check: $$lock not compared, the package index can't be reached"; continue
	    fi
	    cat $$folder/err >&2; exit 1
	  fi
	  diff -q <(grep -v '^#' $$lock) <(grep -v '^#' $$folder/$$lock) >/dev/null || \
	    { echo "check: $$lock is not what pyproject.toml asks for; make it again with the command in its second line" >&2; exit 1; }
	done

check-compose: setup
	@deploy/containers/compose -f docker-compose.yml config -q
	deploy/containers/compose -f docker-compose.yml -f deploy/offline/compose.offline.yml --env-file deploy/offline/offline.env config -q
	deploy/prometheus/check.sh

proto: setup
	@PYTHON=../$(BIN)/python protos/generate.sh

docs: setup
	@$(BIN)/python -m cli.settings_page

bench: setup
	@for each in bench/*.py; do echo "== $$each"; $(BIN)/python $$each $(ARGS); done

stack-test: setup
	@deploy/offline/stack-test.sh $(ARGS)
