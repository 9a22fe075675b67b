# test files are shared out to as many processes as there are cores
PYTEST = pytest -n auto --dist loadfile

PYTHON ?= python3
IN_VENV = $(PYTHON) tools/bootstrap.py --

.PHONY: setup demo test test-all check docs format release torture test-minimum

setup:
	$(PYTHON) tools/bootstrap.py

demo:
	$(IN_VENV) leadwise demo -o demo --overwrite

# all but the tests marked `slow`
test:
	$(IN_VENV) $(PYTEST) -m "not slow"

test-all:
	$(IN_VENV) $(PYTEST)

# the same tests with the lowest versions that pyproject.toml allows
test-minimum:
	$(PYTHON) tools/minimum.py

check:
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy
	$(IN_VENV) $(PYTEST)

docs:
	$(IN_VENV) sphinx-build -q -W --keep-going -b html docs docs/_build
	@echo open docs/_build/index.html

format:
	$(IN_VENV) ruff format .
	$(IN_VENV) ruff check --fix .

# the suites of hard cases with many cases: some hours on two cores, and 36 GB; the page benchmarks/results/trust.md
torture:
	$(IN_VENV) python benchmarks/trust.py -o torture

# dist/: sdist and wheel (built twice, equal), list of packages with licences (CycloneDX), audit; publishes nothing
release:
	$(PYTHON) tools/release.py
