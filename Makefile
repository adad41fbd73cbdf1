# Every target does its own set-up: a fresh clone and Python 3.11 or newer are enough.
SHELL := /bin/sh
VENV  ?= .venv
PY    := $(VENV)/bin/python

.PHONY: help demo test test-slow fuzz check bench format lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       the whole proof on the reference shop, about 8 minutes (ARGS=--quick: 2 minutes)"
	@echo "make test       every test that takes seconds, on real servers"
	@echo "make test-slow  the tests that take minutes, the quick demo among them"
	@echo "make fuzz       the gateway's framing under atheris (SECONDS=300), then the property tests with new examples (ROUNDS=20)"
	@echo "make check      ruff, mypy --strict, import contracts"
	@echo "make bench      ratios against peers (NAME=load, ARGS=--quick)"
	@echo "make format     let ruff format and fix"

demo: $(VENV)/.run
	@$(VENV)/bin/tenfold blackfriday $(ARGS)

test: $(VENV)/.dev
	@$(PY) tests/run.py -m "not slow" $(ARGS)

test-slow: $(VENV)/.dev
	@$(PY) -m pytest -m slow $(ARGS)

ROUNDS  ?= 20
SECONDS ?= 300
fuzz: $(VENV)/.fuzz
	@$(PY) tests/property/gateway/fuzz_framing.py $(SECONDS) .hypothesis/fuzz-framing
	@for round in $$(seq $(ROUNDS)); do \
		echo "round $$round of $(ROUNDS)"; \
		TENFOLD_HYPOTHESIS=fuzz $(PY) -m pytest -q tests/property $(ARGS) || exit 1; \
	done

check: $(VENV)/.dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench: $(VENV)/.bench
	@$(PY) -m bench $(or $(NAME),load) $(ARGS)

format: $(VENV)/.dev
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# The pinned versions of requirements/*.txt, newest that the ranges of pyproject.toml allow.
lock: $(VENV)/.dev
	@$(PY) -m pip install -q uv
	@requirements/lock.sh $(VENV)/bin/uv

$(VENV)/.run $(VENV)/.dev $(VENV)/.fuzz $(VENV)/.bench: $(VENV)/.%: requirements/%.txt pyproject.toml requirements/install.sh
	@requirements/install.sh $(VENV) $*
	@touch $@

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
