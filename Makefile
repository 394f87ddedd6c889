# Every target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/bash
UV := .venv/bin/uv pip compile --system-certs --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q
UV_CONTROL := $(UV) --universal --fork-strategy fewest --python-version 3.11
UV_IMAGE := $(UV) --python-version 3.11 --python-platform linux
IMAGE := roles/dask_image/files

.PHONY: help venv up down check test test-all bench docs lock

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

venv: ## .venv alone: what an operator's ansible-playbook commands need
	@scripts/setup.sh control

up: ## four nodes on this machine, the image, the cluster, verified; run again to go on
	@scripts/setup.sh control && .venv/bin/python -m hostnet up

down: ## remove what `make up` made
	@scripts/setup.sh control && .venv/bin/python -m hostnet down

check: ## lint and unit tests: five minutes
	@scripts/setup.sh dev && .venv/bin/python tests/run.py check

test: ## every molecule scenario on nodes of its own, and check beside them
	@scripts/setup.sh dev && .venv/bin/python tests/run.py test

test-all: ## the same with what takes long, such as runs killed at every moment: a night
	@scripts/setup.sh dev && .venv/bin/python tests/run.py test-all

bench: ## ratios of what we do to what one would do without us, on nodes of its own: half an hour
	@scripts/setup.sh dev && .venv/bin/python benchmarks/run.py

docs: ## write docs/variables.md from the roles' specs
	@scripts/setup.sh dev && .venv/bin/python scripts/variables.py

lock: ## bring the locks in line with requirements/*.in and the image's; versions that still fit stay
	@scripts/setup.sh dev
	$(UV_IMAGE) $(IMAGE)/requirements.in -o $(IMAGE)/requirements.txt
	$(UV_IMAGE) $(IMAGE)/installer.in -o $(IMAGE)/installer.txt
	$(UV_CONTROL) requirements/control.in -o requirements/control.txt
	$(UV_CONTROL) -c requirements/control.txt -c $(IMAGE)/requirements.txt requirements/dev.in -o requirements/dev.txt
