# make demo, make test: each does all its own set-up into .venv (Python 3.11 or newer, pip and a package index are enough).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-slow lint samples clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/run  ## train NerCo and a plain token classifier on the bundled corpus, compare them, tag three sentences
	$(BIN)/python samples/demo.py

test: .venv/dev  ## the default test suite, offline
	$(BIN)/python -m pytest -n 2

test-slow: .venv/dev  ## the slow tests: demo, README, fresh processes
	$(BIN)/python -m pytest -m slow

lint: .venv/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

samples: .venv/run  ## make samples/zh/*.jsonl from the marked-up source
	$(BIN)/python samples/convert.py

clean:  ## remove runs and the environment
	rm -rf .venv runs

.venv/run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev: requirements.txt requirements-onnx.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ .venv/run
