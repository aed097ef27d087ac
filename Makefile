# `make run` and `make test` are all a newcomer needs; each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: run test bench lint format venv

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ScoreQuilt needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

run: venv
	$(BIN)/scorequilt run digits

# Tests compute on one thread each, so as many run at once as there are cores, up to four.
test: venv
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

bench: venv
	$(BIN)/python -m benchmarks all

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
