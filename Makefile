# Everything a stranger needs: `make demo`, `make test`. Python 3.11, git and make are assumed; the rest goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := embedded,fastapi,celery,jwt
# Five files of tests at once, in the order of tests/conftest.py: most of the time a test waits for its processes. Of the long ones
# three tests at once, handed out one by one: in larger portions the longest, which come first, would all go to one process.
# PARALLEL= PARALLEL_LONG= runs one after the other.
PARALLEL ?= --numprocesses 5 --dist loadfile --no-loadscope-reorder
PARALLEL_LONG ?= --numprocesses 3 --dist load --maxschedchunk 1
STORMS = $(BIN)/python -m benchmarks.guarantees $(if $(FIGURES),--figures $(FIGURES)) $(if $(SEED),--seed $(SEED))

# Where a machine tells Python to keep no compiled files, each of the suite's many processes compiles everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install system demo serve test test-long storms fuzz guarantees check format bench totals collector constraints clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed and not in PATH" >&2; exit 1; }
	@echo "==> installing into $(VENV) (some 600 MB, most of it the embedded ClickHouse; a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$(EXTRAS)]' --group dev
	@touch $@

install: $(STAMP) ## Install otel-credits with every extra, and the tools, into .venv

system: ## Install redis-server and faketime from Debian's packages, where root and apt are there
	@scripts/system-packages.sh redis-server faketime

demo: $(STAMP) ## Run everything on this machine, send real usage, compare every balance
	$(BIN)/otel-credits demo

serve: $(STAMP) ## Run the aggregator with the embedded store in ./otel-credits-data
	$(BIN)/otel-credits serve

test: $(STAMP) system ## Run the test suite (what it skips, and why, is printed at its end)
	$(BIN)/python -m pytest -m "not long" --durations 40 $(PARALLEL)

test-long: $(STAMP) system ## Run the suites that take minutes
	$(BIN)/python -m pytest -m long --durations 40 --timeout 2700 $(PARALLEL_LONG)

storms: $(STAMP) ## 1,000 kills of the aggregator at every stage (hours); KILLS=200 FIGURES=sum.jsonl: in parts that add up
	$(STORMS) --only tests/chaos/test_storm.py --kills $(or $(KILLS),1000)

fuzz: $(STAMP) ## 1,000,000 mutated requests (hours); REQUESTS=100000 FIGURES=sum.jsonl: in parts that add up
	$(STORMS) --only tests/chaos/test_fuzz.py --fuzz $(or $(REQUESTS),1000000)

guarantees: $(STAMP) ## Run every storm at the size of CI, print the figures of docs/guarantees.md
	$(STORMS)

check: $(STAMP) ## Lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) system ## Measure, and write the figures into benchmarks/README.md
	$(BIN)/python -m benchmarks

totals: $(STAMP) ## Measure rebuild, reconcile and --fix at 10^8 events (20 minutes or more, 10 GB of disk); EVENTS=1000000: of fewer
	$(BIN)/python -m benchmarks.totals --events $(or $(EVENTS),100000000)

collector: ## Build the OpenTelemetry Collector of collector/builder-config.yaml (needs Go; cached outside the tree)
	@collector/build.sh

constraints: ## Write the versions that are installed now into constraints.txt
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^otel-credits' > constraints.txt

clean: ## Remove .venv and what the demo left
	rm -rf $(VENV) otel-credits-data
