#!/usr/bin/env bash
# What every change passes before its tests: formatting, lints, a check without features, documentation. See test.sh.
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
step cargo clippy --quiet --all-targets --all-features -- -D warnings
# Reading, writing and the tree need no FUSE, network, terminal or foreign format; the program needs no FUSE and no network.
step cargo clippy --quiet --no-default-features -- -D warnings
step cargo clippy --quiet --no-default-features --features cli -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --quiet --no-deps
say "check passed"
