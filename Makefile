# SPDX-License-Identifier: LGPL-2.1-or-later
# unit-confext: per-unit confext images for systemd services. `make help` lists what there is to make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PREFIX ?= /usr
DESTDIR ?=
# The interpreter that runs what is installed, and for which it is compiled.
PYTHON ?= /usr/bin/python3

libdir ?= $(PREFIX)/lib/unit-confext
bindir ?= $(PREFIX)/bin
generatordir ?= $(PREFIX)/lib/systemd/system-generators
unitdir ?= $(PREFIX)/lib/systemd/system
catalogdir ?= $(PREFIX)/lib/systemd/catalog
sysusersdir ?= $(PREFIX)/lib/sysusers.d
# Makes the user that is in there.
SYSUSERS ?= systemd-sysusers
mandir ?= $(PREFIX)/share/man
docdir ?= $(PREFIX)/share/doc/unit-confext
bashcompletiondir ?= $(PREFIX)/share/bash-completion/completions
zshcompletiondir ?= $(PREFIX)/share/zsh/vendor-completions

# Where that interpreter finds the packages that are needed, with colons between. It is started without site(3), which
# takes longer than all the rest, and so has to be told.
SITEDIR ?= $(or $(shell $(PYTHON) -I -c 'from importlib.util import find_spec; \
	found = map(find_spec, ("jeepney", "systemd", "pyparsing", "cryptography")); \
	print(*dict.fromkeys(spec.origin.rsplit("/", 2)[0] for spec in found if spec), sep=":")' \
	2>/dev/null),/usr/lib/python3/dist-packages)

ifneq ($(words x$(DESTDIR)$(PREFIX)),1)
$(error A DESTDIR or PREFIX with spaces in it does not work)
endif

packages := generator/confext_generator helpers/confext_helpers
# Where the modules are: the packages, and the packages in them.
directories := $(sort $(patsubst %/,%,$(dir $(shell find $(packages) -name __init__.py))))
units := $(wildcard units/*.in)
dropins := $(wildcard units/*.service.d/*.conf)
catalog := units/unit-confext.catalog
sysusers := units/unit-confext.sysusers
pages := $(wildcard docs/*.[1-8].md)

# What is installed, by its installed path; uninstall removes this and nothing else.
generator := $(generatordir)/unit-confext-generator
hook := $(libdir)/restack
# The shell scripts before and after it.
scripts := $(libdir)/restack-if-changed $(libdir)/cancel-unless-done
command := $(bindir)/unit-confext
installed_packages := $(addprefix $(libdir)/,$(notdir $(packages)))
installed_units := $(addprefix $(unitdir)/,$(notdir $(units:.in=)))
installed_dropins := $(addprefix $(unitdir)/,$(dropins:units/%=%))
section = $(subst .,,$(suffix $(basename $(1))))
installed_catalog := $(catalogdir)/$(notdir $(catalog))
installed_sysusers := $(sysusersdir)/unit-confext.conf
installed_pages := $(foreach page,$(notdir $(pages)),$(mandir)/man$(call section,$(page))/$(basename $(page)))
documents := README.md LICENSE
installed_documents := $(addprefix $(docdir)/,$(documents))
installed_completions := $(bashcompletiondir)/unit-confext $(zshcompletiondir)/_unit-confext

comma := ,
substitute = sed -e 's|@libdir@|$(libdir)|g' -e 's|"@sitedir@"|"$(subst :,"$(comma) ",$(SITEDIR))"|g' \
	-e 's|/usr/bin/python3|$(PYTHON)|g'

.PHONY: help
help: ## Show this list
	@echo 'Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16
	@echo 'Variables: DESTDIR PREFIX PYTHON SITEDIR bindir libdir generatordir unitdir catalogdir sysusersdir mandir docdir' \
		'bashcompletiondir zshcompletiondir SYSUSERS ARGS JOBS ROWS'

# ---- Installing ----

.PHONY: install
install: man ## Install below $DESTDIR$PREFIX, PREFIX=/usr
	rm -rf $(addprefix $(DESTDIR),$(installed_packages))
	$(foreach directory,$(directories),install -D -m 644 -t \
		$(DESTDIR)$(libdir)/$(patsubst generator/%,%,$(directory:helpers/%=%)) $(directory)/*.py && ) :
# Compiled files that count whatever the files' times are: packaging tools change those afterwards. Nobody edits
# the modules in place, and the `rm` above keeps an old compiled file from a new module. The paths in them, which
# tracebacks show, are without DESTDIR.
	$(PYTHON) -I -m compileall -q -f --invalidation-mode unchecked-hash $(if $(DESTDIR),-s $(DESTDIR) -p /) \
		$(addprefix $(DESTDIR),$(installed_packages))
	$(substitute) helpers/restack.in | install -m 755 /dev/stdin $(DESTDIR)$(hook)
	$(foreach script,$(scripts),$(substitute) helpers/$(notdir $(script)).in | \
		install -m 755 /dev/stdin $(DESTDIR)$(script) && ) :
	$(substitute) helpers/unit-confext.in | install -D -m 755 /dev/stdin $(DESTDIR)$(command)
	$(foreach unit,$(units),$(substitute) $(unit) | \
		install -D -m 644 /dev/stdin $(DESTDIR)$(unitdir)/$(notdir $(unit:.in=)) && ) :
	$(foreach dropin,$(dropins),install -D -m 644 $(dropin) $(DESTDIR)$(unitdir)/$(dropin:units/%=%) && ) :
	install -D -m 644 -t $(DESTDIR)$(catalogdir) $(catalog)
	$(if $(DESTDIR),,journalctl --update-catalog)
	install -D -m 644 $(sysusers) $(DESTDIR)$(installed_sysusers)
	$(if $(DESTDIR),,$(SYSUSERS) $(installed_sysusers))
	$(foreach page,$(installed_pages),if [ -e build/man/$(notdir $(page)) ]; then \
		install -D -m 644 build/man/$(notdir $(page)) $(DESTDIR)$(page); fi && ) :
	install -D -m 644 -t $(DESTDIR)$(docdir) $(documents)
	install -D -m 644 -t $(DESTDIR)$(bashcompletiondir) helpers/completion/bash/unit-confext
	install -D -m 644 -t $(DESTDIR)$(zshcompletiondir) helpers/completion/zsh/_unit-confext
# Last, since systemd runs it from now on.
	$(substitute) generator/unit-confext-generator.in | install -D -m 755 /dev/stdin $(DESTDIR)$(generator)
	$(if $(DESTDIR),,@echo 'Installed; now run: systemctl daemon-reload')

.PHONY: uninstall
uninstall: ## Remove what install put there
	rm -f $(addprefix $(DESTDIR),$(generator) $(hook) $(scripts) $(command) $(installed_units) $(installed_dropins) \
		$(installed_pages) $(installed_catalog) $(installed_sysusers) $(installed_documents) $(installed_completions))
	rm -rf $(addprefix $(DESTDIR),$(installed_packages))
# Directories that are the distribution's too go only from a DESTDIR, and nowhere if something is in them.
	cd $(DESTDIR)/ && rmdir --ignore-fail-on-non-empty $(patsubst /%,%,$(libdir) $(docdir) $(dir $(installed_dropins))) \
		$(if $(DESTDIR),-p $(patsubst /%,%,$(generatordir) $(unitdir) $(catalogdir) $(sysusersdir) $(bindir) $(dir $(installed_pages) \
		$(installed_completions)))) 2>/dev/null || :
	$(if $(DESTDIR),,-journalctl --update-catalog)
	$(if $(DESTDIR),,@echo "Removed; now run: systemctl daemon-reload && systemctl stop 'unit-confext-*'")

# Man pages are written in markdown. Where no converter is installed they are left out.
converter := $(firstword $(shell command -v go-md2man pandoc 2>/dev/null))

.PHONY: man
man: $(addprefix build/man/,$(basename $(notdir $(pages)))) ## Build the man pages

ifneq ($(converter),)
build/man/%: docs/%.md
	@mkdir -p $(@D)
	$(if $(filter pandoc,$(notdir $(converter))),pandoc -s -f markdown -t man $< -o $@,sed 's/^% \(.*\)(\([1-8]\))$$/% "\1" "\2"/' $< | go-md2man -out $@)
else
build/man/%:
	@echo '$(@F) is left out: neither go-md2man nor pandoc is installed'
endif

# ---- Testing ----

VENV := build/venv
PYTEST = $(VENV)/bin/python -m pytest

# What a fresh Debian may lack, as COMMAND:PACKAGE.
lab := mmdebstrap:mmdebstrap unshare:util-linux nsenter:util-linux ip:iproute2
tools := mkfs.erofs:erofs-utils mksquashfs:squashfs-tools unsquashfs:squashfs-tools mkfs.ext4:e2fsprogs \
	debugfs:e2fsprogs openssl:openssl zsh:zsh shellcheck:shellcheck setpriv:util-linux journalctl:systemd
emulator := qemu-system-x86_64:qemu-system-x86

# From pyproject.toml, so that it is said once. Without systemd-python, which would have to be compiled: the code that
# needs it runs in the booted systems, which have it from Debian.
requirements = import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*(r for r in project["dependencies"] + project["optional-dependencies"]["test"] \
	if not r.startswith("systemd-python")), sep="\n")

$(VENV)/installed: pyproject.toml
	tests/lab/need.sh python3:python3 python3:ensurepip:python3-venv $(lab) $(tools)
	$(PYTHON) -m venv $(VENV)
	$(PYTHON) -c '$(requirements)' >$(VENV)/requirements.txt
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r $(VENV)/requirements.txt
	touch $@

# How many booted systems run at a time.
JOBS ?= $(shell nproc)

.PHONY: test
test: $(VENV)/installed ## Run all tests, or ARGS="tests/real/test_x.py"; as root on Debian, installs what they need
	tests/lab/need.sh $(lab) $(tools) $(emulator)
# On Debian 12 it comes with the emulator.
	tests/lab/need.sh virtiofsd:virtiofsd
	$(PYTEST) -n $(JOBS) $(ARGS)

.PHONY: test-fast
test-fast: ## Run the tests that need neither root nor network
	@if [ -e $(VENV)/installed ]; then python=$(VENV)/bin/python; else python=$(PYTHON); fi; \
	if ! $$python -c 'import pytest, hypothesis' 2>/dev/null; then \
		echo 'The tests need pytest and hypothesis: apt-get install python3-pytest python3-hypothesis' >&2; exit 1; \
	fi; \
	$$python -m pytest -m 'not real' --ignore=tests/real --ignore=tests/vm

.PHONY: fuzz
fuzz: $(VENV)/installed ## Give inspect and verify 100,000 damaged images, and 300,000 signatures
	tests/lab/need.sh $(tools)
	UNIT_CONFEXT_FUZZ=100000 $(PYTEST) tests/fuzz

.PHONY: lint
lint: $(VENV)/installed ## Run the linters and the type checker alone
	$(PYTEST) -q tests/unit/project/test_style.py

.PHONY: demo
demo: ## Show it with nginx in a throwaway Debian 13 (as root)
	@tests/lab/need.sh python3:python3 $(lab)
	@PYTHONPATH=tests $(PYTHON) -B -m lab.demo

.PHONY: bench
bench: ## Measure, ROWS="NAME..." only these (as root; takes twenty minutes)
	@tests/lab/need.sh python3:python3 $(lab)
	@PYTHONPATH=tests $(PYTHON) -B -m bench $(ROWS)

.PHONY: clean
clean: ## Remove what make and the tests put into the checkout
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks *.egg-info
	find generator helpers tests -name __pycache__ -type d -prune -exec rm -rf {} +
