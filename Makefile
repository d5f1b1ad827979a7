# The thin front of CMake. `make demo` and `make test` set up a fresh Debian 12 machine by themselves.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PRESET ?= release
BUILD := build/$(PRESET)

.PHONY: all build setup test demo bench format format-check install bundle clean

all: build

# Installs what is missing from packages.txt, and nothing when all is there.
setup:
	@cmake/setup.sh

build: setup
	@cmake --preset $(PRESET) --log-level=WARNING
	@cmake --build --preset $(PRESET) -j $(JOBS)
	@if [ "$(PRESET)" = release ]; then ln -sfn release/bin/wick build/wick; fi

test: build
	@ctest --preset $(PRESET) -j $(JOBS)

clean:
	rm -rf build
