# Every target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/bash
UV := .venv/bin/uv pip compile --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -q
UV_CONTROL := $(UV) --universal --fork-strategy fewest --python-version 3.11
IMAGE := roles/dask_image/files/requirements

.PHONY: help up down check test lock

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

up: ## four nodes on this machine, the image, the cluster, verified; run again to go on or to see that nothing changes
	@scripts/setup.sh control && .venv/bin/python -m hostnet up

down: ## remove what `make up` made
	@scripts/setup.sh control && .venv/bin/python -m hostnet down

check: ## lint and unit tests: the first five minutes of `make test`
	@scripts/setup.sh dev && .venv/bin/python tests/run.py check

test: ## check, then every molecule scenario, on nodes of its own
	@scripts/setup.sh dev && .venv/bin/python tests/run.py test

lock: ## resolve requirements/*.in and the image's again, with hashes
	@scripts/setup.sh dev
	$(UV) --python-version 3.11 --python-platform linux $(IMAGE).in -o $(IMAGE).txt
	$(UV_CONTROL) requirements/control.in -o requirements/control.txt
	$(UV_CONTROL) -c requirements/control.txt -c $(IMAGE).txt requirements/dev.in -o requirements/dev.txt
