# Each target sets up .venv by itself: Python 3.11 or newer, pip and a package index are enough.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help lock demo test test-slow lint samples wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/run  ## train NerCo, a CRF tagger and a plain token classifier, compare them, tag three sentences
	$(BIN)/python samples/demo.py

test: .venv/dev  ## the default test suite, offline
	$(BIN)/python -m pytest -n 2

test-slow: .venv/dev  ## the slow tests: demo, README, wheel, interrupted runs
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

samples: .venv/run  ## make samples/zh/*.jsonl from the marked-up source
	$(BIN)/python samples/convert.py

wheel: .venv/run  ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove runs, builds and the environment
	rm -rf .venv runs dist

# The tested versions of all packages, then this package as an editable install.
.venv/run: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

# Every file is compared with the hash in the lock; on Linux with Python 3.11, it names the CPU build of torch.
.venv/dev: requirements.lock requirements-pip.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements-pip.lock
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@ .venv/run

# LOCK_OPTIONS="--find-links FOLDER" where the CPU build of torch lies in a folder.
lock: .venv/dev  ## write requirements.lock anew from requirements-dev.txt
	$(PIP) uv==0.13.9
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links $(LOCK_OPTIONS) requirements-dev.txt --output-file requirements.lock
