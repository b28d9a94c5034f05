#!/usr/bin/env bash
# All tests: installs what they need, runs the Rust tests with and without the mount, then an independent reader of
# containers, and real readers on a mountpoint.
#
#   scripts/test.sh [--fast]
#
#   --fast   leave out the readers (scripts/e2e.sh light, and the one of containers) and the second client of the hub (scripts/hub.sh)
#
# Wants Debian 12 or newer (or Ubuntu) and a Rust toolchain; runs as root or with sudo, without a terminal and without
# standard input. Exit code 0 if everything passed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"
# Without LTO: see Cargo.toml. The scripts that are called below build the same.
export BSFS_PROFILE=${BSFS_PROFILE:-quick}
PROFILE=$BSFS_PROFILE

fast=''
while (($#)); do
    case $1 in
        --fast) fast=1 ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done

begin=$(now)
need_build
need_python
need_fuse
cd "$ROOT"
# What the tests mount lies below this directory, so that a test that is killed leaves no mount behind.
work=
work_dir work
# Some tests mount as nobody, who has to reach what lies in it.
chmod 711 "$work"
export TMPDIR=$work

failed=()
step() {
    local start
    start=$(now)
    say "$*"
    run "$@" || failed+=("$*")
    say "that took $(since "$start") s"
}
step cargo test --profile "$PROFILE" --no-fail-fast
step cargo test --profile "$PROFILE" --no-default-features --lib
if [[ -z $fast ]]; then
    venv container reader
    step env BSFS_PYTHON="$reader" cargo test --profile "$PROFILE" --test plain -- --ignored oracle::
    step "$SCRIPTS/e2e.sh" light
    step "$SCRIPTS/hub.sh"
fi

while IFS= read -r at; do
    unmount_lazily "$at"
    failed+=("a test left $at mounted")
done < <(awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts)

say "all of it took $(since "$begin") s"
if ((${#failed[@]})); then
    printf 'FAIL test: %s\n' "${failed[@]}"
    exit 1
fi
echo "PASS test"
