#!/usr/bin/env bash
# The kernels, the parsers and the read path under AddressSanitizer: what the compiler does not check.
#
#   scripts/sanitize.sh [--long] [FILTER...]
#
#   (nothing)  every fuzz target for half a second, without a fuzzer: its seeds, then changes of them (tests/fuzz/src/bin/smoke.rs)
#   --long     also the unit tests of codec and format, on every kernel that the machine has (some minutes)
#   FILTER     parts of test names in place of codec:: and format::
#
# Installs the nightly toolchain if it is missing. Exit code 0 if all passed, 1 if not.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"
long='' filters=()
while (($#)); do
    case $1 in
        --long) long=1 ;;
        -*) die "unknown option $1 (see --help)" ;;
        *) filters+=("$1") ;;
    esac
    shift
done
((${#filters[@]})) || filters=(codec:: format::)

need_build
need_nightly
cd "$ROOT"
begin=$(now)
# The target is named so that build scripts and macros stay without the sanitizer.
target=$(rustc +nightly --print host-tuple)
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address" CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ROOT/target}/sanitize
verdict() {
    say "that took $(since "$begin") s"
    if (($1)); then echo "FAIL sanitize"; else echo "PASS sanitize"; fi
    exit "$1"
}
run cargo +nightly build --quiet --manifest-path tests/fuzz/Cargo.toml --no-default-features --bin smoke --target "$target" || verdict 1
run "$CARGO_TARGET_DIR/$target/debug/smoke" 500 || verdict 1
if [[ -n $long ]]; then
    run cargo +nightly test --quiet --target "$target" --no-default-features --features bigsmall --lib -- "${filters[@]}" || verdict 1
fi
verdict 0
