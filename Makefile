# What a newcomer types: `make demo`, `make ui`, `make test`. Everything lands in .venv, .venv-2.11, dist, .demo and .site.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
BIN_211 := .venv-2.11/bin
AIRFLOW := apache-airflow==3.3.2
AIRFLOW_211 := apache-airflow==2.11.2

.PHONY: help demo ui test test-2.11 lint docs format bench chaos constraints clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo       regenerate a small catalogue with a real Airflow and a real S3, through all five vendors'
	@echo 'make ui         the same, and Airflow stays up until Ctrl-C'
	@echo 'make test       all tests; make test-2.11: the smoke test on Airflow 2.11'
	@echo 'make lint       ruff and mypy; make format: let ruff rewrite'
	@echo 'make docs       the documentation as a site in .site/; a link that leads nowhere is an error'
	@echo 'make bench      memory, time and accuracy: a thousand waiting tasks, a 50 MB picture, 100,000 planned,'
	@echo '                1,000 generated, against the mapped recipe; altered products caught. Wants a quiet machine'
	@echo 'make chaos      1,000 pictures through faults of every kind, workers ended 50 times; blocking and deferrable'
	@echo 'make constraints, make clean'

demo: .venv/ready
	$(BIN)/python -m demo

ui: .venv/ready
	$(BIN)/python -m demo --stay

test: .venv/ready
	$(BIN)/python -m tests.browser
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test-2.11: .venv-2.11/ready
	$(BIN_211)/pytest tests/operators/test_runs.py tests/test_provider_info.py -k 'not form_of_older'

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Read anew each time: Sphinx says nothing twice of a page that has not changed.
docs: .venv/ready
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning . .site

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/ready
	$(BIN)/python -m benchmarks.waiting
	$(BIN)/python -m benchmarks.landing
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.mapped
	$(BIN)/python -m benchmarks.fidelity

chaos: .venv/ready
	$(BIN)/pytest -m long tests/test_chaos.py
	$(BIN)/python -m benchmarks.chaos

# The stamps: an environment is made again when what it is made from changes.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed; name one with: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'This Python cannot make environments; on Debian: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(UV) pip install --quiet --python .venv --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Airflow 2.11 stops at Python 3.12, so uv looks for an interpreter that suits.
.venv-2.11/ready: pyproject.toml constraints-2.11.txt | .venv/ready
	$(UV) venv --quiet --clear --python '>=3.11,<3.13' .venv-2.11
	$(UV) pip install --quiet --python .venv-2.11 --constraint constraints-2.11.txt --editable '.[dev]'
	@touch $@

COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -

constraints: .venv/ready
	printf '%s\n' '$(AIRFLOW)' uv | $(COMPILE) --output-file constraints.txt
	printf '%s\n' '$(AIRFLOW_211)' | $(COMPILE) --output-file constraints-2.11.txt

clean:
	rm -rf .venv .venv-2.11 .demo .site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
