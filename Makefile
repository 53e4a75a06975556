# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format sample bench train npm udp clean

demo: $(INSTALLED)  ## run the main job on the embedded sample
	$(BIN)/kappamask demo --out demo-output

test: $(INSTALLED)  ## run all tests, with coverage
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=85

check: $(INSTALLED)  ## lint, format, types, rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

npm:  ## what validates process graphs as other back ends would; tests skip without it
	cd tests/support/processgraphs && npm ci --no-audit --no-fund --silent

udp: $(INSTALLED)  ## write udf/*.json again, after a change of the UDF or its graphs
	$(BIN)/python udf/generate.py

sample: $(INSTALLED)  ## build kappamask/sample again from its sources
	$(BIN)/python scripts/make_sample.py

bench: $(INSTALLED)  ## print the throughput table of this machine
	$(BIN)/python benchmarks/throughput.py

train: $(INSTALLED)  ## train the shipped network again (an hour on two cores)
	$(BIN)/python -m kappamask.train.fit --data ../shared/data --out runs/first

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kappamask needs Python 3.11 or later, got $$($(PYTHON) --version): make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo-output dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
