# make demo   train a plain FPN and its FreqFusionFPN twin on generated scenes, and compare them
# make test   every test, in an environment with the compiled OpenMMLab stack; the Triton kernels in
#             Triton's interpreter, a process of its own
# make lint   formatting and style

PYTHON ?= python3
TORCH ?= torch==2.13.0
DEMO_ENV := .venv
TEST_ENV := .venv-test
ARGS ?=

.PHONY: demo test lint clean

demo: $(DEMO_ENV)/ready
	$(DEMO_ENV)/bin/python tools/demo.py $(ARGS)

test: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/python -m pytest $(ARGS)
	$(if $(ARGS),,TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(TEST_ENV)/bin/python -m pytest tests/test_kernels.py)

lint: $(TEST_ENV)/ready
	$(TEST_ENV)/bin/ruff format --check .
	$(TEST_ENV)/bin/ruff check .

# Segmentation needs no compiled operators. Without pip's cache: it does not tell the two builds of mmcv apart.
$(DEMO_ENV)/ready: setup.py
	$(PYTHON) -m venv $(DEMO_ENV)
	$(DEMO_ENV)/bin/pip install --quiet $(TORCH)
	$(DEMO_ENV)/bin/pip install --quiet --no-cache-dir -e ".[mmseg]"
	touch $@

# mmcv compiles its operators only where torch is installed and the build is not isolated.
$(TEST_ENV)/ready: setup.py
	$(PYTHON) -m venv $(TEST_ENV)
	$(TEST_ENV)/bin/pip install --quiet $(TORCH) packaging ninja wheel "setuptools>=77"
	CFLAGS="-O1 -g0 -DNDEBUG" MAX_JOBS=2 \
		$(TEST_ENV)/bin/pip install --quiet --no-build-isolation -e ".[mm,dev]"
	$(TEST_ENV)/bin/python -c "import torch, mmcv._ext" || CFLAGS="-O1 -g0 -DNDEBUG" MAX_JOBS=2 \
		$(TEST_ENV)/bin/pip install --quiet --no-build-isolation --no-cache-dir --no-deps \
		--force-reinstall onedl-mmcv==2.3.6
	touch $@

clean:
	rm -rf $(DEMO_ENV) $(TEST_ENV) build dist *.egg-info .pytest_cache .ruff_cache
