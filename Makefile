# Every job is one command; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ENV ?= inventory/lab
LAB := $(filter inventory/lab,$(ENV))
BIN := $(CURDIR)/.venv/bin
ANSIBLE := ANSIBLE_CONFIG=$(CURDIR)/ansible.cfg $(BIN)/ansible-playbook --inventory=$(ENV)
export PATH := $(BIN):$(PATH)

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ENV=inventory/<name> chooses the environment (default: the lab)."

.PHONY: setup setup-lab
setup:
	@molecule/lab/setup
setup-lab:
	@molecule/lab/setup lab

.PHONY: up
up: setup-lab ## Create the lab, bring the whole stack up in it, and show what runs where
	@$(ANSIBLE) molecule/lab/create.yml
	@$(ANSIBLE) site.yml
	@$(MAKE) status

.PHONY: down
down: ## Remove the lab's hosts, their data and their network
	@molecule/lab/destroy
	@rm -rf .terrace/lab
	@echo "The lab is gone. Its images and package cache stay for the next one; 'make clean' removes them."

.PHONY: clean
clean: down ## Remove the lab, its images and caches, and the virtual environment
	@rm -rf /var/lib/terrace-lab .terrace .venv

.PHONY: site
site: setup ## Run site.yml on an environment (ENV=)
	@$(ANSIBLE) site.yml

.PHONY: check
check: setup ## Validate an environment without touching a host (ENV=)
	@$(ANSIBLE) playbooks/validate.yml

.PHONY: status
status: setup ## Show each host, what runs there, and the addresses to try (ENV=)
	@$(ANSIBLE) playbooks/status.yml

.PHONY: logs
logs: setup ## Show the last lines of a service on every node (SERVICE=, LINES=50, ENV=)
	@$(if $(SERVICE),,echo "terrace: say which: make logs SERVICE=orders" >&2; exit 1)
	@$(ANSIBLE) playbooks/logs.yml --extra-vars='{"logs_service": "$(SERVICE)", "logs_lines": $(or $(LINES),50)}'

.PHONY: run
run: setup ## Run a command in a service's live release, with its environment (SERVICE=, CMD=, ENV=)
	@$(if $(and $(SERVICE),$(CMD)),,echo 'terrace: say what: make run SERVICE=orders CMD="python -m orders.report"' >&2; exit 1)
	@run_command='$(subst ','\'',$(CMD))' $(ANSIBLE) playbooks/run.yml --extra-vars='{"run_service": "$(SERVICE)"}'

.PHONY: ssh
ssh: setup ## Open a shell on a host (HOST=, ENV=)
	@$(if $(HOST),,echo "terrace: say which: make ssh HOST=app1" >&2; exit 1)
	@mkdir -p .terrace/ssh && rm -f .terrace/ssh/$(HOST)
	@$(ANSIBLE) playbooks/ssh.yml --extra-vars='{"ssh_host": "$(HOST)", "ssh_command": "$(CURDIR)/.terrace/ssh/$(HOST)"}' >.terrace/ssh/log 2>&1 \
	    && test -x .terrace/ssh/$(HOST) || { cat .terrace/ssh/log; echo "terrace: $(ENV) has no host '$(HOST)'" >&2; exit 1; }
	@.terrace/ssh/$(HOST)

.PHONY: lint
lint: setup ## Check Ansible, YAML and Python
	@yamllint --strict .
	@ruff check . && ruff format --check .
	@ANSIBLE_CONFIG=$(CURDIR)/ansible.cfg ansible-lint --offline --strict

.PHONY: test-hostless
test-hostless: setup ## Check templates, contracts, inventories, filters and modules; no host is needed
	@pytest tests/hostless

.PHONY: test-examples
test-examples: setup-lab ## Run the example services' own tests
	@examples/test

.PHONY: test
test: setup-lab ## Run every check there is, the whole lab included
	@$(MAKE) lint
	@$(MAKE) test-hostless
	@$(MAKE) test-examples
	@molecule test --all

.PHONY: bench bench-report
bench: setup-lab ## Measure into docs/benchmarks.md; makes the lab anew (PARTS=all, ROUNDS=3)
	@$(BIN)/python bench/run $(or $(PARTS),all)
	@$(MAKE) bench-report
bench-report: .terrace/venv-bench/.done ## Write what was measured into docs/benchmarks.md
	@.terrace/venv-bench/bin/python bench/report

.terrace/venv-bench/.done: bench/requirements.txt
	@python3 -m venv --clear .terrace/venv-bench
	@.terrace/venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@touch $@

.PHONY: requirements
requirements: setup ## Pin anew what requirements.in names
	@uv pip compile --quiet --upgrade --universal --python-version=3.11 --no-header --no-annotate --no-emit-index-url \
	    --no-emit-find-links --output-file=requirements.txt requirements.in
