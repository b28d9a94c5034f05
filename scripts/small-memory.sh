#!/usr/bin/env bash
# A model larger than memory: the daemon and its reader together in a control group that holds a fraction of the model.
#
#   scripts/small-memory.sh [--size SIZE] [--limit SIZE] [--memory SIZE]
#
#   --size SIZE     of the model: layers of 64 MiB, BF16 (default 4G)
#   --limit SIZE    of memory for the daemon, the reader and what the page cache has for them (default 512M)
#   --memory SIZE   of decoded chunks that the daemon keeps (default: a quarter of the limit)
#
# Makes the model, compresses it, and walks all tensors layer by layer, by turns on a mount without the limit and on one with
# it, each walk with nothing in the page cache and each tensor compared with the original's sum: twice by mmap and, where
# READERS_PYTHON names a Python with safetensors and numpy, twice by safe_open. Passes if everything was equal, nothing was
# killed, and the walks with the limit ran at 0.7 of the speed without or better; other work on the machine blurs that figure.
#
# Needs root, control groups (v1 or v2) and room for the model and its compressed form under ${TMPDIR:-/tmp}; BSFS names a
# ready bsfs program. Exit code 0 if passed, 1 if not, 2 if it could not run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

BAR=0.7
WALKS=2
size=4G limit=512M memory=''
while (($#)); do
    case $1 in
        --size) size=${2:?--size needs a size}; shift ;;
        --limit) limit=${2:?--limit needs a size}; shift ;;
        --memory) memory=${2:?--memory needs a size}; shift ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
# bytes_of SIZE: bytes of a number with K, M or G.
bytes_of() { numfmt --from=iec -- "$1" 2>/dev/null || die "$1 is no size"; }
size=$(bytes_of "$size")
limit=$(bytes_of "$limit")
memory=$(bytes_of "${memory:-$((limit / 4))}")
((size >= 64 << 20)) || die "--size: a layer alone is 64M"
((limit < size)) || die "--limit is not smaller than --size"

((EUID == 0)) || die "control groups are made by root only"
begin=$(now)
need_python
need_fuse
build_bsfs
ways=(mmap) python=python3
if [[ -n ${READERS_PYTHON:-} ]]; then
    "$READERS_PYTHON" -c 'import numpy, safetensors' 2>/dev/null || die "$READERS_PYTHON has no safetensors and numpy"
    ways+=(safe_open) python=$READERS_PYTHON
fi

work=
work_dir work
group=
memory_group group "$limit" || die "this machine gives no control group with a limit of memory"
space=$(df --output=avail -B1 "$work" | tail -n 1)
((space > size * 2)) || die "needs $(megabytes $((size * 2))) MB under $work; set TMPDIR to a disk with room"

name=model.safetensors
mkdir "$work/packed"
say "making a model of $(megabytes "$size") MB"
run python3 "$SCRIPTS/layers.py" make "$work/$name" "$size" "$work/sums"
raw=$(stat -c %s "$work/$name")
say "compressing"
run "$BSFS" compress "$work/$name" -o "$work/packed/$name.bs" >&2
packed=$(stat -c %s "$work/packed/$name.bs")
rm -- "$work/$name"
# what is not on the disk yet cannot leave the page cache
sync -d "$work/packed/$name.bs"

failures=()
# status_of SIDE: process, errors and panics of its mount; a daemon that was killed answers nothing.
status_of() {
    "$BSFS" status "$work/$1" --json | python3 -c '
import json, sys
(mount,) = json.load(sys.stdin)
status = mount["status"] or {}
print(status.get("pid", 0), status.get("errors", "unknown"), status.get("panics", "unknown"))'
}
# side_of SIDE: what is started from now on is in the group, or where the script was.
side_of() { if [[ $1 == limited ]]; then enter_group "$group"; else leave_group; fi; }

declare -A daemon=() peak=()
for side in free limited; do
    side_of "$side"
    mount_bsfs "$work/packed" "$work/$side" --memory "$memory" --log-file "$work/$side.log"
    read -r 'daemon[$side]' errors panics < <(status_of "$side")
done
: >"$work/times"
for way in "${ways[@]}"; do
    for ((walk = 1; walk <= WALKS; walk++)); do
        # by turns, since other work on the machine comes and goes
        for side in free limited; do
            say "$way, walk $walk, $side"
            side_of "$side"
            status=0
            run "$python" "$SCRIPTS/layers.py" walk "$way" "$work/$side/$name" "$work/sums" "$work/packed/$name.bs" \
                >"$work/seconds" || status=$?
            if ((status)); then
                failures+=("$way, walk $walk, $side: the reader ended with $status")
            else
                printf '%s\t%s\t%s\t%s\n' "$way" "$walk" "$side" "$(cat "$work/seconds")" >>"$work/times"
            fi
        done
    done
done
leave_group
for side in free limited; do
    pid=0 errors=unknown panics=unknown
    read -r pid errors panics < <(status_of "$side") || true
    [[ $pid == "${daemon[$side]}" ]] || failures+=("$side: the daemon has gone")
    [[ $errors == 0 && $panics == 0 ]] || failures+=("$side: $errors errors, $panics panics")
    peak[$side]=$(awk '$1 == "VmHWM:" { print $2 * 1024 }' "/proc/${daemon[$side]}/status" 2>/dev/null || echo 0)
    [[ $pid == 0 ]] || unmount_bsfs "$work/$side"
done
read -r short killed most < <(group_counts "$group")
((killed == 0)) || failures+=("$killed processes were killed for want of memory")
# else this says nothing about a small memory; not every kernel counts both
((short > 0 || most > limit * 98 / 100)) || failures+=("the limit was never reached")

{
    printf 'access\twalk\tfree GB/s\tlimited GB/s\tlimited / free\tbar\tverdict\n'
    awk -F '\t' -v OFS='\t' -v n="$raw" -v bar="$BAR" '
        function row(way, walk, free, limited, bar) {
            if (free > 0 && limited > 0)
                print way, walk, sprintf("%.3f", n / free / 1e9), sprintf("%.3f", n / limited / 1e9),
                    sprintf("%.2f", free / limited), bar ? ">= " bar : "-", bar ? (free / limited >= bar ? "reached" : "MISSED") : "-"
        }
        { t[$1, $2, $3] = $4; sum[$1, $3] += $4; if ($2 > walks) walks = $2; if (!($1 in seen)) { seen[$1]; order[++ways] = $1 } }
        END { for (w = 1; w <= ways; w++) {
                  for (i = 1; i <= walks; i++) row(order[w], i, t[order[w], i, "free"], t[order[w], i, "limited"], "")
                  row(order[w], "all", sum[order[w], "free"] / walks, sum[order[w], "limited"] / walks, bar) } }' "$work/times"
} >"$work/rows"
table <"$work/rows"
! grep -q MISSED "$work/rows" || failures+=("slower than $BAR of the speed without the limit")
printf '\n%s MB, packed %s MB (%s); limit %s MB, most used %s MB, %s times short, %s killed; daemon at most %s MB (free: %s MB)\n' \
    "$(megabytes "$raw")" "$(megabytes "$packed")" "$(quotient "$packed" "$raw")" "$(megabytes "$limit")" \
    "$(megabytes "$most")" "$short" "$killed" "$(megabytes "${peak[limited]}")" "$(megabytes "${peak[free]}")"
if ((${#failures[@]})); then
    printf 'FAIL small-memory: %s\n' "${failures[@]}"
    tail -n 20 "$work"/*.log >&2
    exit 1
fi
echo "PASS small-memory: a model of $(quotient "$raw" "$limit" %.1f) times the memory, in $(since "$begin") s"
