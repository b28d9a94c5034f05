#!/usr/bin/env bash
# Whether the tests are steady: all of them many times in a row, then again beside processes that keep every core busy.
#
#   scripts/steady.sh [--alone N] [--busy N] [FILTER...]
#
#   --alone N  rounds on the machine as it is (20)
#   --busy N   rounds with two busy processes for each core (5)
#   FILTER     parts of test names; all tests unless given
#
# Prints each test that failed in a round, and how often. Takes an hour and more. Exit code 0 if none failed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

alone=20 busy=5 filters=()
while (($#)); do
    case $1 in
        --alone | --busy)
            [[ ${2:-} =~ ^[0-9]+$ ]] || die "$1 wants a number"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        -*) die "unknown option $1 (see --help)" ;;
        *) filters+=("$1") ;;
    esac
    shift
done

need_build
need_python
need_fuse
cd "$ROOT"
python=
venv light python
have cargo-nextest || PATH=$PATH:${python%/*}
work=
work_dir work
chmod 711 "$work"
export CARGO_INCREMENTAL=0
run cargo nextest run --no-run --cargo-quiet
export TMPDIR=$work

# said WHAT ROUND: keeps what a round with a failure printed.
said() {
    mkdir -p "$ROOT/target/steady"
    cp "$work/log" "$ROOT/target/steady/$1.$2"
    say "what it printed: target/steady/$1.$2"
}
rounds() {
    local round
    for ((round = 1; round <= $2; round++)); do
        run cargo nextest run --no-fail-fast --test-threads "$((2 * $(nproc)))" --status-level none --final-status-level fail \
            --failure-output final "${filters[@]}" >"$work/log" 2>&1 ||
            { grep -E '^ +(FAIL|TIMEOUT|SIG[A-Z]+) ' "$work/log" | tee -a "$work/failed"; said "$1" "$round"; }
        say "$1, round $round of $2: $(grep -E 'Summary' "$work/log")"
    done
}
: >"$work/failed"
rounds "alone" "$alone"
for ((i = 0; i < 2 * $(nproc) && busy > 0; i++)); do
    setsid sh -c 'while :; do :; done' &
    _servers+=($!)
done
rounds "busy" "$busy"
if [[ -s $work/failed ]]; then
    sed -E 's/.*\) //' "$work/failed" | sort | uniq -c | sort -rn
    echo "FAIL steady"
    exit 1
fi
echo "PASS steady"
