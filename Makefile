# Every target sets up what it needs first; a second time that takes a second.
SHELL := /bin/sh
bin := .venv/bin
usual := not long and not cluster and not gpu
loops := long and not cluster

.PHONY: help setup demo test test-containers test-others retest e2e retest-e2e faults faults-kills faults-others retest-faults lint unit gpu bench bench-cluster images lock clean

help:
	@echo "make demo    set up, then show the main job from start to end"
	@echo "make test    set up, then run every check and every test"
	@echo "make retest  what failed in make test, once more"
	@echo "make e2e     install on the cluster that KUBECONFIG names, and kill what can be killed there"
	@echo "make faults  the tests that kill for minutes (retest-faults: what failed there, once more)"
	@echo "make gpu     the tests on a real NVIDIA GPU; what they find goes into build/gpu/result.json"
	@echo "make lint    ruff, mypy and the import contracts only"
	@echo "make unit    the quick tests only: no root, no servers"
	@echo "make bench   the benchmarks, each beside a peer; raw numbers in build/bench (RUNS=n: more or fewer turns)"
	@echo "make images  build the images of node worker and control plane into build/images (BASE=image: on that)"
	@echo "make bench-cluster  those on a cluster on which Woodfrog is installed"
	@echo "make lock    pin the requirements anew"

setup:
	@setup/machine.sh
	@setup/venv.sh
	@setup/tools.sh
	@$(bin)/python -m nodeworker.host.criu_bundle >/dev/null

demo: setup
	@$(bin)/woodfrog demo

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

unit: setup
	$(bin)/pytest tests/unit tests/property

# Two halves at once: the tests that run containers wait for the machine, the others for servers.
test: lint
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-containers test-others

test-containers: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/containers -m "$(usual)" tests/e2e tests/faults

test-others: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/others -m "$(usual)" --ignore=tests/e2e --ignore=tests/faults

# Only what failed before, with the machine to itself; no failure (pytest's exit code 5) is as good as none that is left.
failed := --last-failed --last-failed-no-failures none
retest: lint
	$(bin)/pytest -o cache_dir=.pytest_cache/containers -m "$(usual)" $(failed) tests/e2e tests/faults || [ $$? = 5 ]
	$(bin)/pytest -o cache_dir=.pytest_cache/others -m "$(usual)" $(failed) --ignore=tests/e2e --ignore=tests/faults || [ $$? = 5 ]

e2e: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/cluster -m cluster

retest-e2e: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/cluster -m cluster $(failed)

# Two halves at once here as well: in one the broker is away for minutes, which costs nothing, while the timed tests of the other run.
faults: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target faults-kills faults-others

faults-kills: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/kills -m "$(loops)" tests/faults

faults-others: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/other-loops -m "$(loops)" --ignore=tests/faults

retest-faults: setup
	$(bin)/pytest -o cache_dir=.pytest_cache/kills -m "$(loops)" $(failed) tests/faults || [ $$? = 5 ]
	$(bin)/pytest -o cache_dir=.pytest_cache/other-loops -m "$(loops)" $(failed) --ignore=tests/faults || [ $$? = 5 ]

gpu: setup
	$(bin)/pytest -m gpu tests/gpu

bench: setup
	for each in tests/bench/bench_*.py; do $(bin)/python $$each $(RUNS) || exit 1; done

images: setup
	@images/build.sh

bench-cluster: setup
	$(bin)/python tests/bench/cluster_pods.py $(RUNS)

lock: setup
	$(bin)/pip install --quiet uv
	$(bin)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --quiet --output-file requirements/dev.txt
	$(bin)/uv pip compile pyproject.toml --extra cuda --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --quiet --constraints requirements/dev.txt --output-file requirements/runtime.txt

clean:
	rm -rf .venv .venv.old build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
