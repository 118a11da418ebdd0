# Each target makes .venv and installs what it needs there, once. A changed pyproject.toml installs again.

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Test processes of one thread each: with more threads than cores, torch is many times slower. One that dies ends the
# run, because pytest-xdist may wait for ever for the tests of a process that has died.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	--max-worker-restart 0

.PHONY: demo test long check lint docs wheel sbom floor phones arm javascript clean

# The whole job on images that come with the package.
demo: .venv/ready
	$(BIN)/libkd-sdk demo

# What a continuous integration tests; the parts in JavaScript only where there is npm.
NODE_MODULES := bindings/js/node_modules/.ready
test: .venv/ready $(if $(shell which npm 2>/dev/null),$(NODE_MODULES))
	$(PYTEST) -m "not long"

# The tests that take half a minute each and differ from others by the engine or the precision. Run them before a release.
long: .venv/ready
	$(PYTEST) -m long

# What one runs while working: style, types, and the tests that are not marked `slow`.
check: lint
	$(PYTEST) -m "not slow and not long"

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini tests tools examples docs benchmarks

# The documentation, in docs/_build. A warning is an error.
docs: .venv/ready
	$(BIN)/sphinx-build -q -W --keep-going -d docs/_build/doctrees docs docs/_build/html

# The wheel, and a prediction with it in an environment that holds nothing else.
wheel: .venv/ready
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python tools/check_wheel.py dist/*.whl

# The bill of materials of the wheel and its base dependencies, in dist/sbom.json (CycloneDX).
SBOM := .venv-sbom
sbom: wheel
	rm -rf $(SBOM)
	$(PYTHON) -m venv $(SBOM)/tool
	$(PYTHON) -m venv --without-pip $(SBOM)/bare
	$(SBOM)/tool/bin/python -m pip install --quiet cyclonedx-bom
	$(SBOM)/tool/bin/python -m pip --python $(SBOM)/bare/bin/python install --quiet dist/*.whl
	$(SBOM)/tool/bin/cyclonedx-py environment --mc-type library --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json $(SBOM)/bare/bin/python

# The trainer's tests with the oldest torch that it runs on, and those of the base install with its lowest versions. The
# base install has no torch, so the bundles for its tests are made here.
BASE_TESTS = $(patsubst %,tests/cli/test_%.py,damaged_tars predict_shards signing) \
	$(patsubst %,tests/sdk/test_%.py,bundle bundle_writing classifier files hostile_manifests images signature)
SHARED = LIBKD_TEST_SHARED=.venv-floor-base/shared
floor: .venv/ready .venv-floor/ready .venv-floor-base/ready
	.venv-floor/bin/python -m pytest tests/trainer
	rm -rf .venv-floor-base/shared && mkdir .venv-floor-base/shared
	$(SHARED) $(BIN)/python -m pytest tests/sdk/test_bundle.py -k its_attributes
	$(SHARED) .venv-floor-base/bin/python -m pytest $(BASE_TESTS) -m "not slow" \
		-k "not openvino and not executorch and not torchvision and not LargeJpegs"

# The vectors of the specification on an emulated aarch64, in .arm/; see docs/arm.md.
arm: .venv/ready
	PYTHONPATH=. $(BIN)/python tools/arm.py

# The npm package, in bindings/js/dist.
javascript: $(NODE_MODULES)
	npm --prefix bindings/js run build

$(NODE_MODULES): bindings/js/package-lock.json
	npm --prefix bindings/js ci --ignore-scripts
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

.venv-floor/ready: pyproject.toml
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --editable '.[train,test]' 'torch==2.11.*' 'torchvision==0.26.*'
	touch $@

.venv-floor-base/ready: pyproject.toml tools/lowest.py
	$(PYTHON) -m venv .venv-floor-base
	$(PYTHON) tools/lowest.py > .venv-floor-base/lowest.txt
	.venv-floor-base/bin/python -m pip install --editable '.[sign]' --constraint .venv-floor-base/lowest.txt \
		pytest pytest-xdist filelock hypothesis jsonschema
	touch $@

# The compilers with which tests/examples/test_phones.py checks the cores of the apps for phones. Without one of them,
# its tests are skipped. Each can be made alone: `make .phones/kotlin/ready`.
phones: .phones/kotlin/ready .phones/swift/ready

.phones/%/ready: tools/phone_compilers.sh
	tools/phone_compilers.sh $*

clean:
	rm -rf .venv .venv-floor .venv-floor-base .venv-sbom .phones libkd-demo dist .arm docs/_build
	rm -rf bindings/js/node_modules bindings/js/dist
