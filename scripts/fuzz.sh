#!/usr/bin/env bash
# Fuzz the decoders, the reader of containers and the round trip, one target after the other, under AddressSanitizer.
#
#   scripts/fuzz.sh [TARGET...] [--seconds N]
#
#   TARGET       those of tests/fuzz/fuzz_targets; all of them unless given
#   --seconds N  for each target (600)
#
# Starts from tests/fuzz/seeds and from what earlier runs found (tests/fuzz/corpus, not in git). Installs cargo-fuzz and the
# nightly toolchain if they are missing. Exit code 1 if a target crashed; the input is shown, and kept in
# tests/fuzz/artifacts.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

at=$ROOT/tests/fuzz
seconds=600 targets=()
while (($#)); do
    case $1 in
        --seconds)
            seconds=${2:-}
            [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds wants a number"
            shift
            ;;
        -*) die "unknown option $1 (see --help)" ;;
        *)
            [[ -e $at/fuzz_targets/$1.rs ]] || die "no target $1; there are: $(cd "$at/fuzz_targets" && echo *.rs)"
            targets+=("$1")
            ;;
    esac
    shift
done
if ((${#targets[@]} == 0)); then
    for file in "$at"/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

# libFuzzer is C++.
need_build
need c++=g++
need_nightly
have cargo-fuzz || run cargo install --quiet --locked cargo-fuzz
cd "$ROOT"
work=
work_dir work
fuzz() { RUST_BACKTRACE=0 run cargo +nightly fuzz "$1" --fuzz-dir "$at" "${@:2}"; }

failed=()
for target in "${targets[@]}"; do
    fuzz build "$target"
    mkdir -p "$at/corpus/$target"
    say "$target for $seconds s"
    # Longer inputs than a few thousand bytes make every execution slow and show nothing new.
    if fuzz run "$target" "$at/corpus/$target" "$at/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 >"$work/$target" 2>&1; then
        printf '%-11s clean: %s\n' "$target" "$(grep '^Done ' "$work/$target")"
    else
        failed+=("$target")
        printf '%-11s FAILED:\n' "$target"
        # What happened and where, then the input and how to run it again.
        grep -m 1 -A 16 -E 'ERROR: |panicked at' "$work/$target" || tail -n 20 "$work/$target"
        grep -A 20 '^Failing input' "$work/$target" || true
    fi
done

if ((${#failed[@]})); then
    printf 'FAIL fuzz: %s\n' "${failed[@]}"
    exit 1
fi
echo "PASS fuzz"
