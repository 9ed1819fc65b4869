# Every target sets up what it needs first; a second time that takes a second.
SHELL := /bin/sh
bin := .venv/bin
usual := not long and not cluster and not gpu
loops := long and not cluster

.PHONY: help docs setup engines page-test page-images demo fuzz matrix vm vm-all support test test-containers test-engine-containers test-servers test-others retest e2e retest-e2e faults chaos faults-kills faults-outages retest-faults lint unit coverage gpu bench bench-cluster images lock clean

help:
	@echo "make demo    set up, then show the main job from start to end"
	@echo "make test    set up, then run every check and every test"
	@echo "make retest  what failed in make test, once more"
	@echo "make e2e     install on the cluster that KUBECONFIG names, and kill what can be killed there"
	@echo "make faults  the tests that kill for minutes (retest-faults: what failed there, once more)"
	@echo "make chaos   a seeded run that kills, fills and loses things, with a report in build/chaos (CHAOS_PLACE=cluster, CHAOS_SECONDS=n, CHAOS_SEED=n, CHAOS_IDS=n, CHAOS_HARMS=disk)"
	@echo "make gpu     the tests on a real NVIDIA GPU; what they find goes into build/gpu/result.json"
	@echo "make fuzz    a minute of fuzzing for each reader of what another party wrote (FUZZ_SECONDS=n, FUZZ_SEED=n: others)"
	@echo "make matrix  real programs through start, stop and start on another node; writes docs/reference/compatibility.md (PROGRAMS=\"redis go\": those; PLACE=cluster: as pods)"
	@echo "make vm      one test of each kind on a stock Debian 13 (vm-all: the demo from nothing and all tests there, and Debian 12 and forky)"
	@echo "make support docs/reference/support.md, from what make test, vm and vm-all saw"
	@echo "make page-test  the page in a real browser, and the HTTP API under schemathesis (screenshots: build/page-shots)"
	@echo "make page-images  new pictures of the page for docs"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make lint    ruff, mypy and the import contracts only"
	@echo "make unit    the quick tests only: no root, no servers"
	@echo "make coverage  the unit tests, and which share of the lines they run"
	@echo "make bench   the benchmarks, each beside a peer; raw numbers in build/bench (RUNS=n: more or fewer turns)"
	@echo "make images  build the images of node worker and control plane into build/images (BASE=image: on that)"
	@echo "make bench-cluster  those on a cluster on which Woodfrog is installed"
	@echo "make lock    pin the requirements anew"

setup:
	@setup/machine.sh
	@setup/venv.sh
	@setup/tools.sh
	@$(bin)/python -m nodeworker.host.criu_bundle >/dev/null

# Docker and Podman, for tests.
engines: setup
	@setup/machine.sh engines

demo: setup
	@$(bin)/woodfrog demo

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports
	@$(MAKE) --no-print-directory docs

# Links and anchors that lead nowhere fail.
docs: setup
	@PYTHONPATH=tests $(bin)/python docs/site.py

unit: setup
	$(bin)/pytest tests/unit tests/property

# A number: whether the tests pass, `make test` says. Some run out of their time while their lines are counted on a busy machine.
coverage: setup
	@mkdir -p build
	-$(bin)/coverage run -m pytest -q tests/unit
	@$(bin)/coverage report --skip-covered --sort=cover | tail -25

# Tests run in parts, each with a name, marks and places. A part that did not pass is run again by what failed in it; if that is
# not known, because pytest itself died, then the whole of it.
by-engine := $(wildcard tests/e2e/test_docker*.py tests/e2e/test_podman*.py tests/e2e/test_engines*.py tests/e2e/test_pods*.py tests/e2e/test_install_*.py)
containers := containers -m "$(usual)" tests/e2e $(by-engine:%=--ignore=%)
engine-containers := engine-containers -m "$(usual)" $(by-engine) tests/faults
servers := servers -m "$(usual)" tests/integration
others := others -m "$(usual)" --ignore=tests/e2e --ignore=tests/faults --ignore=tests/integration
kills := kills -m "$(loops)" tests/faults
outages := outages -m "$(loops)" --ignore=tests/faults
cluster := cluster -m cluster

define run
@rm -f .pytest_cache/$(firstword $($(1)))/passed .pytest_cache/$(firstword $($(1)))/took build/reports/$(firstword $($(1)))*.xml
@began=$$(date +%s); $(bin)/pytest --durations=20 --durations-min=1 --junitxml=build/reports/$(firstword $($(1))).xml -o cache_dir=.pytest_cache/$($(1)); code=$$?; \
	echo $$((($$(date +%s) - began) / 60)) min $$((($$(date +%s) - began) % 60)) s >.pytest_cache/$(firstword $($(1)))/took; exit $$code
@touch .pytest_cache/$(firstword $($(1)))/passed
endef

define again
[ -e .pytest_cache/$(firstword $($(1)))/passed ] || $(bin)/pytest --last-failed --junitxml=build/reports/$(firstword $($(1)))_again.xml -o cache_dir=.pytest_cache/$($(1))
endef

# Three at once on two processors: the tests that run containers wait for the machine, those of tests/integration for servers.
test: lint
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target test-containers test-servers test-engine-containers test-others; code=$$?; \
	for part in containers servers engine-containers others; do echo "$$part: $$(cat .pytest_cache/$$part/took 2>/dev/null || echo not run)"; done; exit $$code

test-containers: setup
	$(call run,containers)

test-engine-containers: setup engines
	$(call run,engine-containers)

test-servers: setup
	$(call run,servers)

test-others: setup
	$(call run,others)

retest: lint engines
	$(call again,containers)
	$(call again,engine-containers)
	$(call again,servers)
	$(call again,others)

e2e: setup
	$(call run,cluster)

retest-e2e: setup
	$(call again,cluster)

# Two at once here as well: in one the broker is away for minutes, which costs nothing, while the timed tests of the other run.
faults: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target faults-kills faults-outages

faults-kills: setup
	$(call run,kills)

faults-outages: setup
	$(call run,outages)

retest-faults: setup
	$(call again,kills)
	$(call again,outages)

# `make test` has two seconds of each; what fails becomes small, and a specimen of it belongs into the corpus.
FUZZ_SECONDS := 60
# Another number begins elsewhere; with the same one, what failed fails again.
FUZZ_SEED := 0
FUZZ_TURNS :=
# Two files at once: half an hour becomes a quarter.
readers := $(wildcard tests/security/fuzz/test_*.py)
.PHONY: $(readers)
fuzz: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(readers)

$(readers):
	WOODFROG_FUZZ_SECONDS=$(FUZZ_SECONDS) WOODFROG_FUZZ_SEED=$(FUZZ_SEED) WOODFROG_FUZZ_TURNS=$(FUZZ_TURNS) $(bin)/pytest -p no:cacheprovider $@

# Ten minutes; every id that took part is accounted for at the end, which takes up to five more.
CHAOS_SECONDS := 600
CHAOS_SEED := 1
CHAOS_IDS := 30
# Or `cluster`: the one of KUBECONFIG and WOODFROG_E2E_CLUSTER (tests/cluster/README.md), with the images of `make images`.
CHAOS_PLACE := machine
# Part of a name, such as `disk`: only these harms are done.
CHAOS_HARMS :=
chaos: setup
	PYTHONPATH=tests CHAOS_PLACE=$(CHAOS_PLACE) CHAOS_SECONDS=$(CHAOS_SECONDS) CHAOS_SEED=$(CHAOS_SEED) CHAOS_IDS=$(CHAOS_IDS) CHAOS_HARMS='$(CHAOS_HARMS)' $(bin)/python -m chaos

vm: setup
	@tests/vm/run trixie demo every-time

# From nothing: `bare` sets the machine up itself, as the README says.
vm-all: setup images
	@tests/vm/run trixie bare demo whole
	@tests/vm/run bookworm demo every-time each-kind
	@tests/vm/run forky demo every-time each-kind
	@tests/vm/cluster trixie

# Root filesystems with all these programs are made in build/matrix: 10 GB, and half an hour the first time.
PROGRAMS :=
# Or `cluster`, as for CHAOS_PLACE: the same programs, each in a pod that is moved once to another node.
PLACE := machine
matrix: setup
	@cd tests && MATRIX_PLACE=$(PLACE) ../$(bin)/python -m matrix $(PROGRAMS)

support: setup
	@mkdir -p build/reports build/vm/here
	@find build/reports -name '*.xml' ! -name 'cluster*' -exec cp -t build/vm/here {} +
	@$(bin)/python tests/vm/machine.py >build/vm/here/machine.json
	@$(bin)/python tests/vm/support.py build/vm/*

# Not part of `make test`: it brings a browser of its own.
page-test: setup
	@setup/page.sh
	PYTHONPATH=build/page $(bin)/pytest tests/page

# What docs/how-to/use-the-page.md shows.
page-images: setup
	@setup/page.sh
	PYTHONPATH=build/page $(bin)/pytest tests/page -k "docs or self_test"
	cp build/page-shots/docs/*.png docs/how-to/images/

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
	$(bin)/uv pip compile pyproject.toml --extra cuda --extra local --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --quiet --constraints requirements/dev.txt --output-file requirements/runtime.txt
	$(bin)/uv pip compile requirements/page.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --quiet --constraints requirements/dev.txt --output-file requirements/page.txt

clean:
	rm -rf .venv .venv.old build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
