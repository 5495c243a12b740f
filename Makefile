# The commands of this project. `make run` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup run test lint bench bench-rolling bench-soak chaos fuzz protos lock docs methods clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements-dev.lock pyproject.toml hatch_build.py $(shell find protos -name '*.proto')
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

run: setup
	$(BIN)/gstack up --demo

# Services are started by the hundred, and do not compile themselves each time.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
	$(BIN)/python -m pytest -n 3 --dist loadgroup

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks.run

chaos: setup
	$(BIN)/python -m benchmarks.chaos $(ARGUMENTS)

bench-rolling: setup
	$(BIN)/python -m benchmarks.rolling

bench-soak: setup
	$(BIN)/python -m benchmarks.soak $(ARGUMENTS)

COUNT ?= 5000
fuzz: setup
	$(BIN)/python -m benchmarks.fuzz --count $(COUNT)

# The skeleton of a collection of Google's: NAME=routers
collection: setup
	$(BIN)/python -m tests.contract.skeleton $(NAME)

protos: setup
	$(BIN)/python hatch_build.py

docs: setup
	$(BIN)/python -m gstack.cli.docs

# Writes what is known of Google's methods anew, from the document in google-api-python-client.
methods: setup
	$(BIN)/python -m tests.contract.methods

# Writes the lock files anew; `uv` reads pyproject.toml and knows every platform's hashes.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra otel pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra otel --group dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 -c requirements-dev.lock deploy/images/build.in -o deploy/images/build.lock

clean:
	rm -rf $(VENV) gstack/api gstack/compute gstack/auth
