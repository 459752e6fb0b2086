PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif

.PHONY: demo test check bench

demo:  ## set up ComfyUI, merge two full-size checkpoints block by block, say where the picture is
	$(PYTHON) tools/demo.py

test:  ## set up ComfyUI and the test tools, check the sources, run every tier
	$(PYTHON) tools/prepare.py --tests
	$(MAKE) --no-print-directory check
	$(BIN)/pytest

check:  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench:  ## side-by-side runs against the peers, one line of ratio each
	$(PYTHON) tools/prepare.py --tests
	$(PYTHON) tools/bench.py
