# Thin names for ./dev, which does the work and the set-up.
.PHONY: lab test bench check fmt clean-lab
lab: ; ./dev lab up
test: ; ./dev test
bench: ; ./dev bench
check: ; ./dev check
fmt: ; cargo fmt --all
clean-lab: ; ./dev lab down
