# tidegate: `make run` is the shortest way to a first answer. GNU make 3.81 (macOS) is enough, and the
# folder's path may have spaces in it: so every path below is relative, and every tool is started as a
# module of the environment's Python, not by its script.

PYTHON  =
ARGS    =
CASES   = 200
SECONDS = 60
UV_PIN  = uv==0.13.9
AUDIT   = pip-audit==2.10.1
PY      = .venv/bin/python
STAMP   = .venv/.set-up
BROWSER = .venv/.browser

.PHONY: help setup run test contract fuzz check audit format readme screenshots lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

setup: $(STAMP) ## Create or renew the environment in .venv from requirements.lock

run: $(STAMP) ## Start everything, with the sample model; ARGS=--once stops after the first answer
	@$(PY) -m tidegate up --sample $(ARGS)

test: $(STAMP) $(BROWSER) ## Run the whole test suite; ARGS go to pytest
	@$(PY) -m pytest $(ARGS)

contract: $(STAMP) ## Thousands of drawn requests against the OpenAPI document; CASES are for each route and way of drawing; from 8 on, each route must succeed once
	@CONTRACT_EXAMPLES=$(CASES) $(PY) -m pytest -s tests/contract/test_schemathesis.py $(ARGS)

fuzz: $(STAMP) ## Bad input to everything that reads some, for SECONDS in all; ARGS name targets; one JSON line of counts
	@$(PY) -m tests.fuzz --seconds $(SECONDS) $(ARGS)

check: $(STAMP) $(BROWSER) ## Lint, check types and imports, run the tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PY) -m pytest -n 2 --dist loadgroup

audit: .venv/.uv ## Ask the Python advisory database about the lock's versions; needs a network, and fails without
	@sh .ci/audit "$(AUDIT)" $(ARGS)

format: $(STAMP) ## Format the code and mend what ruff can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

readme: $(STAMP) ## Renew the parts of the README that are made from the code
	@$(PY) -m tests.made_parts

screenshots: $(STAMP) $(BROWSER) ## Renew the pictures of the page in docs/screenshots
	@$(PY) -m tests.browser.screenshots $(ARGS)

lock: .venv/.uv ## Renew requirements.lock from pyproject.toml; ARGS=--upgrade takes what is newest
	@sh .ci/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --custom-compile-command "make lock" --python-version 3.11 --extra cpu --group dev \
	  $(ARGS) pyproject.toml -o requirements.lock

clean: ## Remove the environment and the caches; models and queues in the data folder stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment's Python, with a pinned uv beside its pip.
.venv/.uv: Makefile
	@set -e; for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    found=$$python; break; \
	  fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "tidegate needs Python 3.11 or newer with its venv module; name one: make PYTHON=..." >&2; \
	  exit 1; \
	fi; \
	$(PY) -c '' 2>/dev/null || "$$found" -m venv --clear .venv; \
	$(PY) -m pip install --quiet --disable-pip-version-check "$(UV_PIN)"; \
	touch .venv/.uv

$(STAMP): .venv/.uv requirements.lock pyproject.toml
	@sh .ci/uv pip sync --require-hashes requirements.lock
	@sh .ci/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
	@sh .ci/packages speed
	@touch $(STAMP)

# Only who tests needs a browser, and it is large: `make run` and `make setup` do without.
$(BROWSER): $(STAMP)
	@sh .ci/packages browser
	@touch $(BROWSER)
