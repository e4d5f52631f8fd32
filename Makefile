# Every target sets .venv up by itself; nothing but Python >= 3.11 and make is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help investigate quick test test-slow test-gpu test-extras lint format bench bench-gpu coverage screenshots figures gates rules investigations pages clean

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "make %-15s %s\n", $$1, $$2 }'

investigate: $(READY)  ## investigate the preset small; writes runs/investigation (15 minutes on two cores)
	$(BIN)/etrm investigate --preset small --out runs/investigation

quick: lint  ## lint, and the tests nearest to what changed since main: under a minute
	$(BIN)/python -m tests.affected --run --seconds 25 -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

# Empty, the variable counts as unset. Set, every process that a test starts would compile the code again.
test: $(READY)  ## all tests but the slow ones (7 minutes on two cores)
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile

test-slow: $(READY)  ## tests that train for minutes (some hours in all; run it before a release)
	$(BIN)/pytest -m "slow and not gpu"

test-gpu: $(READY)  ## tests that need a GPU; skipped where there is none
	$(BIN)/pytest -m gpu

test-extras: $(READY)  ## install the extras and run the tests that need them (callbacks, docs/examples, submitit)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,lightning,transformers,models,examples,cluster]'
	$(BIN)/pytest tests/diagnostics/test_lightning.py tests/diagnostics/test_hugging_face.py tests/diagnostics/auditing/test_named_models.py tests/examples tests/investigation/runs/test_launchers.py

lint: $(READY)  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)  ## fix what ruff can fix, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## performance against the published layout and other tools
	$(BIN)/python -m benchmarks.performance

bench-gpu: $(READY)  ## what training costs on a GPU, a line of JSON per case (10 minutes; needs a GPU)
	$(BIN)/python -m benchmarks.gpu

pages: $(READY)  ## generate the pages that tests compare with the code
	$(BIN)/python -m diagnostics pages --out docs/rules
	$(BIN)/python -m reports.documents.settings_page --out docs/settings.md

screenshots: $(READY)  ## take the screenshots of the README, from a real investigation (a minute; needs chromium)
	$(BIN)/python docs/figures/screenshots.py

coverage: $(READY)  ## draw the figure that explains coverage, from two small runs (seconds)
	$(BIN)/python docs/examples/coverage.py --out docs/figures/coverage.png

figures: $(READY)  ## draw figures of docs/results, from real runs (15 minutes on two cores)
	$(BIN)/etrm investigate --preset small --inject cached-context --hypotheses H2 --no-experiments --out runs/cached-context
	cp runs/cached-context/figures/h2-reset.png docs/results/figures/cached-context.png
	for seed in 0 1 2; do \
	    $(BIN)/etrm train --preset overfit --set train.seed=$$seed --resume --out runs/overfit/seed$$seed || exit 1; \
	done
	$(BIN)/etrm plot runs/overfit/seed0 runs/overfit/seed1 runs/overfit/seed2 --line gate=0.95 \
	    --title "Overfit gate: ten tasks, token accuracy of all rows" --out docs/results/figures/overfit-gate.png

KINDS := hybrid_standard lpn_standard lpn_variational hybrid_variational recurrent trm_style
gates: $(READY)  ## run the overfit gate of every encoder but the standard one (18 runs of 3 minutes of one core)
	for seed in 0 1 2; do for kind in $(KINDS); do \
	    $(BIN)/etrm train --preset overfit --set model.encoder.kind=$$kind --set train.seed=$$seed \
	        --set train.threads=1 --resume --out runs/gates/$$kind-seed$$seed || exit 1; \
	done; done
	$(BIN)/python -m reports.documents.learning gates runs/gates/*-seed? --out docs/results/figures/overfit-gates.png

rules: $(READY)  ## train on invented rules, score rules never trained on (three runs of 150,000 episodes, 18 minutes of one core)
	for seed in 0 1 2; do \
	    $(BIN)/etrm train --preset rules --set train.seed=$$seed --set train.threads=1 --resume --out runs/rules/seed$$seed || exit 1; \
	done
	$(BIN)/python -m reports.documents.learning held-out runs/rules/seed? --out docs/results/figures/rules.png

REVISITED := --preset small --set train.steps=120 --set train.clip_norm=none --out runs/revisited-experiments
investigations: $(READY)  ## repeat the investigations of the documents (about an hour of one core)
	$(BIN)/etrm experiment run cached $(REVISITED)
	$(BIN)/etrm experiment suite stability $(REVISITED)
	$(BIN)/etrm frozen-decoder --preset small --out runs/revisited-frozen
	$(BIN)/etrm frozen-decoder --preset small --as-original all --out runs/revisited-mistakes

clean:  ## remove .venv, builds and caches
	rm -rf .venv build dist *.egg-info diagnostics/build diagnostics/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
