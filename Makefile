# Two commands do everything on a fresh machine: `make demo` and `make test`.
# `make demo TORCH=` takes torch from pip's own index, `TORCH=FILE.whl` a file that is at hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := $(VENV)/demo
TORCH ?= --extra-index-url https://download.pytorch.org/whl/cpu
ENOUGH := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "kappamask needs Python 3.11 or later, got $$($(PYTHON) --version): make PYTHON=python3.12"; exit 1; }
WORKERS ?= auto
BESIDE := -n $(WORKERS) --maxprocesses 8 --dist loadscope
FUZZ_CASES ?= 10000
BENCH_SIZES ?= 5490
BENCH_JSON ?= bench.jsonl

.PHONY: demo test quick fuzz check audit lock format sample bench reliability train npm udp docs notebooks wheel clean

demo: $(DEMO)/.installed  ## label the embedded sample, with what that needs and no more
	PYTHONPATH=$(CURDIR) $(DEMO)/bin/python -m kappamask demo --out demo-output

# What one process has compiled, the forty that tests start need not compile again.
test quick fuzz: export PYTHONDONTWRITEBYTECODE :=

test: $(INSTALLED)  ## run all tests on all cores, with coverage
	$(BIN)/python -m pytest $(BESIDE) --cov --cov-report=term:skip-covered --cov-fail-under=85

quick: $(INSTALLED)  ## run what is not marked slow: a minute and a half on two idle cores
	$(BIN)/python -m pytest $(BESIDE) --no-cov -m "not slow"

fuzz: $(INSTALLED)  ## hostile input, 10 000 cases of each kind: half an hour on two idle cores
	KAPPAMASK_FUZZ=$(FUZZ_CASES) $(BIN)/python -m pytest $(BESIDE) --no-cov tests/fuzz

check: $(INSTALLED)  ## lint, format, types, rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(INSTALLED)  ## list licences; hold constraints.txt against the advisories of PyPI (needs the internet)
	$(BIN)/python scripts/licences.py
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## write locks/ again, after a change of pyproject.toml or constraints.txt; needs uv
	$(PYTHON) scripts/lock.py

npm:  ## what validates process graphs as other back ends would; tests skip without it
	cd tests/support/processgraphs && npm ci --no-audit --no-fund --silent

udp: $(INSTALLED)  ## write udf/*.json again, after a change of the UDF or its graphs
	$(BIN)/python udf/generate.py

sample: $(INSTALLED)  ## build kappamask/sample again from its sources
	$(BIN)/python scripts/make_sample.py

bench: $(INSTALLED)  ## print this machine's figures beside other programs, into BENCH_JSON too; eight minutes on two cores
	rm -f $(BENCH_JSON)
	BENCH_JSON=$(BENCH_JSON) $(BIN)/python -W ignore benchmarks/throughput.py --repeats 3 --chips 128
	BENCH_JSON=$(BENCH_JSON) $(BIN)/python -W ignore benchmarks/product.py --sizes $(BENCH_SIZES)
	BENCH_JSON=$(BENCH_JSON) $(BIN)/python -W ignore benchmarks/field.py
	BENCH_JSON=$(BENCH_JSON) $(BIN)/python -W ignore benchmarks/engines.py --repeats 3

reliability: $(INSTALLED)  ## run the fault bench many times, write docs/reliability.md
	$(BIN)/python -W ignore docs/tools/reliability.py --times 20

train: $(INSTALLED)  ## train a network, an hour on two cores: docs/model-card.md
	$(BIN)/kappamask train scripts/train.toml --out runs/latest

docs: $(INSTALLED)  ## build the pages with the executed notebooks into site/, strictly, offline
	$(BIN)/mkdocs build --strict

notebooks: $(INSTALLED)  ## run the notebooks into site/executed, to look at or to give away
	$(BIN)/python docs/tools/notebooks.py site/executed

wheel: $(INSTALLED)  ## build the wheel into dist/
	$(BIN)/python -m pip wheel . --no-deps --no-build-isolation --quiet --wheel-dir dist

# torch by itself, beside the others: a further index would be asked for every package, and again where it
# cannot be reached
$(DEMO)/.installed: constraints.txt locks/demo.txt
	@$(ENOUGH)
	$(PYTHON) -m venv $(DEMO)
	pip="$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps"; \
	$$pip --retries 1 $(TORCH) torch --constraint constraints.txt & torch=$$!; \
	$$pip --require-hashes --requirement locks/demo.txt && wait $$torch
	@touch $(DEMO)/.installed

$(INSTALLED): pyproject.toml constraints.txt locks/dev.txt
	@$(ENOUGH)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --no-deps --requirement locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo-output dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
