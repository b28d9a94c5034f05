#!/usr/bin/env bash
# Measurements, printed as Markdown tables. What is compared is compared within one run, on one machine.
#
#   scripts/bench.sh [ratio|codec|chunk|mount|cache|bigsmall] [FILE|DIR] [-j N] [--rounds N] [--disk RATE]... [--record]
#
#   ratio   every weight file of DIR: ratio beside the bar it has to reach, speed of compress and decompress (the default)
#   codec   every weight file of DIR in memory: ratio and speed in each mode, on one thread and on two, beside memcpy, zstd -1
#           and -3, and what scripts/rivals.py knows if RIVALS_PYTHON names a Python that has some of zipnn, pcodec, openzl, glyd
#   chunk   one BF16 file at chunk sizes from 64 KiB to 4 MiB
#   mount   one file read in the ways of scripts/reading.py, cold and warm: plain, through the mount, through it with the readahead
#           of a user without root, through `bsfs mount --null` (right lengths, no content: the floor), through `lmz mount` if LMZ
#           names that program, through squashfuse with zstd if that is installed; with safetensors' own readers if READERS_PYTHON
#           names a Python that has it. Then the targets. Each --disk RATE (bytes per second; K, M, G are powers of 1000) compares
#           plain and mounted again with the disk held to that rate, in a control group, for which it takes root
#   cache   one file through the disk cache: the first mount with it and without, a second mount that finds everything there, beside the
#           plain file, cold and warm; for root also as a user without privilege. With BIGSMALL (see below) the first and the second
#           load of a container that the package makes of the file. Then the targets
#   bigsmall  a container that the package bigsmall makes of one file (BIGSMALL names a Python that has it): decoding with the
#           MD5 of each tensor, by the package and by `bsfs verify` on one core and on all, and `cat` through the mount
#
# FILE or DIR is what scripts/corpus.sh fetches unless given; the others than ratio and codec take its BF16 file. Speeds are raw bytes over
# wall time, median of --rounds for decode and memcpy in codec (default 5) and for mount,
# cache and bigsmall (default 3), of one run otherwise. -j
# is not for codec. Cold means dropped from the page cache, which needs root for all of it; otherwise only the file's own
# pages are dropped. Warm is the same pass again. CPU is that of the daemon, per GiB asked for in all rounds; peak is its memory.
# --record adds the figures to dated CSV files in benches/record; scripts/plot.py draws those of codec.
# Exit code 1 if a bar is missed or a file did not come back byte for byte.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

what=ratio input='' record='' rounds='' threads=() disks=()
while (($#)); do
    case $1 in
        ratio | codec | chunk | mount | cache | bigsmall) what=$1 ;;
        -j) threads=(-j "${2:?-j needs a number}"); shift ;;
        --rounds) rounds=${2:?--rounds needs a number}; shift ;;
        --disk)
            rate=${2:?--disk needs a rate}
            rate=$(numfmt --from=si -- "$rate" 2>/dev/null) && ((rate > 0)) || die "--disk $2 is no number of bytes per second"
            disks+=("$rate")
            shift
            ;;
        --record) record=1 ;;
        -*) die "unknown option $1 (see --help)" ;;
        *) [[ -z $input ]] || die "one FILE or DIR only"; input=$1 ;;
    esac
    shift
done
[[ -z $input || -e $input ]] || die "$input: no such file or directory"

need_python
[[ $what != mount && $what != cache && $what != bigsmall ]] || need_fuse
[[ $what != bigsmall && ! ($what == cache && -n ${BIGSMALL:-}) ]] || "${BIGSMALL:-none}" -c 'import bigsmall' 2>/dev/null || die "BIGSMALL=${BIGSMALL:-} is no Python with bigsmall"
[[ $what != codec ]] || need zstd=zstd
[[ -z ${LMZ:-} ]] || have "$LMZ" || die "LMZ=$LMZ is no program"
[[ -z ${READERS_PYTHON:-} ]] || "$READERS_PYTHON" -c 'import safetensors' || die "READERS_PYTHON=$READERS_PYTHON is no Python with safetensors"
[[ -z ${RIVALS_PYTHON:-} ]] || have "$RIVALS_PYTHON" || die "RIVALS_PYTHON=$RIVALS_PYTHON is no program"
build_bsfs
if [[ -z $input ]]; then
    input=$CACHE/corpus
    if [[ $what == ratio || $what == codec ]]; then
        "$SCRIPTS/corpus.sh" "$input" >/dev/null
    else
        "$SCRIPTS/corpus.sh" "$input" --only minilm-l6-v2.bf16 >/dev/null
        input=$input/minilm-l6-v2.bf16.safetensors
    fi
fi
[[ $what == ratio || $what == codec || -f $input ]] || die "$what takes one file"
input=$(realpath "$input")
work=
work_dir work
missed=0

# finish FILE [NAME]: prints tab-separated rows, titles first, and records them if asked to, under NAME.
finish() {
    table <"$1"
    [[ -n $record ]] || return 0
    local out
    out=$ROOT/benches/record/$(date -u +%F)-${2:-$what}.csv
    mkdir -p "${out%/*}"
    # what the figures belong to; commas would end a field
    cpu=$(awk -F ': *' '/^model name/ { print $2; exit }' /proc/cpuinfo | tr -d ',"')
    version=$("$BSFS" --version | tr -d ',"')
    commit=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)
    awk -F '\t' -v OFS=, -v skip="$([[ -s $out ]] && echo 1)" -v lead="$(date -u +%FT%TZ),$version,$commit,${cpu:-unknown},$(nproc),$(uname -r)" '
        { for (i = 1; i <= NF; i++) { gsub(/[",]/, "", $i) } $1 = $1 }
        NR == 1 { if (!skip) print "time,version,commit,cpu,cores,kernel," $0; next }
        { print lead "," $0 }' "$1" >>"$out"
    say "added to ${out#"$ROOT"/}"
}

# pack FILE OPTION...: compresses to $work/packed.bs and back, checks the bytes, and sets dtype, raw, packed, in, out (GB/s).
pack() {
    local start seconds
    run "$BSFS" compress "$1" -o "$work/packed.bs" --force --json ${threads[@]+"${threads[@]}"} "${@:2}" >"$work/report.json"
    read -r dtype raw packed seconds < <(python3 - "$work/report.json" <<'PY'
import json, sys
(f,) = json.load(open(sys.argv[1]))["files"]
most = max(f["dtypes"], key=lambda d: d["raw_bytes"], default={"dtype": "-"})
print(most["dtype"], f["raw_bytes"], f["packed_bytes"], f["seconds"])
PY
    )
    in=$(quotient "$raw" "$(awk -v s="$seconds" 'BEGIN { print s * 1e9 }')" %.3f)
    [[ $(stat -c %s "$work/packed.bs") == "$packed" ]] || die "$1: the report says $packed bytes, the file has others"
    start=$(now)
    run "$BSFS" decompress "$work/packed.bs" -o "$work/back" --force ${threads[@]+"${threads[@]}"} >&2
    out=$(quotient "$raw" "$(awk -v s="$(since "$start" %.6f)" 'BEGIN { print s * 1e9 }')" %.3f)
    cmp "$1" "$work/back" || { missed=1; say "$1 did not come back"; }
}

# bar_of FILE: the ratio to reach, where there is one.
bar_of() {
    case ${1##*/} in
        minilm-l6-v2.bf16.*) echo 0.6592 ;;
        mpnet-base-v2.bf16.*) echo 0.6600 ;;
        whisper-base.f16.*) echo 0.812 ;;
        wordllama-256.f16.*) echo 0.847 ;;
        mpnet-base-v2.f16.*) echo 0.845 ;;
        minilm-l6-v2.f32.*) echo 0.816 ;;
        craft-text-detector.f32.*) echo 0.8305 ;;
        mpnet-base-v2.f32.*) echo 0.8255 ;;
        mpnet-base-v2.f8.*) echo 0.8219 ;;
        gemma3-270m.q4_k_m.*) echo 0.955 ;;
    esac
}

# weight_files: puts the files to measure into `files`.
weight_files() {
    files=("$input")
    if [[ -d $input ]]; then
        mapfile -t files < <(find -L "$input" -type f -name '*.safetensors' | LC_ALL=C sort)
    fi
    ((${#files[@]})) || die "no .safetensors file in $input"
}

ratio() {
    local file bar verdict files
    weight_files
    printf 'file\tdtype\traw bytes\tpacked bytes\tratio\tbar\tverdict\tcompress GB/s\tdecompress GB/s\n' >"$work/rows"
    for file in "${files[@]}"; do
        say "${file##*/}"
        run cat "$file" >/dev/null # the input is warm for every file alike
        pack "$file"
        bar=$(bar_of "$file")
        verdict=-
        if [[ -n $bar ]]; then
            verdict=$(awk -v p="$packed" -v r="$raw" -v b="$bar" 'BEGIN { print (p <= b * r) ? "reached" : "MISSED" }')
            [[ $verdict == reached ]] || missed=1
        fi
        printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${file##*/}" "$dtype" "$raw" "$packed" \
            "$(quotient "$packed" "$raw" %.4f)" "${bar:+<= $bar}" "$verdict" "$in" "$out" >>"$work/rows"
    done
    finish "$work/rows"
}

# ours FILE MODE: rows of one mode, the whole file and every dtype that is a hundredth of it or more.
ours() {
    local threads
    for threads in 1 2; do
        run "$BSFS" bench "$1" --mode "$2" -j "$threads" --rounds "${rounds:-5}" --json >"$work/bench-$threads.json" || return
    done
    python3 - "${1##*/}" "$work/bench-1.json" "$work/bench-2.json" <<'PY'
import json, sys
name, one, two = sys.argv[1], *(json.load(open(path)) for path in sys.argv[2:])
other = {row["dtype"]: row for row in two["dtypes"]}
rows = [("all", one, two)] + [(row["dtype"], row, other[row["dtype"]]) for row in one["dtypes"]]
for dtype, *both in rows:
    if both[0]["raw_bytes"] * 100 < one["raw_bytes"]:
        continue
    cells = [name, dtype, "bsfs " + one["mode"], both[0]["raw_bytes"], both[0]["packed_bytes"], f"{both[0]['ratio']:.4f}"]
    for f in both:
        cells += [f"{f[what + '_bytes_per_second'] / 1e9:.3f}" for what in ("encode", "decode", "memcpy")]
        cells.append(f"{f['decode_per_memcpy']:.3f}")
    cells.append(one["kernel"])
    print(*cells, sep="\t")
PY
}

# rival FILE NAME RAW PACKED ENCODE DECODE: a row of somebody else's coder; speeds in bytes per second, in one thread.
rival() {
    printf '%s\tall\t%s\t%s\t%s\t%s\t%s\t%s\t-\t-\t-\t-\t-\t-\t-\n' "${1##*/}" "$2" "$3" "$4" \
        "$(quotient "$4" "$3" %.4f)" "$(quotient "$5" 1e9)" "$(quotient "$6" 1e9)"
}

# zstd_bench FILE LEVEL: zstd's own measurement, in memory. It does not compare what it decodes with a checksum.
zstd_bench() {
    local packed encode decode
    # the path without links, which zstd passes over
    run zstd "-b$2" "-e$2" --single-thread "$(realpath "$1")" >"$work/zstd" 2>&1 || die "zstd: $(tail -n 1 "$work/zstd")"
    # it prints MB/s behind "RAW -> PACKED (x...)", again and again over the same line
    read -r packed encode decode < <(tr '\r' '\n' <"$work/zstd" | sed -n 's|.*-> *\([0-9]*\) .*) *, *\([0-9.]*\) MB/s *, *\([0-9.]*\) MB/s.*|\1 \2e6 \3e6|p' | tail -n 1)
    rival "$1" "zstd -$2" "$(stat -Lc %s "$1")" "$packed" "$encode" "$decode"
}

codec() {
    local file files mode level name version raw packed encode decode
    weight_files
    printf 'file\tdtype\tcoder\traw bytes\tpacked bytes\tratio\tencode GB/s\tdecode GB/s\tmemcpy GB/s\tdecode / memcpy' >"$work/rows"
    printf '\tencode 2 GB/s\tdecode 2 GB/s\tmemcpy 2 GB/s\tdecode / memcpy 2\tsimd\n' >>"$work/rows"
    for file in "${files[@]}"; do
        say "${file##*/}"
        for mode in inference balanced storage; do
            ours "$file" "$mode" >>"$work/rows" || { missed=1; say "${file##*/} failed in mode $mode"; }
        done
        for level in 1 3; do
            zstd_bench "$file" "$level" >>"$work/rows"
        done
        [[ -n ${RIVALS_PYTHON:-} ]] || continue
        run "$RIVALS_PYTHON" -W ignore "$SCRIPTS/rivals.py" "$file" >"$work/rivals" || missed=1
        while IFS=$'\t' read -r name version raw packed encode decode; do
            rival "$file" "$name $version" "$raw" "$packed" "$encode" "$decode" >>"$work/rows"
        done <"$work/rivals"
    done
    finish "$work/rows"
}

chunk() {
    local size
    printf 'file\tdtype\tchunk\traw bytes\tpacked bytes\tratio\tcompress GB/s\tdecompress GB/s\n' >"$work/rows"
    run cat "$input" >/dev/null
    for size in 64K 128K 256K 512K 1M 2M 4M; do
        say "chunks of $size"
        pack "$input" --chunk-size "$size"
        printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "${input##*/}" "$dtype" "$size" "$raw" "$packed" \
            "$(quotient "$packed" "$raw" %.4f)" "$in" "$out" >>"$work/rows"
    done
    finish "$work/rows"
}

# Drops what the page cache holds of the files given.
cool_files() {
    local file
    for file in "$@"; do
        dd of="$file" oflag=nocache conv=notrunc,fdatasync count=0 status=none
    done
}

# The same, of everything as root.
cool() {
    sync
    if ((EUID == 0)) && { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null; then
        return 0
    fi
    cool_files "$@"
}

# cpu: clock ticks that the daemon `pid` has used, in user space and in the kernel.
cpu() {
    # the name, in parentheses, may hold blanks
    [[ -z $pid ]] || awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat"
}

# up SIDE: brings up one side of the comparison and sets `at`, the file to read, and `pid` of the daemon. Always a new
# daemon: its own cache of decoded chunks must be cold too.
up() {
    local options=() from=$work/packed.d
    at=$work/plain/$name pid=
    MOUNT_CACHE=(--cache off)
    case $1 in
        'cache, first') rm -rf "$work/cache-first"; MOUNT_CACHE=(--cache all --cache-dir "$work/cache-first") ;;
        'cache, second') MOUNT_CACHE=(--cache all --cache-dir "$work/cache") ;;
        'bigsmall, first') rm -rf "$work/cache-bigsmall"; from=$work/bigsmall.d MOUNT_CACHE=(--cache-dir "$work/cache-bigsmall") ;;
        'bigsmall, second') from=$work/bigsmall.d MOUNT_CACHE=(--cache-dir "$work/cache-bigsmall") ;;
        plain) return ;;
        lmz) serve_mount pid "$work/mnt" "$LMZ" mount --store "$work/lmz" -q "$work/mnt" ;;
        squashfs) serve_mount pid "$work/mnt" "$squashfuse" -f "$work/squashfs" "$work/mnt" ;;
        'bsfs 128K') options=(--readahead 128K) ;;
        null) options=(--null) ;;
    esac
    if [[ -z $pid ]]; then
        mount_bsfs "$from" "$work/mnt" --log-file "$work/mount.log" ${options[@]+"${options[@]}"}
        pid=$("$BSFS" status "$work/mnt" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["status"]["pid"])') ||
            die "$1: no answer from its daemon"
    fi
    at=$(find "$work/mnt" -name '*.safetensors' -print -quit)
    [[ -n $at ]] || die "$1 shows no .safetensors file"
}

down() {
    case $1 in
        plain) ;;
        lmz | squashfs) end_served "$pid" "$work/mnt" ;;
        *) unmount_bsfs "$work/mnt" ;;
    esac
}

# pass DISK SIDE WAY HEAT: one measured pass over the file `at`, added to $work/times.
pass() {
    local python=python3 before ticks='' peak=''
    case $3 in load_file | safe_open) python=$READERS_PYTHON ;; esac
    before=$(cpu)
    run "$python" "$SCRIPTS/reading.py" "$3" "$at" >"$work/pass.json" || {
        missed=1
        say "$2: $3 failed"
        rm -f "$work/pass.json"
        return 0
    }
    if [[ -n $pid ]]; then
        ticks=$(($(cpu) - before))
        peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$pid/status")
    fi
    noted "$@" "$ticks" "$peak"
}

# noted DISK SIDE WAY HEAT TICKS PEAK: adds $work/pass.json to $work/times.
noted() {
    python3 - "${@:1:4}" "$work/pass.json" "${@:5}" <<'PY' >>"$work/times"
import json, os, sys
*key, path, ticks, peak = sys.argv[1:]
f = json.load(open(path))
cpu = int(ticks) / os.sysconf("SC_CLK_TCK") if ticks else ""
values = [f["seconds"], f["bytes"], f["p50_us"], f["p99_us"], cpu, int(peak) * 1024 if peak else ""]
print(*key, *("" if value is None else value for value in values), sep="\t")
PY
}

# split: where the time of the mount's first reading went, added to $work/splits.
split() {
    "$BSFS" status "$work/mnt" --json >"$work/status.json"
    python3 - "$work/status.json" "$work/pass.json" <<'PY' >>"$work/splits"
import json, sys
(status,), f = (json.load(open(path)) for path in sys.argv[1:])
status = status["status"]
engine = status["engine"]
values = [engine.get(key + "_seconds") for key in ("source", "decode", "wait")] + [status.get("reply_seconds")]
values += [engine.get("decoded_bytes"), engine.get("packed_bytes_read"), status.get("reads")]
print(f["seconds"], *("-" if value is None else value for value in values), sep="\t")
PY
}

# passes DISK SIDE WAY HEAT...: brings a side up, reads its file once for each HEAT, takes it down.
passes() {
    local heat
    up "$2"
    for heat in "${@:4}"; do
        if [[ $heat == cold ]]; then
            case $3 in
                # the libraries of these readers stay, which are no part of the comparison and take seconds to come back; what a
                # new mount shows is cold anyway
                load_file | safe_open) cool_files "${stored[@]}" ;;
                *) cool "${stored[@]}" ;;
            esac
        fi
        pass "$1" "$2" "$3" "$heat"
        [[ $1/$2/$3/$heat != -/bsfs/read/cold || ! -e $work/pass.json ]] || split
    done
    down "$2"
}

# median FILE COLUMN: of the lines of a file that have a number there, or '-'.
median() {
    awk -F '\t' -v c="$2" '$c ~ /^[0-9]/ { print $c }' "$1" | sort -g | awk '{ t[NR] = $1 } END { print NR ? t[int((NR + 1) / 2)] : "-" }'
}

# speed DISK SIDE WAY HEAT: median GB/s.
speed() {
    awk -F '\t' -v a="$1" -v b="$2" -v c="$3" -v d="$4" '
        $1 == a && $2 == b && $3 == c && $4 == d { print $6 / $5 / 1e9 }' "$work/times" >"$work/speeds"
    median "$work/speeds" 1
}

# rows: the medians of all passes, in $work/rows.
rows() {
    python3 - "$name" "$raw" "$work/times" <<'PY' >"$work/rows"
import collections, statistics, sys
name, raw, path = sys.argv[1:]
found = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(path):
    disk, side, way, heat, *values = line.rstrip("\n").split("\t")
    found[disk, side, way][heat].append([float(value) if value else None for value in values])
print("file", "raw bytes", "disk", "side", "access", "cold GB/s", "warm GB/s", "cold p50 us", "cold p99 us", "warm p50 us",
      "warm p99 us", "cold CPU s/GiB", "warm CPU s/GiB", "peak MiB", sep="\t")
for (disk, side, way), heats in found.items():
    def median(heat, value, form):
        values = [x for x in map(value, heats[heat]) if x is not None]
        return form % statistics.median_low(values) if values else "-"
    def cpu(heat):
        # over all rounds: the clock of processes ticks too seldom for one
        rounds = [row for row in heats[heat] if row[4] is not None]
        return "%.3f" % (sum(row[4] for row in rounds) / sum(row[1] for row in rounds) * 2**30) if rounds else "-"
    peak = max((row[5] for rows in heats.values() for row in rows if row[5] is not None), default=None)
    print(name, raw, disk, side, way, *(median(heat, lambda row: row[1] / row[0] / 1e9, "%.3f") for heat in ("cold", "warm")),
          *(median(heat, lambda row: row[at], "%.1f") for heat in ("cold", "warm") for at in (2, 3)),
          cpu("cold"), cpu("warm"), "-" if peak is None else "%.0f" % (peak / 2**20), sep="\t")
PY
}

# many: seconds from the start of `bsfs mount` until `ls -l` has shown 1000 small files, a line for each round in $work/many.
many() {
    local round start count
    mkdir "$work/small" "$work/many.d"
    python3 - "$work/small/0.safetensors" <<'PY'
import json, random, struct, sys
header = json.dumps({"w": {"dtype": "BF16", "shape": [32, 64], "data_offsets": [0, 4096]}}).encode()
draw = random.Random(1)
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(header)) + header)
    for _ in range(2048):
        f.write(struct.pack("<f", draw.gauss(0, 0.02))[2:])
PY
    run "$BSFS" compress "$work/small/0.safetensors" -o "$work/small/0.bs" >/dev/null 2>&1
    for ((count = 0; count < 1000; count++)); do printf '%s\n' "$work/many.d/$count.safetensors.bs"; done |
        xargs -n 1 cp "$work/small/0.bs" # copies: links would be one inode to look up
    for ((round = 1; round <= rounds; round++)); do
        cool "$work/many.d"/*.bs
        start=$(now)
        mount_bsfs "$work/many.d" "$work/mnt" --log-file "$work/mount.log"
        run ls -l "$work/mnt" >"$work/ls"
        since "$start" '%.3f\n' >>"$work/many"
        count=$(grep -c '\.safetensors$' "$work/ls")
        ((count == 1000)) || die "ls shows $count files of 1000"
        unmount_bsfs "$work/mnt"
    done
}

mount() {
    local raw name round way side rate at pid sides ways stored decode plain mounted squashfuse='' why='' limited=()
    name=${input##*/}
    raw=$(stat -c %s "$input")
    rounds=${rounds:-3}
    mkdir "$work/plain" "$work/packed.d" "$work/mnt"
    cp "$input" "$work/plain/$name"
    run "$BSFS" compress "$input" -o "$work/packed.d/$name.bs" ${threads[@]+"${threads[@]}"} >&2

    # what can be compared here
    sides=(plain bsfs)
    if ((EUID == 0)); then
        sides+=('bsfs 128K')
    else
        say "without root the mount has the kernel's own readahead anyway, and only the file's own pages are cold"
    fi
    # an option that the program does not know is an error even with --help
    if run "$BSFS" mount --null --help >/dev/null 2>&1; then
        sides+=(null)
    else
        say "this bsfs has no mount --null: no floor"
    fi
    if [[ -n ${LMZ:-} ]]; then
        run "$LMZ" add --store "$work/lmz" --name m -q "$input" >&2
        sides+=(lmz)
    fi
    # the one of several threads if there is one
    squashfuse=$(command -v squashfuse_ll || command -v squashfuse || true)
    if [[ -n $squashfuse ]] && have mksquashfs; then
        # blocks as long as the chunks of a container
        run mksquashfs "$work/plain" "$work/squashfs" -comp zstd -b 512K -quiet -no-progress >&2
        sides+=(squashfs)
    fi
    ways=(read mmap threads4 threads16 random4k random1m)
    [[ -z ${READERS_PYTHON:-} ]] || ways+=(load_file safe_open)

    for side in "${sides[@]}"; do
        [[ $side != plain && $side != null ]] || continue
        up "$side"
        run cmp "$input" "$at" >&2 || { missed=1; say "$side shows other bytes"; }
        down "$side"
    done
    # what they read from disk; `cool` opens it for writing if it is not run by root
    mapfile -t stored < <(find "$work" -type f -regex "$work/\(\(plain\|packed\.d\|lmz\)/.*\|squashfs\)")
    chmod u+w "${stored[@]}"
    : >"$work/times"
    : >"$work/splits"
    for ((round = 1; round <= rounds; round++)); do
        for way in "${ways[@]}"; do
            say "round $round, $way"
            for side in "${sides[@]}"; do
                # without content there is no header to read
                case $side/$way in null/load_file | null/safe_open) continue ;; esac
                passes - "$side" "$way" cold warm
            done
        done
    done
    for rate in ${disks[@]+"${disks[@]}"}; do
        if ! disk_group GROUP "$work" "$rate"; then
            say "disk of $rate bytes per second: skipped, $why"
            continue
        fi
        limited+=("$rate")
        # a tenth of a second's bytes pass before the kernel's limit holds
        ((raw >= rate)) ||
            say "disk of $rate bytes per second: $name is read in less than a second, too short for the limit to be kept well"
        for ((round = 1; round <= rounds; round++)); do
            say "round $round, disk of $rate bytes per second"
            for way in read mmap threads4 threads16; do
                for side in plain bsfs; do
                    passes "$rate" "$side" "$way" cold
                done
            done
        done
        side=$GROUP GROUP=
        remove_group "$side"
    done
    say "1000 small files"
    many

    rows
    finish "$work/rows"

    # the parts are of all threads together and may exceed the whole
    printf 'split of a cold read\twhole s\tsource s\tdecode s\twait s\treply s\tdecoded bytes\tpacked bytes read\trequests\n' >"$work/split"
    {
        printf '%s' "$name"
        for at in 1 2 3 4 5 6 7 8; do
            printf '\t%s' "$(median "$work/splits" "$at" | awk -v c="$at" '{ printf $1 == "-" ? "%s" : c <= 5 ? "%.4f" : "%d", $1 }')"
        done
        echo
    } >>"$work/split"
    echo
    finish "$work/split" mount-split

    printf 'target\tvalue\tbar\tverdict\n' >"$work/targets"
    plain=$(speed - plain read cold)
    mounted=$(speed - bsfs read cold)
    decode=$(run "$BSFS" bench "$work/packed.d/$name.bs" -j 1 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["decode_bytes_per_second"])')
    # Each MiB is decoded, copied into the page cache (0.23 ms) and taken over by the reader (0.2 ms). Measurements with other
    # decoders came within 15 % of that.
    target "cold read / (cores * 1 MiB / (decode + 0.23 ms + 0.2 ms))" \
        "$(awk -v m="$mounted" -v d="$decode" -v c="$(nproc)" 'BEGIN { printf "%.2f", m * 1e9 / (c * 1048576 / (1048576 / d + 0.43e-3)) }')" '>=' 0.85
    target "cold read: time mounted / plain" "$(quotient "$plain" "$mounted" %.2f)" '<=' 1.0
    target "warm read: mounted / plain" "$(quotient "$(speed - bsfs read warm)" "$(speed - plain read warm)" %.2f)" '>=' 0.90
    target "cold: 16 threads / one reader" "$(quotient "$(speed - bsfs threads16 cold)" "$mounted" %.2f)" '>=' 0.9
    ((EUID != 0)) || target "cold read: readahead 128K / default" "$(quotient "$(speed - 'bsfs 128K' read cold)" "$mounted" %.2f)" '>=' 0.75
    [[ -z ${LMZ:-} ]] || target "cold read: bsfs / lmz" "$(quotient "$mounted" "$(speed - lmz read cold)" %.2f)" '>=' 5
    for rate in ${limited[@]+"${limited[@]}"}; do
        target "cold read, disk of $(quotient "$rate" 1e9 %g) GB/s: time mounted / plain" \
            "$(quotient "$(speed "$rate" plain read cold)" "$(speed "$rate" bsfs read cold)" %.2f)" '<=' 0.75
    done
    target "seconds from mount to ls -l of 1000 files" "$(median "$work/many" 1)" '<=' 1
    echo
    finish "$work/targets" mount-targets
}

# second_mount SIDE ORIGINAL: whether a mount finds everything in the cache, and by whom it is read then.
second_mount() {
    up "$1"
    run cmp "$2" "$at" >&2 || { missed=1; say "$1 shows other bytes"; }
    "$BSFS" status "$work/mnt" --json | python3 -c '
import json, sys
status = json.load(sys.stdin)[0]["status"]
opens, decoded = status["passthrough_opens"], status["engine"]["decoded_chunks"]
print(f"== second mount: {decoded} chunks decoded, {opens} opens that the kernel serves by itself", file=sys.stderr)
sys.exit(decoded > 0)
' || missed=1
    down "$1"
}

# user WAY: what an ordinary user reads, cold, of a second mount. In a mount name space of its own, where /dev/fuse is open to all.
# Status 3 if that cannot be had.
user() {
    cat >"$work/user.sh" <<'SH'
set -eu
work=$1 way=$2 bsfs=$3 reading=$4
cd "$work/user"
rm -f fuse
{ mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && setpriv --reuid 65534 --regid 65534 --clear-groups sh -c ': <>/dev/fuse'; } 2>/dev/null || exit 3
as() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME="$work/user/home" XDG_STATE_HOME="$work/user/home" "$@"; }
as "$bsfs" mount --cache all --cache-dir "$work/user/home/cache" $([ "$way" != warm ] || echo --warm) "$work/packed.d" "$work/user/mnt"
trap 'as "$bsfs" unmount "$work/user/mnt"' EXIT
status() { as "$bsfs" status "$work/user/mnt" --json; }
if [ "$way" = warm ]; then
    until status | grep -q '"finished": true'; do sleep 0.1; done
    exit 0
fi
pid=$(status | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
file=$(as find "$work/user/mnt" -name '*.safetensors')
ticks() { sed 's/.*) //' "/proc/$pid/stat" | awk '{ print $12 + $13 }'; }
sync
echo 3 >/proc/sys/vm/drop_caches
before=$(ticks)
as python3 "$reading" "$way" "$file" >"$work/pass.json"
echo $(($(ticks) - before)) "$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$pid/status")" >"$work/user.cpu"
# a file that was decoded would be no second mount
status | grep -q '"decoded_chunks": 0,'
SH
    run unshare --mount --propagation private sh "$work/user.sh" "$work" "$1" "$work/user/bsfs" "$work/user/reading.py" >&2
}

cache() {
    local raw name round way side at pid ways stored order user='' ticks peak number first second cold
    name=${input##*/}
    raw=$(stat -c %s "$input")
    rounds=${rounds:-3}
    mkdir "$work/plain" "$work/packed.d" "$work/mnt"
    cp "$input" "$work/plain/$name"
    run "$BSFS" compress "$input" -o "$work/packed.d/$name.bs" ${threads[@]+"${threads[@]}"} >&2
    stored=("$work/plain/$name" "$work/packed.d/$name.bs")
    chmod u+w "${stored[@]}"
    ways=(read copy touch)
    : >"$work/times"

    say "filling the cache"
    MOUNT_CACHE=(--cache all --cache-dir "$work/cache")
    mount_bsfs "$work/packed.d" "$work/mnt" --warm --log-file "$work/mount.log"
    warm_up "$work/mnt" "$work/warming.json"
    unmount_bsfs "$work/mnt"
    second_mount 'cache, second' "$input"

    if ((EUID != 0)); then
        say "without root only the file's own pages are cold, and the daemon serves the second mount"
    elif ! have setpriv || ! have unshare; then
        say "no user without privilege: setpriv and unshare are missing"
    else
        mkdir -p "$work/user/mnt" "$work/user/home"
        chmod 755 "$work" "$work/packed.d" "$work/user"
        chmod a+r "$work/packed.d"/*
        chown 65534:65534 "$work/user/mnt" "$work/user/home"
        cp "$BSFS" "$work/user/bsfs"
        cp "$SCRIPTS/reading.py" "$work/user/reading.py"
        if user warm; then user=1; else say "no user without privilege: /dev/fuse cannot be opened to one here"; fi
    fi

    # After much was written the disk is slow for a while: a reading that is not measured comes before what is compared.
    calm() {
        cool "${stored[@]}"
        cat "$work/plain/$name" >/dev/null
        sleep 1
    }
    for ((round = 1; round <= rounds; round++)); do
        say "round $round"
        calm
        # each side is first in half of the rounds
        order=(plain 'cache, second')
        ((round % 2)) || order=('cache, second' plain)
        for way in "${ways[@]}"; do
            for side in "${order[@]}"; do
                # a warm pass takes so little time that one alone is noise
                passes - "$side" "$way" cold warm warm warm
            done
            [[ -n $user ]] || continue
            if user "$way"; then
                read -r ticks peak <"$work/user.cpu"
                noted - 'cache, second, a user' "$way" cold "$ticks" "$peak"
            else
                missed=1
                say "a user: $way failed"
            fi
        done
        order=('cache off' 'cache, first')
        ((round % 2)) || order=('cache, first' 'cache off')
        for side in "${order[@]}"; do
            calm
            passes - "$side" read cold
        done
    done

    if [[ -n ${BIGSMALL:-} ]]; then
        mkdir "$work/bigsmall.d"
        package_compress "$work/bigsmall.d/model.bs"
        stored+=("$work/bigsmall.d/model.bs")
        chmod u+w "$work/bigsmall.d/model.bs"
        for ((round = 1; round <= rounds; round++)); do
            say "BigSmall, round $round"
            calm
            passes - 'bigsmall, first' read cold
            # as the first mount left the page cache, then after a drop
            passes - 'bigsmall, second' read warm
            calm
            passes - 'bigsmall, second' read cold
            passes - 'bigsmall, second' copy warm cold
        done
    fi

    rows
    finish "$work/rows"
    printf 'target\tvalue\tbar\tverdict\n' >"$work/targets"
    ratio_of() { quotient "$(speed - "$1" "$2" "$3")" "$(speed - "$4" "$2" "$3")" %.2f; }
    if ((EUID == 0)); then
        for number in warm cold; do
            for way in "${ways[@]}"; do
                target "second mount, $way, $number / plain" "$(ratio_of 'cache, second' "$way" "$number" plain)" '>=' 0.95
            done
        done
        [[ -z $user ]] ||
            target "second mount of a user, read, cold / plain" "$(ratio_of 'cache, second, a user' read cold plain)" '>=' 0.85
    else
        target "second mount of a user, read, cold / plain" "$(ratio_of 'cache, second' read cold plain)" '>=' 0.85
    fi
    target "first pass, read, cold: time with the cache / without" "$(ratio_of 'cache off' read cold 'cache, first')" '<=' 1.10
    if [[ -n ${BIGSMALL:-} ]]; then
        first=$(speed - 'bigsmall, first' read cold)
        for way in read copy; do
            second=$(speed - 'bigsmall, second' "$way" warm) cold=$(speed - 'bigsmall, second' "$way" cold)
            target "BigSmall, $way: time of the second load / the first" "$(quotient "$first" "$second")" '<=' 0.05
            printf '%s\t%s\t\t-\n' "the same, all caches dropped between them" "$(quotient "$first" "$cold")" >>"$work/targets"
        done
    fi
    echo
    finish "$work/targets" cache-targets
}

# package_compress CONTAINER: has the package make a container of the input.
package_compress() {
    say "the package compresses ${input##*/}"
    cat >"$work/package.py" <<'PY'
import bigsmall, contextlib, io, sys, time
if __name__ == "__main__":  # the package starts processes that import this again
    # the clock starts behind the imports
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        getattr(bigsmall, sys.argv[1])(*sys.argv[2:])
    print(time.perf_counter() - start)
PY
    run "$BIGSMALL" -W ignore "$work/package.py" compress "$input" "$1" >/dev/null 2>&1 ||
        die "the package did not compress $input"
}

bigsmall() {
    local raw side start row version
    rounds=${rounds:-3}
    mkdir "$work/packed.d" "$work/mnt"
    raw=$(stat -c %s "$input")
    package_compress "$work/packed.d/model.bs"
    version=$("$BIGSMALL" -c 'from importlib.metadata import version as v; print(v("bigsmall"))')
    : >"$work/times"
    for ((round = 1; round <= rounds; round++)); do
        say "round $round"
        cat "$work/packed.d/model.bs" >/dev/null
        run "$BIGSMALL" -W ignore "$work/package.py" verify "$work/packed.d/model.bs" 2>/dev/null >"$work/package" ||
            die "the package did not verify its file"
        printf 'package\t%s\n' "$(tail -n 1 "$work/package")" >>"$work/times"
        for side in 1 0; do
            start=$(now)
            run "$BSFS" verify -j "$side" "$work/packed.d/model.bs" >/dev/null
            printf 'verify %s\t%s\n' "$side" "$(since "$start" %.6f)" >>"$work/times"
        done
        mount_bsfs "$work/packed.d" "$work/mnt" --log-file "$work/mount.log"
        start=$(now)
        run cat "$work/mnt/model.safetensors" >/dev/null
        printf 'mount\t%s\n' "$(since "$start" %.6f)" >>"$work/times"
        unmount_bsfs "$work/mnt"
    done
    of() { awk -F '\t' -v k="$1" -v r="$raw" '$1 == k { print r / $2 / 1e6 }' "$work/times" >"$work/speeds"; median "$work/speeds" 1; }
    printf 'what\tMB/s\tto the package\n' >"$work/rows"
    while IFS=$'\t' read -r row side; do
        printf '%s\t%s\t%s\n' "$row" "$(quotient "$(of "$side")" 1 %.0f)" "$(quotient "$(of "$side")" "$(of package)" %.2f)" >>"$work/rows"
    done < <(printf '%s\t%s\n' "bigsmall $version, verify" package "bsfs verify, one core" 'verify 1' \
        "bsfs verify, $(nproc) cores" 'verify 0' "cat through the mount, $(nproc) cores" mount)
    finish "$work/rows"
    printf 'target\tvalue\tbar\tverdict\n' >"$work/targets"
    target "decoding on one core / the package" "$(quotient "$(of 'verify 1')" "$(of package)" %.2f)" '>=' 4
    target "decoding on all cores / on one" "$(quotient "$(of 'verify 0')" "$(of 'verify 1')" %.2f)" '>=' 1.8
    echo
    finish "$work/targets" bigsmall-targets
}

"$what"
((missed == 0))
