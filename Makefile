# One-line targets; the build is CMake (CMakeLists.txt).
BUILD ?= build
JOBS  ?= $(shell nproc)
CMAKE_FLAGS ?=

.PHONY: help deps build demo test check-full asan ubsan tsan fuzz bench format format-check layers docs dist install clean
help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 16
deps:            ## install what a bare Debian 12 lacks (root or sudo only here)
	@sh dev/deps.sh
build:           ## build the program: build/ns
	@sh dev/deps.sh --check build
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) > $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }; grep -E 'dependency' $(BUILD).log || true; rm -f $(BUILD).log
	@cmake --build $(BUILD) -j $(JOBS) -- --no-print-directory 2>&1 | grep -vE '^\[|Consolidate|Built target' || true
	@test -x $(BUILD)/ns
demo: build      ## raw text to a trained, averaged, tested model, on this machine
	@sh examples/demo/demo.sh $(BUILD)/ns
test: build      ## everything that CI runs
	@cmake --build $(BUILD) -j $(JOBS) --target tests -- --no-print-directory 2>&1 | grep -vE '^\[|Consolidate|Built target' || true
	@sh dev/run_tests.sh $(BUILD)
check-full:      ## grids, kills, sanitizers, fuzzing (long)
	@sh dev/check_full.sh
asan ubsan tsan: ## the whole suite under a sanitizer
	@sh dev/sanitize.sh $@
fuzz:            ## fuzz every parser for FUZZ_SECONDS (default 60) each
	@sh dev/fuzz.sh
bench:           ## measurements with rivals beside them (bench/README.md)
	@sh bench/run.sh $(BUILD)/ns
format:          ## rewrite sources with clang-format
	@git ls-files '*.c' '*.h' | xargs clang-format -i
format-check:    ## fail if make format would change a file
	@git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror
layers:          ## which folder may include which (DESIGN)
	@sh dev/check_layers.sh
docs: build      ## regenerate doc/options from the option tables
	@$(BUILD)/ns doctor --write-docs doc/options
dist: build      ## relocatable tarball
	@sh dev/dist.sh $(BUILD)
install: build   ## install to PREFIX (default /usr/local)
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)
clean:           ## remove build outputs
	@rm -rf build build-asan build-ubsan build-tsan build-fuzz dist demo-out
