# Two commands that start from nothing but a checkout, Python 3.10-3.13 and a package registry:
#   make demo [CASE=folder] [OUTPUT=folder]    segments a case with the bundled model and shows the result
#   make test                                  runs every test, with coverage
# Both install what they need into .venv first. The tests of the panel run in a process of their own, in which the bench
# stands in for Slicer's application.

PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= demo-output
BIN := $(VENV)/bin

# sam2 builds against the PyTorch that is there; left to itself, pip would download another one to build it.
SAM2 = $(BIN)/python -m pip install --quiet "setuptools>=77" wheel && \
  SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --no-build-isolation sam2==1.1.0

.PHONY: demo test test-fast lint types benchmark tutorial file-lists clean

demo: $(VENV)/.installed
	$(BIN)/brainsegsam demo --output "$(OUTPUT)" $(if $(CASE),--case "$(CASE)")

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "slow or not slow" --ignore Testing/slicer --cov --cov-report= --cov-fail-under=0
	$(BIN)/python -m pytest -m "slow or not slow" Testing/slicer --cov --cov-append --cov-report=term-missing:skip-covered

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest --ignore Testing/slicer
	$(BIN)/python -m pytest Testing/slicer

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

benchmark: $(VENV)/.installed-test
	$(BIN)/python Testing/Benchmarks/prediction.py

tutorial: $(VENV)/.installed-test
	$(BIN)/python Testing/bench/tutorial.py Resources/Screenshots

file-lists:
	$(PYTHON) Testing/guards/update_file_lists.py

clean:
	rm -rf $(VENV) $(OUTPUT)

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 10) <= v < (3, 14); sys.exit(0 if ok else "BrainSegSAM needs Python 3.10 to 3.13, but this is %d.%d; give another with PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	$(SAM2)
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(SAM2)
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	$(SAM2)
	touch $@ $(VENV)/.installed $(VENV)/.installed-test
