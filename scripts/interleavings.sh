#!/usr/bin/env bash
# Run the chunk cache, its single flight and the streams under a scheduler that tries thousands of interleavings of readers,
# prefetch and failures.
#
#   scripts/interleavings.sh
#
# The same code with other primitives (src/engine/sync.rs): the unit tests are built once more with `--cfg shuttle`, into the
# ordinary target folder. Exit code 1 if an interleaving fails; the schedule to repeat it with is printed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

need_build
cd "$ROOT"
# The flags are for this crate alone, so that no dependency is built twice. Without optimization it is built in a seventh of the
# time, and runs as long: the scheduler is what it waits for.
program=$(cargo rustc --quiet --lib --profile test --message-format json-render-diagnostics -- --cfg shuttle -C opt-level=0 |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')
[[ -x $program ]] || die "cargo named no program"
if run "$program" --quiet shuttled; then echo "PASS interleavings"; else echo "FAIL interleavings"; exit 1; fi
