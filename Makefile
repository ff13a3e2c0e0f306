# One-line targets; the build is CMake (CMakeLists.txt), each longer recipe a script in dev/.
BUILD ?= build
JOBS  ?= $(shell nproc)
CMAKE_FLAGS ?=
export JOBS CMAKE_FLAGS

.PHONY: help deps build demo test check-full asan ubsan tsan fuzz bench format format-check layers docs dist install clean
help:            ## this list
	@grep -E '^[a-z][a-z -]*:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 20
deps:            ## install what a bare Debian 12 lacks (root or sudo only here)
	@sh dev/deps.sh
build:           ## build the program: build/ns
	@sh dev/deps.sh --check build
	@sh dev/build.sh $(BUILD)
demo: build      ## raw text to a trained, averaged, tested model, on this machine
	@sh examples/demo/demo.sh $(BUILD)/ns
test:            ## everything that CI runs
	@sh dev/deps.sh --check test
	@sh dev/build.sh $(BUILD) all tests
	@sh dev/run_tests.sh $(BUILD) $(T)
check-full:      ## grids, kills, sanitizers, fuzzing (long)
	@sh dev/check_full.sh
asan ubsan tsan: ## the whole suite under a sanitizer
	@sh dev/sanitize.sh $@
fuzz:            ## fuzz every parser for FUZZ_SECONDS (default 60) each
	@sh dev/fuzz.sh
bench:           ## measurements with rivals beside them (bench/README.md)
	@sh dev/deps.sh --check build
	@sh dev/build.sh $(BUILD) all bench
	@sh bench/run.sh $(BUILD)
format:          ## rewrite sources with clang-format
	@find src bench tests include python -name '*.[ch]' 2>/dev/null | sort | xargs clang-format -i
format-check:    ## fail if make format would change a file
	@find src bench tests include python -name '*.[ch]' 2>/dev/null | sort | xargs clang-format --dry-run -Werror
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
