#!/usr/bin/env bash
# The unit tests of codec and format under AddressSanitizer, on every kernel that the machine has: the vector loads and stores
# of the kernels are what the compiler does not check.
#
#   scripts/sanitize.sh [FILTER...]
#
#   FILTER   parts of test names; codec:: and format:: unless given
#
# Installs the nightly toolchain if it is missing. Exit code 0 if all passed, 1 if not.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"
[[ ${1:-} != -* ]] || die "unknown option $1 (see --help)"
filters=("$@")
((${#filters[@]})) || filters=(codec:: format::)

need_build
need_nightly
cd "$ROOT"
begin=$(now)
# The target is named so that build scripts and macros stay without the sanitizer.
target=$(rustc +nightly --print host-tuple)
say "cargo +nightly test under AddressSanitizer: ${filters[*]}"
if RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address" run cargo +nightly test --quiet --target "$target" \
    --no-default-features --lib -- "${filters[@]}"; then
    say "that took $(since "$begin") s"
    echo "PASS sanitize"
else
    echo "FAIL sanitize"
    exit 1
fi
