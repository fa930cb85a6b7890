# Every job is one command; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

ENV ?= inventory/lab
$(if $(wildcard $(ENV)),,$(error terrace: there is no environment $(ENV); ENV is a folder such as inventory/production))
LAB := $(filter inventory/lab,$(ENV))
BIN := $(CURDIR)/.venv/bin
# Where the environment says by a link where its vault's password is, that is used.
VAULT := $(patsubst %,--vault-password-file=%,$(wildcard $(ENV)/.vault-password))
ANSIBLE := $(if $(MITOGEN),ANSIBLE_STRATEGY=mitogen_linear) ANSIBLE_CONFIG=$(CURDIR)/ansible.cfg $(BIN)/ansible-playbook --inventory=$(ENV) $(VAULT) \
    $(if $(OFFLINE),--extra-vars=validate_sources=false)
HERE := ANSIBLE_CONFIG=$(CURDIR)/ansible.cfg $(BIN)/ansible-playbook --inventory=localhost,
# What Ansible cannot read, it refuses in words of its own, one at a time.
READABLE := $(BIN)/python $(CURDIR)/plugins/terrace/inventory.py $(ENV)
export PATH := $(BIN):$(PATH)

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  ENV=inventory/<name> chooses the environment (default: the lab)."

.PHONY: setup setup-lab
setup:
	@molecule/lab/setup >&2
setup-lab:
	@molecule/lab/setup lab >&2

.PHONY: up
up: setup-lab ## Create the lab, bring the whole stack up in it, and show what runs where
	@$(ANSIBLE) molecule/lab/create.yml
	@$(ANSIBLE) site.yml
	@$(MAKE) status WAIT=60

.PHONY: down
down: ## Remove the lab's hosts, their data and their network
	@molecule/lab/destroy
	@rm -rf .terrace/lab .terrace/single
	@echo "The lab is gone. Its images and package cache stay for the next one; 'make clean' removes them."

.PHONY: clean
clean: down ## Remove the lab, its images and caches, and the virtual environment
	@rm -rf /var/lib/terrace-lab .terrace .venv

.PHONY: site
site: setup ## Run site.yml on an environment (ENV=; RESTORE=1 brings lost databases back from the repository)
	@$(READABLE) && $(ANSIBLE) site.yml $(if $(RESTORE),$(site_restore))
site_restore = --extra-vars='{"site_restore": true, "restore_time": "$(TIME)", "restore_point": "$(POINT)", "restore_backup": "$(BACKUP)"}'

.PHONY: check
check: setup ## Validate an environment without touching a host (ENV=; OFFLINE=1 asks no repository and no index)
	@$(READABLE) && ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/validate.yml

.PHONY: preflight
preflight: setup ## Ask an environment's hosts whether they can be what they are to be, and change nothing (ENV=)
	@$(ANSIBLE) playbooks/preflight.yml

.PHONY: environment
environment: setup ## Make a new environment with fresh, encrypted secrets (NAME=, DIR=, VAULT_PASSWORD=)
	@$(if $(NAME),,echo "terrace: say which: make environment NAME=qa" >&2; exit 1)
	@$(HERE) playbooks/environment.yml --extra-vars='{"environment_name": "$(NAME)", "environment_directory": "$(or $(DIR),$(CURDIR))"}'

.PHONY: environment-export environment-import
environment-export: setup ## Write an environment with its authority and vault into one encrypted file (FILE=, EXPORT_PASSWORD=, ENV=)
	@$(ANSIBLE) playbooks/environment_export.yml --extra-vars='{"export_file": "$(FILE)", "export_password": "$(EXPORT_PASSWORD)"}'
environment-import: setup ## Have an environment back from such a file (FILE=, EXPORT_PASSWORD=, DIR=)
	@$(HERE) playbooks/environment_import.yml \
	    --extra-vars='{"import_file": "$(FILE)", "import_password": "$(EXPORT_PASSWORD)", "import_directory": "$(or $(DIR),$(CURDIR))"}'

.PHONY: secrets
secrets: setup ## Open an environment's secrets in $$EDITOR; make them first where there are none (ENV=)
	@test -e $(ENV)/group_vars/all/vault.yml || $(HERE) playbooks/secrets.yml \
	    --extra-vars='{"secrets_inventory": "$(ENV)", "secrets_name": "$(notdir $(abspath $(ENV)/../..))-$(notdir $(abspath $(ENV)))"}'
	@vault=$(ENV)/.vault-password; ANSIBLE_CONFIG=$(CURDIR)/ansible.cfg $(BIN)/ansible-vault edit $$(test ! -e $$vault || \
	    echo --vault-password-file=$$vault) $(ENV)/group_vars/all/vault.yml

.PHONY: plan
plan: setup ## Show what a run of site.yml would do, host by host, changing nothing (ENV=, LIMIT=; DIFF=1 shows files)
	@ANSIBLE_STDOUT_CALLBACK=plan $(if $(DIFF),TERRACE_PLAN_DIFF=true) $(ANSIBLE) playbooks/plan.yml --check --diff \
	    $(if $(LIMIT),--limit='$(LIMIT)') || [ $$? -eq 3 ]

.PHONY: status
status: setup ## Show all hosts and services, and what is wrong; fail where something is (ENV=, FORMAT=json, WAIT=60)
	@status() { ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/status.yml --extra-vars=status_format=$(or $(FORMAT),table); }; \
	end=$$((SECONDS + $(or $(WAIT),0))); code=3; \
	while [ $$code -eq 3 ] && [ $$SECONDS -lt $$end ]; do said=$$(status) && code=0 || code=$$?; done; \
	if [ -v said ]; then printf '%s\n' "$$said"; exit $$code; else status; fi

.PHONY: check-queries
check-queries: setup ## Try the services' declared queries on a replica; fail where one is not as expected (SERVICE=, QUERY=, PLANS=1, FORMAT=json, ENV=)
	@$(READABLE) && ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/check_queries.yml $(queries)
queries = --extra-vars='{"queries_of": "$(SERVICE)", "queries_name": "$(QUERY)", "queries_plans": $(if $(PLANS),true,false), \
    "queries_format": "$(or $(FORMAT),table)"}'

.PHONY: deploy rollback
deploy: setup ## Have all nodes run a new release, or none (SERVICE=orders or all, VERSION=, CHECK=1, BATCH=2, WATCH=10, WAIT=0, QUERIES=0, FORCE=1, ENV=)
	@$(READABLE) && $(ANSIBLE) playbooks/deploy.yml $(call deploy,deploy)
rollback: setup ## Have all nodes run the release before, or another one that they have (SERVICE=orders or all, RELEASE=, CHECK=1, BATCH=, WATCH=0, ENV=)
	@$(READABLE) && $(ANSIBLE) playbooks/deploy.yml $(call deploy,rollback)
comma := ,
quoted = [$(subst $() $(),$(comma) ,$(patsubst %,"%",$(1)))]
deploy = --extra-vars='{"deploy_kind": "$(1)", $(if $(BATCH),"deploy_serial": [1$(comma) $(BATCH)]$(comma)) $(if $(WATCH),"deploy_watch": $(WATCH)$(comma)) "deploy_wait": $(or $(WAIT),0), \
    "deploy_services": $(if $(SERVICE),$(call quoted,$(SERVICE)),"{{ topology_services_declared | list }}"), \
    "deploy_version": "$(VERSION)", "deploy_release": "$(RELEASE)", "deploy_check": $(if $(CHECK),true,false), "deploy_force": $(if $(FORCE),true,false), \
    "deploy_queries": $(if $(filter 0,$(QUERIES)),false,true), "deploy_id": "'$$(date +%s)-$$$$'", "deploy_who": "'$$(id -un)'", "deploy_origin": "'$$(uname -n)'"}'

.PHONY: rotate-secret
rotate-secret: setup ## Change a secret while services go on (NAME=orders/database; CHECK=1 says what it would do, PAUSE=1, WATCH=10, WAIT=0, ENV=)
	@$(if $(NAME),,echo "terrace: say which: make rotate-secret NAME=orders/database; NAME=? lists what there is" >&2; exit 1)
	@$(READABLE) && $(ANSIBLE) playbooks/rotate_secret.yml $(rotate)
rotate = --extra-vars='{"rotate_name": "$(NAME)", "rotate_check": $(if $(CHECK),true,false), "rotate_pause": $(if $(PAUSE),true,false), \
    $(if $(WATCH),"deploy_watch": $(WATCH)$(comma)) "deploy_wait": $(or $(WAIT),0), \
    "deploy_who": "'$$(id -un)'", "deploy_origin": "'$$(uname -n)'"}'

.PHONY: certificates
certificates: setup ## Ask the ACME server now, whatever it refused before (ANEW=1: for a new one, since the key has leaked; ENV=)
	@$(ANSIBLE) playbooks/certificates.yml --extra-vars=certificates_how=$(if $(ANEW),anew,force)

.PHONY: unlock
unlock: setup ## Break the lock of a deploy that is dead (ENV=)
	@$(ANSIBLE) playbooks/unlock.yml

.PHONY: releases
releases: setup ## List what each node has, what lives, and who deployed it when (SERVICE=, FORMAT=json, ENV=)
	@ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/releases.yml --extra-vars='{"releases_of": "$(SERVICE)", "releases_format": "$(or $(FORMAT),table)"}'

.PHONY: query-report
query-report: setup ## Tell what queries cost, which indexes they lack and which nobody needs, as a page (OUT=query-report.html, FORMAT=json, ENV=)
	@ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/query_report.yml \
	    --extra-vars='{"query_out": "$(or $(OUT),.terrace/query-report.html)", "query_format": "$(or $(FORMAT),table)"}'

.PHONY: restored restored-drop restore-beside
restore-beside: setup ## Restore into an instance beside the cluster (NAME=look, TIME="2026-01-31 12:00:00+00", POINT=, BACKUP=, ENV=)
	@$(call restored,create)
restored: setup ## List the instances that were restored beside the cluster (ENV=)
	@$(call restored,list)
restored-drop: setup ## Remove such an instance (NAME=look, ENV=)
	@$(call restored,drop)
restored = $(ANSIBLE) playbooks/restore_beside.yml --extra-vars='{"restore_verb": "$(1)", "restore_name": "$(NAME)", \
    "restore_time": "$(TIME)", "restore_point": "$(POINT)", "restore_backup": "$(BACKUP)"}'

.PHONY: restore restore-point restore-queue
restore: setup ## Restore the whole cluster in place (TIME="2026-01-31 12:00:00+00" | POINT= | BACKUP= | the latest, CONFIRM=, KEEP=0, ENV=)
	@$(ANSIBLE) playbooks/restore.yml --extra-vars='$(restore)'
restore-queue: setup ## Have the queue hold what a snapshot of it holds, or the newest one (BACKUP=, CONFIRM=, ENV=)
	@$(ANSIBLE) playbooks/restore_queue.yml --extra-vars='$(restore)'
restore-point: setup ## Give what is there now a name to which it can be restored (NAME=before-import, ENV=)
	@$(ANSIBLE) playbooks/restore_point.yml --extra-vars='{"restore_point": "$(NAME)"}'

restore = {"restore_time": "$(TIME)", "restore_point": "$(POINT)", "restore_backup": "$(BACKUP)", "restore_confirm": "$(CONFIRM)", \
    "restore_keep": $(if $(filter 0,$(KEEP)),false,true), "restore_id": "'$$(date -u +%Y%m%dT%H%M%SZ)'", "restore_lock": "'$$(date +%s)-$$$$'", "restore_who": "'$$(id -un)'", \
    "restore_origin": "'$$(uname -n)'"}

.PHONY: backup backup-proof backups
backup: setup ## Take a backup of PostgreSQL now and verify it (TYPE=full|diff|incr, ENV=)
	@$(ANSIBLE) playbooks/backup_now.yml --extra-vars='{"backup_kind": "$(or $(TYPE),incr)"}'
backup-proof: setup ## Restore the newest backup beside the cluster, try it, and remove it (ENV=)
	@$(ANSIBLE) playbooks/backup_proof.yml
backups: setup ## List what can be restored (FORMAT=json, ENV=)
	@ANSIBLE_STDOUT_CALLBACK=lines $(ANSIBLE) playbooks/backups.yml --extra-vars='{"backups_format": "$(or $(FORMAT),table)"}'

.PHONY: database-drop
database-drop: setup ## Drop a database that is no longer declared, with its roles (NAME=reports, CONFIRM=reports, FORCE=1, ENV=; NAME=? lists them)
	@$(if $(NAME),,echo "terrace: say which: make database-drop NAME=reports; NAME=? lists what is not declared" >&2; exit 1)
	@$(ANSIBLE) playbooks/database_drop.yml --extra-vars='{"database_drop_name": "$(NAME)", "database_drop_confirm": "$(CONFIRM)"}' \
	    --extra-vars='{"database_drop_force": $(if $(FORCE),true,false)}'

.PHONY: drain undrain
drain: setup ## Have an app node's peers answer, for one service or all, until undrain (HOST=app2, SERVICE=, WAIT=30, FORCE=1, ENV=)
	@$(call drain,drained)
undrain: setup ## Have an app node serve again (HOST=app2, SERVICE=, WAIT=30, FORCE=1, ENV=)
	@$(call drain,serving)
drain = $(if $(HOST),,echo "terrace: say which: make drain HOST=app2" >&2; exit 1;) $(ANSIBLE) playbooks/drain.yml --extra-vars='{"drain_host": "$(HOST)", \
    "drain_service": "$(SERVICE)", "drain_state": "$(1)", "drain_wait": $(or $(WAIT),30), "drain_force": $(if $(FORCE),true,false)}'

.PHONY: purge
purge: setup ## Remove what the load balancers and the edge keep of answers (SERVICE=shop | URL=https://shop.example/news | PREFIX=/news | all, ENV=)
	@$(ANSIBLE) playbooks/purge.yml \
	    --extra-vars='{"purge_services": $(if $(SERVICE),["$(SERVICE)"],[]), "purge_url": "$(URL)", "purge_prefix": "$(PREFIX)"}'

.PHONY: switchover
switchover: setup ## Have another host lead, failing no request (WHAT=postgresql|cache|queue|redis, TO=db2, FORCE=1, ENV=)
	@$(if $(WHAT),,echo "terrace: say what: make switchover WHAT=postgresql TO=db2" >&2; exit 1)
	@$(ANSIBLE) playbooks/switchover.yml \
	    --extra-vars='{"switchover_what": "$(WHAT)", "switchover_to": "$(TO)", "switchover_force": $(if $(FORCE),true,false)}'

.PHONY: restart
restart: setup ## Restart a tier or a service, one host at a time (TIER=database, or SERVICE=orders; PENDING=1, FORCE=1, ENV=)
	@$(if $(TIER)$(SERVICE),,echo "terrace: say what: make restart TIER=database, or SERVICE=orders" >&2; exit 1)
	@$(ANSIBLE) playbooks/restart.yml --extra-vars='{"restart_tier": "$(TIER)", "restart_service": "$(SERVICE)"}' \
	    --extra-vars='{"restart_pending": $(if $(PENDING),true,false), "restart_force": $(if $(FORCE),true,false)}'

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

.PHONY: resilience resilience-report
resilience: setup ## Break an environment under load, one part at a time, and report what clients saw (ENV=, FAULTS=, RUNS=1, CONFIRM=)
	@$(BIN)/python -m resilience --inventory='$(ENV)' --faults='$(FAULTS)' --runs='$(or $(RUNS),1)' --rate='$(or $(RATE),40)' \
	    --confirm='$(CONFIRM)'
resilience-report: setup ## Write what runs of make resilience measured into docs/resilience.md (FROM= folders; the newest)
	@$(BIN)/python -m resilience.document $(FROM)

.PHONY: lint
lint: setup ## Check Ansible, YAML and Python
	@yamllint --strict . & yaml=$$!; ruff check . && ruff format --check . & python=$$!; \
	ANSIBLE_CONFIG=$(CURDIR)/ansible.cfg $(BIN)/python tests/lint.py --offline --strict && wait $$yaml && wait $$python

.PHONY: test-hostless
test-hostless: setup ## Check templates, contracts, inventories, filters and modules; no host is needed
	@# One more than there are cores: some tests wait most of their time.
	@pytest --numprocesses=$$(($$(nproc) + 1)) tests/hostless

.PHONY: test-examples
test-examples: setup-lab ## Run the example services' own tests
	@examples/test

.PHONY: test
test: setup-lab ## Run every check there is, the whole lab included
	@# The lab's images come meanwhile: they wait for the network and the disk.
	@molecule/lab/image >&2 & image=$$!; $(MAKE) --jobs=2 --output-sync=target lint test-examples || { wait $$image; exit 1; }; wait $$image
	@$(MAKE) test-hostless
	@# Where one fails, the log's end says what: who reads only that, as of a CI run, need not search.
	@set -o pipefail; COLUMNS=160 molecule test --all 2>&1 | tee .terrace/test.log || { .ci/failures .terrace/test.log; exit 1; }

.PHONY: test-operations
test-operations: setup-lab ## Switch over, restart and break a lab that is up, under load (`make test` does, on a lab of its own)
	@ANSIBLE_STRATEGY=mitogen_linear pytest -v tests/operations

.PHONY: test-deploys
test-deploys: setup-lab ## Deploy under load, ten times in a row and in every way that fails, to a lab that is up
	@ANSIBLE_STRATEGY=mitogen_linear DEPLOYS_SLOW_SECONDS=10 pytest -v tests/deploys

.PHONY: test-backups
test-backups: setup-lab ## Break backups and restores of a lab that is up, in every way that they have to stand
	@ANSIBLE_STRATEGY=mitogen_linear pytest -v tests/backups

.PHONY: test-rotations
test-rotations: setup-lab ## Change every kind of secret under load, on a lab that is up
	@ANSIBLE_STRATEGY=mitogen_linear pytest -v tests/rotations

.PHONY: test-applications
test-applications: ## Deploy a Django project to a lab that is up, and log in to it with a browser
	@molecule/lab/setup lab browser >&2
	@ANSIBLE_STRATEGY=mitogen_linear pytest -v tests/applications

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

.PHONY: docs
docs: setup ## Write the tables of keys and of sizes in the documentation anew
	@$(BIN)/python docs/generate && $(BIN)/python docs/generate-sizing

.PHONY: requirements
requirements: setup ## Pin anew what requirements.in names
	@uv pip compile --quiet --upgrade --universal --python-version=3.11 --no-header --no-annotate --no-emit-index-url \
	    --no-emit-find-links --output-file=requirements.txt requirements.in
