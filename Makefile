# The commands of the README. What they do is in cross/: this file only names them.

.DEFAULT_GOAL := help
.PHONY: help demo install test test-full

help:
	@echo "make demo [ARGS=--once]   two gateways and a chip on a simulated internet, a live ping"
	@echo "make install              programs, units, completions, group weft (DESTDIR, PREFIX)"
	@echo "make test                 everything a change must pass"
	@echo "make test-full            and what takes long: every interop cell, ignored tests"

demo:
	@cross/demo $(ARGS)

install:
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" cross/install

test:
	@cross/setup test
	@cargo build --release --package xtask
	@cargo xtask test

test-full:
	@cross/setup test
	@cargo build --release --package xtask
	@cargo xtask test --full
