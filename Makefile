# Each command sets up what it needs: a virtual environment in .venv, once.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: install demo test lint docs bench kernels fallback clean

install: .venv/.all              ## this clone in .venv, editable, with all extras
	@echo "it is in .venv: . $(BIN)/activate"

demo: .venv/.all                 ## translate, classify, compare; the report is demo/index.html
	$(BIN)/graphformer demo --out demo

test: .venv/.all                 ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto
	GRAPHFORMER_TYPECHECK=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m compiled --numprocesses auto

lint: .venv/.lint                ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs                ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/.all                ## beside bare torch, PyG and others, and the planner: most of an hour
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/sparse_attention.py
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/planner.py

kernels:                         ## the C++ kernels by themselves, under sanitizers; Clang builds them too if it is there
	cmake -S graphformer/csrc -B build/checks -DGRAPHFORMER_CHECKS=ON
	cmake --build build/checks --parallel 2
	build/checks/check_kernels
	@if command -v clang++ >/dev/null; then \
		cmake -S graphformer/csrc -B build/clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_CXX_FLAGS=-Werror \
			&& cmake --build build/clang --parallel 2; \
	else echo "there is no clang++: only $$(c++ --version | head -n 1) built the kernels"; fi

fallback: .venv/.all             ## where no compiler is: the install succeeds, and the tests pass
	CXX=/bin/false $(INSTALL) --quiet --no-deps --upgrade --config-settings build-dir=build/no-kernels \
		--target build/fallback .
	test -f build/fallback/graphformer/__init__.py
	test ! -e build/fallback/graphformer/csrc/libgraphformer_kernels.so
	packages=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
		&& python=$$(pwd)/$(BIN)/python && cd build/fallback \
		&& PYTHONPATH=$$packages $$python -S -m graphformer info | grep 'fallback.*pip install'
	GRAPHFORMER_KERNELS=nowhere OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto \
		tests/test_sparse*.py tests/test_backends_agree.py tests/test_crossover.py \
		tests/test_compare.py tests/test_drop_ins*.py tests/test_dense.py tests/test_layers.py \
		tests/test_models.py tests/test_best.py tests/test_own_functions.py tests/test_calibration.py

clean:                           ## back to a fresh clone
	rm -rf .venv build demo dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache

.venv/.all: pyproject.toml constraints.txt $(wildcard graphformer/csrc/*) | $(BIN)/python
	$(INSTALL) -e '.[all,test]'
	@touch $@

.venv/.lint: .venv/.all
	$(INSTALL) -e '.[lint]'
	@touch $@

.venv/.docs: .venv/.all
	$(INSTALL) -e '.[docs]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"graphformer needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + \
		": name another one, as in `make demo PYTHON=python3.12`")'
	$(PYTHON) -m venv .venv
