#!/usr/bin/env bash
# Run the cache and its single flight under a scheduler that tries 20,000 interleavings of readers, work ahead and failures.
#
#   scripts/interleavings.sh
#
# The same code with other primitives (src/engine/sync.rs), so it is built apart, in target/shuttle. Exit code 1 if an
# interleaving fails; the schedule to repeat it with is printed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

need_build
cd "$ROOT"
export RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$ROOT/target}/shuttle"
if run cargo test --quiet --lib shuttled; then echo "PASS interleavings"; else echo "FAIL interleavings"; exit 1; fi
