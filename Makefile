# Thin names for what README.md says. Each target sets up what it needs.
SCENARIO ?= nat-rs-no-gateway
CASE ?= fixtures/faults/nat-rs-no-gateway
CARGO ?= cargo

.PHONY: demo test test-ipvs lint bench bless prove setup

# The C parts of the build: libpcap compiles tcpdump's filters. Installed only where it is missing.
setup:
	@.ci/setup

# Diagnoses a case recorded on a real IPVS kernel; then breaks a set-up on this machine, where namespaces are allowed, captures and diagnoses it.
demo: setup
	@$(CARGO) build --release --quiet
	@echo '$$ lvscope diagnose $(CASE)/*.pcap*'
	@target/release/lvscope diagnose $(CASE)/*.pcap* || true
	@echo; echo '$$ lvscope lab run $(SCENARIO)'
	@target/release/lvscope lab run $(SCENARIO) || [ $$? -le 1 ] || echo 'No lab here; the recorded case above shows the same fault.'

test: setup
	$(CARGO) test --locked

# Compares with a real IPVS kernel, in user-mode Linux: fetched once, an ordinary program, no root.
test-ipvs: setup
	LVSCOPE_REAL_IPVS=1 $(CARGO) test --locked --test it ipvs::
	REAL_IPVS=tests/real-ipvs tests/ipvs/director_against_kernel

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Every scenario of the lab: broken, diagnosed, mended by the printed remedy.
prove: setup
	$(CARGO) run --release --quiet -- lab prove --all

# Measures speed and memory beside tcpdump and tshark.
bench: setup
	benches/compare

# Writes generated documentation and the expectations of fixtures anew.
bless: setup
	LVSCOPE_BLESS=1 $(CARGO) test --locked --test it docs
	$(CARGO) run --release --quiet -- replay --bless fixtures
