# Every target sets .venv up by itself; nothing but Python >= 3.11 and make is needed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: investigate test test-slow test-gpu test-extras lint format bench coverage screenshots figures gates rules investigations pages clean

investigate: $(READY)
	$(BIN)/etrm investigate --preset small --out runs/investigation

test: $(READY)
	$(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/pytest -m "slow and not gpu"

# What needs a GPU; on a machine without one every test is skipped and says so.
test-gpu: $(READY)
	$(BIN)/pytest -m gpu

# What `make test` skips where its packages are not installed: callbacks, docs/examples, jobs through submitit.
test-extras: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,lightning,transformers,examples,cluster]'
	$(BIN)/pytest tests/diagnostics/test_lightning.py tests/diagnostics/test_hugging_face.py tests/examples tests/investigation/runs/test_launchers.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.performance

# docs/settings.md, docs/errors.md and docs/result-codes.md, which tests compare with the code.
pages: $(READY)
	$(BIN)/python -m reports.documents.settings_page --out docs/settings.md
	$(BIN)/python -m reports.documents.error_codes --out docs/errors.md
	$(BIN)/python -m etrm.investigation.codes > docs/result-codes.md

# The screenshots of the README, from a real investigation: a minute; needs chromium.
screenshots: $(READY)
	$(BIN)/python docs/figures/screenshots.py

# docs/coverage.md: two small real runs, seconds.
coverage: $(READY)
	$(BIN)/python docs/examples/coverage.py --out docs/figures/coverage.png

# Figures of docs/results, from real runs: about 15 minutes on two cores.
figures: $(READY)
	$(BIN)/etrm investigate --preset small --inject cached-context --hypotheses H2 --no-experiments --out runs/cached-context
	cp runs/cached-context/figures/h2-reset.png docs/results/figures/cached-context.png
	for seed in 0 1 2; do \
	    $(BIN)/etrm train --preset overfit --set train.seed=$$seed --resume --out runs/overfit/seed$$seed || exit 1; \
	done
	$(BIN)/etrm plot runs/overfit/seed0 runs/overfit/seed1 runs/overfit/seed2 --line gate=0.95 \
	    --title "Overfit gate: ten tasks, token accuracy of all rows" --out docs/results/figures/overfit-gate.png

# docs/results/learning.md: the overfit gate of the other encoders; about 3 minutes of one core for each of 18 runs.
KINDS := hybrid_standard lpn_standard lpn_variational hybrid_variational recurrent trm_style
gates: $(READY)
	for seed in 0 1 2; do for kind in $(KINDS); do \
	    $(BIN)/etrm train --preset overfit --set model.encoder.kind=$$kind --set train.seed=$$seed \
	        --set train.threads=1 --resume --out runs/gates/$$kind-seed$$seed || exit 1; \
	done; done
	$(BIN)/python -m reports.documents.learning gates runs/gates/*-seed? --out docs/results/figures/overfit-gates.png

# docs/results/learning.md: held-out rules; about 15 minutes of one core for each of 3 runs.
rules: $(READY)
	for seed in 0 1 2; do \
	    $(BIN)/etrm train --preset rules --set train.seed=$$seed --set train.threads=1 --resume --out runs/rules/seed$$seed || exit 1; \
	done
	$(BIN)/python -m reports.documents.learning held-out runs/rules/seed? --out docs/results/figures/rules.png

# docs/results/first-questions.md: about an hour of one core.
REVISITED := --preset small --set train.steps=120 --set train.clip_norm=none --out runs/revisited-experiments
investigations: $(READY)
	$(BIN)/etrm experiment run cached $(REVISITED)
	$(BIN)/etrm experiment suite stability $(REVISITED)
	$(BIN)/etrm frozen-decoder --preset small --out runs/revisited-frozen
	$(BIN)/etrm frozen-decoder --preset small --as-original all --out runs/revisited-mistakes

clean:
	rm -rf .venv build dist *.egg-info diagnostics/build diagnostics/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
