# Everything runs in .venv, which these targets make; a second call reinstalls nothing.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)

.PHONY: train speed benchmark-small test test-slow test-floor test-clients lint format clean

train: $(VENV)/.experiments
	$(BIN)/python -m experiments.compare data=digits selections=[uniform,random_subset,selective_backprop] seeds=3

# What a selected step costs on this machine (docs/speed.md): about 20 minutes on a CPU.
speed: $(VENV)/.experiments
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.speed

# What selection buys at equal cost (docs/benchmark/index.md): about four hours on two cores, kept at any point when
# interrupted. DATA holds train/<class>/* and val/<class>/*, such as CIFAR-10 as image files. Rates are tuned for the
# middle budget; for all arms together where the seed of a trial tells them apart as much as the rate does, not so
# where labels are wrong.
DATA ?= data/cifar10
SCENARIOS ?= clean noise
BENCHMARK := data.root=$(DATA) hydra/launcher=joblib hydra.launcher.n_jobs=2
benchmark-small: $(VENV)/.sweeps
	for scenario in $(SCENARIOS); do \
	  $(BIN)/python -m experiments.tune experiment=benchmark_small_$$scenario trainer.max_epochs=10 \
	    learning_rates=[0.05,0.1,0.2,0.4] trial_seeds=3 pooled=$$([ $$scenario = noise ] && echo false || echo true) \
	    hydra.run.dir=runs/benchmark-small/$$scenario/tuning $(BENCHMARK) && \
	  $(BIN)/python -m experiments.compare experiment=benchmark_small_$$scenario \
	    tuned=runs/benchmark-small/$$scenario/tuning/tuned.json hydra.run.dir=runs/benchmark-small/$$scenario $(BENCHMARK) \
	    || exit 1; \
	done

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Soaks: more seeds, more kill points.
test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 -m slow

# The oldest versions that pyproject.toml allows, and pytorch_lightning without lightning. Old libraries warn about
# new ones of their dependencies, so warnings are no errors; shapes are enforced by `make test` alone (under
# torch.compile the old torch trips over the check). Needs Python 3.10 to 3.12 (numpy 1.26).
test-floor:
	$(MAKE) VENV=.venv-floor .venv-floor/.floor
	JAXTYPING_DISABLE=1 .venv-floor/bin/python -m pytest -n 2 -m "not slow" -W default --disable-warnings tests/selectors tests/scoring tests/callbacks

# Modules that no one here wrote (docs/compatibility.md). Downloads gigabytes the first time.
test-clients:
	$(MAKE) VENV=.venv-clients .venv-clients/.clients
	.venv-clients/bin/python -m pytest -W default --disable-warnings tests/clients

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-floor .venv-clients dist outputs multirun runs .pytest_cache .ruff_cache .hypothesis

ifdef UV
$(VENV)/.made:
	uv venv --python-preference system --python ">=3.10" $(VENV)
	touch $@
INSTALL = uv pip install --python $(BIN)/python
else
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), f"litselect needs Python 3.10 or newer, found {sys.version.split()[0]}; name another with: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"   # the first pip that reads dependency groups
	touch $@
INSTALL = $(BIN)/pip install --quiet
endif

$(VENV)/.experiments: $(VENV)/.made pyproject.toml
	$(INSTALL) -e '.[experiments]'
	touch $@

$(VENV)/.sweeps: $(VENV)/.experiments pyproject.toml
	$(INSTALL) -e '.[experiments,sweeps]'
	touch $@

$(VENV)/.test: $(VENV)/.experiments pyproject.toml
	$(INSTALL) --group test
	touch $@

$(VENV)/.floor: $(VENV)/.made pyproject.toml
	$(INSTALL) --group floor -e .
	touch $@

$(VENV)/.clients: $(VENV)/.made pyproject.toml
	$(INSTALL) --group clients -e .
	touch $@
