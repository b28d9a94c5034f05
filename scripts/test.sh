#!/usr/bin/env bash
# All checks and tests: installs what they need, formatting and lints, then the Rust tests, and beside them real readers on a
# mountpoint, an independent reader of containers, a second client of the hub, sanitizer and scheduler.
#
#   scripts/test.sh [--fast] [--long]
#
#   --fast   the Rust tests alone
#   --long   also what takes many minutes: each fuzz target with a fuzzer, all kernels under the sanitizer, 200 rounds of
#            kill -9, all unit tests of the kernels below the machine's best
#
# Wants Debian 12 or newer (or Ubuntu) and a Rust toolchain; runs as root or with sudo, without a terminal and without
# standard input. A test that needs root or a tool that is not there says SKIP and why, and is counted; for root no test may,
# unless the kernel was built without what it needs.
# Exit code 0 if everything passed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

fast='' long=''
while (($#)); do
    case $1 in
        --fast) fast=1 ;;
        --long) long=1 ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done

begin=$(now)
need_build
need_python
need_fuse
need curl=curl setfacl=acl rsync=rsync bindfs=bindfs mkfs.ext4=e2fsprogs setpriv=util-linux
cd "$ROOT"
# What the tests mount lies below this directory, so that a test that is killed leaves no mount behind.
work=
work_dir work
# Some tests mount as nobody, who has to reach what lies in it.
chmod 711 "$work"
export TMPDIR=$work
export BSFS_SKIPPED=$work/skipped
if ((EUID == 0)); then export BSFS_SKIP_FAILS=1; fi
# What is built here is for these tests: nothing is gained by keeping parts of it.
export CARGO_INCREMENTAL=0

failed=()
# step NAME COMMAND...: runs it and says how long it took.
step() {
    local start
    start=$(now)
    say "$1"
    run "${@:2}" || failed+=("$1")
    say "$1 took $(since "$start") s"
}
python=
venv light python
# The runner that takes tests of all programs in turn, each in a process of its own.
have cargo-nextest || PATH=$PATH:${python%/*}

step check "$SCRIPTS/check.sh"
step build cargo test --quiet --no-run
export BSFS=$ROOT/target/debug/bsfs
[[ -z ${CARGO_TARGET_DIR:-} ]] || BSFS=$CARGO_TARGET_DIR/debug/bsfs
((${#failed[@]} == 0)) || { printf 'FAIL test: %s\n' "${failed[@]}"; exit 1; }

# The tests wait more than they compute; the rest runs beside them.
beside() {
    trap - EXIT
    local name status=0 start
    while read -r name command; do
        start=$(now) status=0
        # shellcheck disable=SC2086 # words of ours
        nice -n 10 $command >"$work/beside.$name" 2>&1 </dev/null || status=$?
        printf '%s %s %s\n' "$name" "$status" "$(since "$start")" >>"$work/beside"
    done <<END
container-reader env BSFS_PYTHON=$python cargo test --test plain -- --ignored oracle::
readers $SCRIPTS/e2e.sh light
hub $SCRIPTS/hub.sh
doc-tests cargo test --quiet --doc
sanitize $SCRIPTS/sanitize.sh
interleavings $SCRIPTS/interleavings.sh
END
}
if [[ -z $fast ]]; then
    setsid bash -c "$(declare -f beside now since say); SCRIPTS='$SCRIPTS' work='$work' python='$python'; beside" &
    _servers+=($!)
    lane=$!
fi
step tests cargo nextest run --no-fail-fast --test-threads "$((2 * $(nproc)))" --status-level fail --final-status-level fail
if [[ -z $fast ]]; then
    wait "$lane" || failed+=("beside the tests")
    _servers=()
    while read -r name status took; do
        say "$name took $took s"
        if ((status)); then
            failed+=("$name")
            cat "$work/beside.$name"
        else
            tail -n 3 "$work/beside.$name"
        fi
    done <"$work/beside"
fi
if [[ -n $long ]]; then
    step "sanitizer, long" "$SCRIPTS/sanitize.sh" --long
    step fuzz "$SCRIPTS/fuzz.sh" --seconds 60
    step "kill -9" env BSFS_KILL_ROUNDS=200 cargo nextest run --test-threads 2 kill
    for kernel in scalar avx2; do
        step "kernel $kernel" env BSFS_KERNEL=$kernel cargo nextest run --lib codec::
    done
fi

while IFS= read -r at; do
    unmount_lazily "$at"
    failed+=("a test left $at mounted")
done < <(awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts)
if [[ -s $BSFS_SKIPPED ]]; then
    say "$(wc -l <"$BSFS_SKIPPED") skipped:"
    sort "$BSFS_SKIPPED"
fi

say "all of it took $(since "$begin") s"
if ((${#failed[@]})); then
    printf 'FAIL test: %s\n' "${failed[@]}"
    exit 1
fi
echo "PASS test"
