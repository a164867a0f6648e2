# Development commands. `make` alone lists them; continuous integration runs these and nothing else.

PYTHON_IN_VENV := .venv/bin/python
# Looked up when a recipe runs, which is after set-up.
GO = $(shell $(PYTHON_IN_VENV) tools/build_helper.py --print-go)
GOFMT = $(shell $(GO) env GOROOT)/bin/gofmt
export GOTOOLCHAIN := local

.DEFAULT_GOAL := help
.PHONY: help setup lock generate format check
.PHONY: test test-helper test-python retest test-fuse test-node test-cluster
.PHONY: coverage bench bench-rungs build demo clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing: system packages, .venv, the box helper
	@tools/setup.sh

lock: ## resolve the dependencies again (UPGRADE=1: to their newest versions)
	tools/lock.sh

generate: setup ## write the synchronous SDK from the asynchronous one
	$(PYTHON_IN_VENV) sdk/tools/generate_sync.py

format: setup ## format the sources
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix-only .
	$(GOFMT) -w sdk/helper

check: setup ## formatting, lint, types, directions of imports, generated code, version
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	$(PYTHON_IN_VENV) sdk/tools/generate_sync.py --check
	$(PYTHON_IN_VENV) tools/check_version.py
	@unformatted=$$($(GOFMT) -l sdk/helper) && [ -z "$$unformatted" ] || \
		{ echo "Not formatted (make format): $$unformatted"; exit 1; }
	cd sdk/helper && $(GO) vet ./...

test: test-helper test-python ## all tests, on real mounts

test-helper: setup ## the tests of the box helper
	cd sdk/helper && $(GO) test ./...

# Most tests of a mount wait for something, so three at once keep two processors busy. The short ones
# come last (the order of modules is kept), so that all end at the same time.
test-python: setup ## all other tests
	.venv/bin/pytest --numprocesses 3 --dist loadscope --no-loadscope-reorder

# pytest says 5 when it had nothing to run.
retest: test-helper ## what failed last time
	.venv/bin/pytest --last-failed --last-failed-no-failures none || [ $$? -eq 5 ]

test-fuse: setup ## the tests that mount
	.venv/bin/pytest -m fuse

test-node: setup ## exec through a real container runtime (as root)
	.venv/bin/pytest tests/node

# Building says what it is doing, and its failure is told again by pytest, as a reason to skip.
test-cluster: setup ## a real Kubernetes on this machine, built on first use (as root)
	-$(PYTHON_IN_VENV) -m tests.cluster build
	.venv/bin/pytest tests/cluster --numprocesses 3 --dist loadscope --no-loadscope-reorder

# Daemons that tests start as another user write their share too, hence the open directory.
coverage: export COVERAGE_FILE := $(CURDIR)/build/coverage/data
coverage: setup ## tests with the lines and branches they reach, in build/coverage/html
	rm -rf build/coverage
	mkdir -p build/coverage
	chmod 1777 build/coverage
	.venv/bin/coverage run -m pytest
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage html --quiet --directory build/coverage/html
	.venv/bin/coverage report

bench: setup ## measure a mount beside the local disk
	$(PYTHON_IN_VENV) -m tests.bench

bench-rungs: setup ## measure every way into a box, beside kubectl (as root)
	$(PYTHON_IN_VENV) -m tests.bench.rungs

build: setup ## wheel and source archive, in dist/
	rm -rf dist
	$(PYTHON_IN_VENV) -m hatchling build

demo: setup ## mount a box in ./demo-box and show what it does
	@tools/demo.sh

clean: ## remove what the commands above made, except .venv and what is mounted
	rm -rf build dist bench-results sdk/sealos_devbox/_helper
	rm -rf .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find devboxfs sdk tests tools -name __pycache__ -prune -exec rm -rf {} +
	@[ ! -d demo-box ] || rmdir demo-box 2>/dev/null || echo "demo-box is in use and stays."
