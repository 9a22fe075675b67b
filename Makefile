PYTHON ?= python3
IN_VENV = $(PYTHON) tools/bootstrap.py --

.PHONY: setup demo test check docs format

setup:
	$(PYTHON) tools/bootstrap.py

demo:
	$(IN_VENV) leadwise demo -o demo --overwrite

test:
	$(IN_VENV) pytest

check:
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy
	$(IN_VENV) pytest

docs:
	$(IN_VENV) sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo open docs/_build/index.html

format:
	$(IN_VENV) ruff format .
	$(IN_VENV) ruff check --fix .
