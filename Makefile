# make bench    the smoke suite, from nothing to leaderboards
# make test     every check: ruff, mypy, pytest
# make perf     time and memory; make torture: runs killed at random moments, for minutes
# make gates    clean accuracy of the public ImageNet weights on all images, for minutes
# All of them make .venv first when it is missing or older than the pins; PYTHON=… chooses its interpreter.

.DEFAULT_GOAL := help
.PHONY: help bench test lint perf torture gates clean
export PYTHON

BIN := .venv/bin

help:
	@sed -n '/^$$/q; s/^# //p' $(firstword $(MAKEFILE_LIST))

bench: .venv/.ready
	$(BIN)/python run_bench.py run smoke

# Two processes of one thread each; a file's tests stay together as far as the work is even, so do their fixtures.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

perf: .venv/.ready
	@missed=0; for script in tests/perf/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" || missed=1; done; exit $$missed

torture: .venv/.ready
	$(BIN)/python -m pytest -m torture -s

gates: .venv/.ready
	$(BIN)/python -m pytest -m gates --durations=0

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bench methods metrics tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.ready: pyproject.toml constraints.txt .ci/environment
	@.ci/environment
