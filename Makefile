# Developers' targets. Everything goes through ./run, which makes .venv first; users need no make.
.DEFAULT_GOAL := check
.PHONY: check test demo sim sim-mutants bench chaos soak docs format lock clean escape attack gpu

check: ## formatting, lint, types, rings, generated files
	./run check

test: ## every test; ARGS are pytest's
	./run test $(ARGS)

demo: ## the whole path with a real model; ARGS are the demo's
	./run demo $(ARGS)

sim: ## a million and more steps of the simulation; ARGS as --first 1000 --total 10000000 --jobs 4, or --seed 7
	./run tool python -m tests.sim $(ARGS)

sim-mutants: ## the simulation, broken on purpose: every variant must be caught
	./run tool python -m tests.sim --mutants $(ARGS)

bench: ## figures of docs/benchmarks.md, about seventeen minutes on a quiet machine; ARGS are the benchmark's: --quick
	./run tool python -m tests.bench --write docs/benchmarks.md $(ARGS)

chaos: ## real faults on real processes; SECONDS and SEED of the storm
	CHAOS_SECONDS=$(or $(SECONDS),10) CHAOS_SEED=$(or $(SEED),1) ./run test -s tests/chaos $(ARGS)

escape: ## every way out of every sandbox, and docs/escape.md: ARGS="--write docs/escape.md", or --only podman
	./run tool python -m tests.escape $(ARGS)

attack: ## dishonest nodes against the verifier: ARGS="--full --write docs/attacks.md", or --only f-q4_0 --count 20
	./run tool python -m tests.attack $(ARGS)

gpu: ## on a machine with an NVIDIA card: its tests, a capture of its driver and a report; ARGS="--write FOLDER"
	./run tool python -m tests.gpu $(ARGS)

soak: ## mixed tasks and faults for minutes: nothing grows; ARGS as --minutes 240 --seed 7 --write FILE
	./run tool python -m tests.soak $(ARGS)

format:
	./run tool ruff format .
	./run tool ruff check --fix .

docs: ## write generated files again
	./run tool python -m agent config init --stdout > config.example.toml.new
	mv config.example.toml.new config.example.toml
	./run tool python -m agent schema --write docs/schema
	./run tool python -m tests.diagram
	./run tool python -m tests.metrics_page

UV_COMPILE = ./run tool uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet
# Ubuntu 22.04's Python calls itself 3.11.0rc1, which pip finds to be neither < '3.12' nor >= '3.12' by its full version.
BY_MINOR = sed -i "s/python_full_version \([<>=]*\) '\(3\.[0-9]*\)'/python_version \1 '\2'/"
lock: ## pin every package with hashes; ARGS=--upgrade for newer ones
	$(UV_COMPILE) --extra demo --extra speed --group build $(ARGS) -o requirements.lock
	$(UV_COMPILE) --extra demo --extra speed --extra dev --group build -c requirements.lock $(ARGS) -o requirements-dev.lock
	$(BY_MINOR) requirements.lock requirements-dev.lock

clean:
	rm -rf .venv .venv.lock .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
