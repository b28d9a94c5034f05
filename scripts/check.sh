#!/usr/bin/env bash
# The gate that every change passes: formatting, lints, also without features, documentation. No tests: see test.sh.
#
#   scripts/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"
(($# == 0)) || die "unknown option $1 (see --help)"

need_build
cd "$ROOT"
step() {
    say "$*"
    run "$@"
}
step cargo fmt --check
step cargo clippy --all-targets --all-features -- -D warnings
# Proves that reading, writing and the tree need neither FUSE nor the network.
step cargo clippy --no-default-features -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps
say "check passed"
