# Python 3.11, 3.12 or 3.13: the first of these that is one makes .venv.
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
RUN := .venv/bin/python -m
# `make setup` makes this file last.
READY := .venv/ready

.PHONY: help setup demo test test-faults test-cluster golden errors bench-materialize bench-training bench-streaming bench-resume bench-serving bench-sixty-days bench-vocabulary bench-days bench-data-gate bench-gates bench-engines structure sbom audit licences wheel lint format types test-bazel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-18s%s\n", $$1, $$2}' Makefile

setup: $(READY) ## install the project and its tools into .venv, at the versions of constraints.txt

# A finished .venv is updated in place; one whose setup was interrupted is made again.
$(READY): pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo 'tutelage needs Python 3.11, 3.12 or 3.13: install one, or name it with PYTHON=...' >&2; exit 1; }
	@echo 'Installing into .venv; the first time takes minutes and 3.5 GB.'
	@test -e $@ || $(PYTHON) -m venv --clear .venv
	@rm -f $@
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
# For mypy, see pyproject.toml.
	@mkdir -p .venv/types && ln -sfn ../.. .venv/types/tutelage
# For Bazel, a Python that sees all that is installed in .venv except the project. The project is installed by a .pth
# file, and Python ignores .pth files in a folder that it only knows from another .pth file.
	@$(RUN) venv --without-pip .venv/bazel
	@.venv/bin/python -c 'import site; print(site.getsitepackages()[0])' > libraries.pth
	@mv libraries.pth "$$(.venv/bazel/bin/python -c 'import site; print(site.getsitepackages()[0])')"
	@touch $@

demo: $(READY) ## run the synthetic experiment end to end into demo/
	.venv/bin/tutelage-run --config=synthetic --workdir=demo

test: $(READY) lint types ## lint, types and every test that is not slow
	$(RUN) pytest -q -n 2 --dist loadfile

test-faults: $(READY) ## the slow tests: 600 kills, 200 power cuts, full disks, 10,000 requests, 10,000 odd files
	$(RUN) pytest -q -m slow

test-cluster: $(READY) ## the slow tests of Beam engines and of object stores, on servers of their own on this machine
	$(RUN) pytest -q -m cluster

golden: $(READY) ## rewrite tests/golden_losses.csv; git diff shows what changed
	rm -rf build/golden
	.venv/bin/tutelage-run --config=synthetic --smoke --workdir=build/golden
	$(RUN) tests.golden build/golden

errors: $(READY) ## rewrite docs/errors.md, every message of the commands, from the code
	$(RUN) tests.errors_page

bench-materialize: $(READY) ## rows per second and memory of the data plane, beside Polars and DuckDB
	$(RUN) benchmarks.materialize

bench-training: $(READY) ## examples per second of each model, at batch 4,096
	$(RUN) benchmarks.training

bench-streaming: $(READY) ## memory and feed wait of a teacher and a student over one day of 50 million rows (an hour)
	$(RUN) benchmarks.streaming

bench-resume: $(READY) ## seconds until a stopped trainer trains again, and the share of time that checkpoints take
	$(RUN) benchmarks.resume

bench-serving: $(READY) ## latency of the teacher and a student, also in LiteRT
	$(RUN) benchmarks.serving

bench-sixty-days: $(READY) ## a teacher and two students over sixty days with 5 % new ids a day: a report, and figures
	.venv/bin/tutelage-run --config=benchmarks/sixty_days.py --workdir=build/sixty_days
	$(RUN) benchmarks.sixty_days build/sixty_days

bench-vocabulary: $(READY) ## log loss and steps/s of a growing vocabulary beside hashing, on worlds with new ids each day
	$(RUN) benchmarks.vocabulary

bench-days: $(READY) ## seconds of CPU of status, report, run, prune and materialise after 10, 100 and 1,000 days of 20 models
	$(RUN) benchmarks.days

bench-data-gate: $(READY) ## sound days that the data gate stops, and faults that it finds, on five worlds of sixty days
	$(RUN) benchmarks.data_gate

bench-gates: $(READY) ## false alarms of all gates over sound days, which faults they catch, and how soon a slow poisoning (hours)
	$(RUN) benchmarks.gates

bench-engines: $(READY) ## KuaiRand's days on every Beam engine that runs here, equal rows, a worker killed; Dataflow's dry run
	$(RUN) benchmarks.engines

structure: $(READY) ## lines, long functions and imports per room; AGAINST=REV prints another revision beside them
	$(RUN) benchmarks.structure $(if $(AGAINST),--against $(AGAINST))

# Tools that look at the environment are no part of it.
TOOLS := build/tools
$(TOOLS)/ready: Makefile
	@test -n "$(PYTHON)" || { echo 'tutelage needs Python 3.11, 3.12 or 3.13: install one, or name it with PYTHON=...' >&2; exit 1; }
	@rm -f $@ && $(PYTHON) -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

sbom: $(READY) $(TOOLS)/ready ## write dist/sbom.json, a bill of materials (CycloneDX) of what .venv holds
	@mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.json .venv/bin/python

audit: $(TOOLS)/ready ## the known vulnerabilities of the versions in constraints.txt, by pip-audit from PyPI
	$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

licences: $(READY) ## the licence of every runtime dependency
	@$(RUN) tests.licences

wheel: $(READY) ## build dist/*.whl, install it in a fresh environment (minutes, 3.5 GB) and run the examples there
	$(RUN) tests.wheel

lint: $(READY) ## ruff: rules and format
	$(RUN) ruff check --quiet
	$(RUN) ruff format --quiet --check

format: $(READY) ## let ruff rewrite the code
	$(RUN) ruff check --quiet --fix
	$(RUN) ruff format --quiet

types: $(READY) ## mypy
	$(RUN) mypy

test-bazel: $(READY) ## the fast tests under Bazel, which sees only what each BUILD file declares
	@command -v bazel >/dev/null || { echo 'bazel is not installed: apt-get install bazel-bootstrap' >&2; exit 1; }
	PATH="$(CURDIR)/.venv/bazel/bin:$$PATH" bazel test //...

clean: ## remove everything that these targets made
	rm -rf .venv demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
