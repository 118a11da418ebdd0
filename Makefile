# Each target makes .venv and installs what it needs there, once; a changed pyproject.toml installs again.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test floor lint clean

demo: .venv/ready
	$(BIN)/libkd-sdk demo

test: .venv/ready
	$(BIN)/python -m pytest

# The oldest versions that the trainer runs on.
floor: .venv-floor/ready
	.venv-floor/bin/python -m pytest tests/trainer

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

.venv-floor/ready: pyproject.toml
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --editable '.[train,test]' 'torch==2.11.*' 'torchvision==0.26.*'
	touch $@

clean:
	rm -rf .venv .venv-floor libkd-demo dist
