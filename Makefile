# Everything a clone needs: `make demo`, `make test`. The steps are in dev/bootstrap.sh.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
WERROR ?= false
export PYTHON VENV WERROR

BIN := $(VENV)/bin
PY := $(BIN)/python
BOOTSTRAP := dev/bootstrap.sh
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none)

# What is done leaves a stamp in the environment it was done to.
STAMPS := $(VENV)/.stamps
VENV_READY := $(STAMPS)/venv-$(VERSION)
INSTALLED := $(STAMPS)/installed-werror-$(WERROR)
# Folders are in the list too: they change when a file comes or goes.
SOURCES := $(shell find libuslub binding src meson.build meson.options pyproject.toml \
             README.md dev/sources.py -name __pycache__ -prune -o -print 2>/dev/null)
# A stamp is as old as the start of its step: an edit made meanwhile is not lost.
begin = @mkdir -p $(STAMPS) && touch $(STAMPS)/.begin-$(@F)
finish = @mkdir -p $(STAMPS) && { mv $(STAMPS)/.begin-$(@F) $@ 2>/dev/null || touch $@; }

C_WARN := -Dwerror=true
C_ASAN := -Db_sanitize=address,undefined -Db_lundef=false
C_TSAN := -Db_sanitize=thread -Db_lundef=false

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check test-torch explore chaos killer fuzz mutants order ctest-aarch64 bench docs build build-debug lint format types tidy \
        ctest ctest-asan ctest-tsan clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(STAMPS)/deps-demo $(INSTALLED) ## real pictures through one shared heap, beside Queue and SharedMemory
	$(BIN)/uslub demo

test: $(STAMPS)/deps-test $(INSTALLED) tidy ctest ## the gate: tidy, C tests with debug checks, pytest; two minutes
	$(PY) -m pytest -q -m "not check"

check: test ctest-asan ctest-tsan ctest-aarch64 explore killer fuzz mutants order chaos build-debug lint types test-torch ## all of it: test, sanitizers, all schedules, deaths at every instruction, 120,000 damaged arenas, mutants, memory orders, chaos, debug build, long runs, lint, types
	PYTHONPATH=build/debug-site $(PY) -m pytest -q -m "not check" --ignore tests/lab --ignore tests/model
	USLUB_PROFILE=long $(PY) -m pytest -q -m check --timeout 900

test-torch: $(STAMPS)/deps-torch $(INSTALLED) ## what needs PyTorch, which is large and optional
	$(PY) -m pytest -q -rs tests/api/test_torch.py tests/api/test_api_interchange.py tests/api/test_bad_handles.py \
	    tests/api/test_api_lifetime.py tests/test_docs.py

bench: $(STAMPS)/deps-bench $(INSTALLED) ## measure, write bench/results, draw the plots
	$(PY) bench/run.py

docs: $(STAMPS)/deps-test $(INSTALLED) ## write the generated pages
	@test ! -f dev/docs.py || $(PY) dev/docs.py

build: $(INSTALLED) ## build and install into .venv what has changed

build-debug: $(STAMPS)/deps-test ## the same with debug checks, into build/debug-site
	WERROR=true $(BOOTSTRAP) install-debug

lint: $(STAMPS)/deps-test tidy ## ruff, clang-format, tidy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@find libuslub binding bench tests/order -name '*.[ch]' 2>/dev/null | xargs -r $(BIN)/clang-format --dry-run -Werror

format: $(STAMPS)/deps-test ## what ruff and clang-format can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@find libuslub binding bench tests/order -name '*.[ch]' 2>/dev/null | xargs -r $(BIN)/clang-format -i

types: $(STAMPS)/deps-test ## mypy --strict on the package and its stubs
	$(BIN)/mypy --strict src/uslub

tidy: $(VENV_READY) ## layers, sizes, links: dev/tidy.py
	$(PY) dev/tidy.py

ctest: $(VENV_READY) ## the C tests, with debug checks
	$(BOOTSTRAP) ctest test -Ddebug_checks=true -Dwerror=$(WERROR)

ctest-asan: $(VENV_READY) ## the C tests under AddressSanitizer and UBSan
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(BOOTSTRAP) ctest asan -Ddebug_checks=true $(C_WARN) $(C_ASAN)

ctest-tsan: $(VENV_READY) ## the C tests under ThreadSanitizer
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
	$(BOOTSTRAP) ctest tsan -Ddebug_checks=true $(C_WARN) $(C_TSAN)

explore: ctest ## every schedule that the explorer knows; `make ctest` tries a part
	build/test/libuslub/explore-sharing_explore deep
	build/test/libuslub/explore-slab_explore deep

killer: ctest ## kill the shipped library after every instruction; `make ctest` tries a part
	build/test/libuslub/killer deep || [ $$? = 77 ]

fuzz: ctest ## damaged arenas, many of them; `make ctest` tries 3,000
	build/test/libuslub/fuzz-damage_fuzz 3000 110000
	build/test/libuslub/fuzz-damage_fuzz 0 10000 peer

chaos: $(STAMPS)/deps-test $(INSTALLED) ## workers killed, stopped, forked, execed under load; MINUTES=2, SEED=chosen
	$(BOOTSTRAP) chaos
	$(PY) dev/chaos.py --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED))

mutants: $(VENV_READY) ## break the engine line by line: each must be noticed
	$(PY) dev/mutants.py

order: $(VENV_READY) ## the engine's memory orders under relacy, a checker for weak memory
	$(PY) tests/order/run.py

ctest-aarch64: ## the C tests for aarch64, under an emulator
	dev/aarch64.sh

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- steps --------------------------------------------------------------------------

$(VENV_READY): dev/bootstrap.sh requirements/build.txt requirements/pins.txt
	@$(BOOTSTRAP) venv
	$(finish)

$(STAMPS)/deps-%: requirements/%.txt requirements/pins.txt $(VENV_READY)
	@$(BOOTSTRAP) deps $*
	$(finish)

$(INSTALLED): $(SOURCES) $(VENV_READY)
	$(begin)
	@echo 'uslub: building and installing' >&2
	@rm -f $(STAMPS)/installed-*
	@$(BOOTSTRAP) install
	$(finish)
