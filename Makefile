PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif

# The tests run in WORKERS processes of THREADS threads each. On more cores: make test WORKERS=4
WORKERS ?= 2
THREADS ?= 1

.PHONY: demo demo-full-size test check bench

demo:  ## set up ComfyUI, show every effect on the pack's own tiny models, say where the contact sheet is
	$(PYTHON) tools/demo.py

demo-full-size:  ## merge two checkpoints of Stable Diffusion's full size (random weights) block by block
	$(PYTHON) tools/demo_full_size.py

test: export OMP_NUM_THREADS = $(THREADS)
test: export MKL_NUM_THREADS = $(THREADS)
test:  ## set up ComfyUI and the test tools, check the sources, run every tier
	$(PYTHON) tools/prepare.py --tests
	$(MAKE) --no-print-directory check
	$(BIN)/pytest -n $(WORKERS) tests/unit
	$(BIN)/pytest -n $(WORKERS) tests/host tests/server tests/browser

check:  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench:  ## side-by-side runs against the peers, one line of ratio each
	$(PYTHON) tools/prepare.py --tests
	$(PYTHON) tools/bench.py
