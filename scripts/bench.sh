#!/usr/bin/env bash
# Measurements, printed as Markdown tables. What is compared is compared within one run, on one machine.
#
#   scripts/bench.sh [ratio|codec|chunk|mount] [FILE|DIR] [-j N] [--rounds N] [--record]
#
#   ratio   every weight file of DIR: ratio beside the bar it has to reach, speed of compress and decompress (the default)
#   codec   every weight file of DIR in memory: ratio and speed in each mode, on one thread and on two, beside memcpy, zstd -1
#           and -3, and what scripts/rivals.py knows if RIVALS_PYTHON names a Python that has some of zipnn, pcodec, openzl, glyd
#   chunk   one BF16 file at chunk sizes from 64 KiB to 4 MiB
#   mount   sequential reads and mappings of one file, cold and warm, through the mount and plain
#
# FILE or DIR is what scripts/corpus.sh fetches unless given; chunk and mount take its BF16 file. Speeds are raw bytes over
# wall time, median of --rounds for decode and memcpy in codec (default 5) and for mount (default 3), of one run otherwise. -j
# is not for codec. Cold means dropped from the page cache, which needs root for all of it; otherwise only the file's own
# pages are dropped. --record adds the figures to a dated CSV file in benches/record; scripts/plot.py draws those of codec.
# Exit code 1 if a bar is missed or a file did not come back byte for byte.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

what=ratio input='' record='' rounds='' threads=()
while (($#)); do
    case $1 in
        ratio | codec | chunk | mount) what=$1 ;;
        -j) threads=(-j "${2:?-j needs a number}"); shift ;;
        --rounds) rounds=${2:?--rounds needs a number}; shift ;;
        --record) record=1 ;;
        -*) die "unknown option $1 (see --help)" ;;
        *) [[ -z $input ]] || die "one FILE or DIR only"; input=$1 ;;
    esac
    shift
done
[[ -z $input || -e $input ]] || die "$input: no such file or directory"

need_python
[[ $what != mount ]] || need_fuse
[[ $what != codec ]] || need zstd=zstd
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

# finish FILE: prints tab-separated rows, titles first, and records them if asked to.
finish() {
    table <"$1"
    [[ -n $record ]] || return 0
    local out
    out=$ROOT/benches/record/$(date -u +%F)-$what.csv
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

# Drops what the page cache holds: of everything as root, else of the files given.
cool() {
    local file
    sync
    if ((EUID == 0)) && { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null; then
        return 0
    fi
    for file in "$@"; do
        dd of="$file" oflag=nocache conv=notrunc,fdatasync count=0 status=none
    done
}

# reading WAY FILE: seconds for one pass over a file.
reading() {
    run python3 -c '
import mmap, sys, time
way, path = sys.argv[1:]
start = time.perf_counter()
with open(path, "rb", buffering=0) as f:
    if way == "read":
        block = bytearray(1 << 20)
        while f.readinto(block):
            pass
    else:
        with mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE) as m:
            sum(m[i] for i in range(0, len(m), 4096))
print(time.perf_counter() - start)' "$1" "$2"
}

mount() {
    local raw name round way heat side plain mounted
    name=${input##*/}
    raw=$(stat -c %s "$input")
    mkdir "$work/plain" "$work/packed.d"
    cp "$input" "$work/plain/$name"
    run "$BSFS" compress "$input" -o "$work/packed.d/$name.bs" ${threads[@]+"${threads[@]}"} >&2
    for ((round = 1; round <= ${rounds:-3}; round++)); do
        for way in read mmap; do
            say "round $round, $way"
            # a new daemon each time: its own cache of decoded chunks must be cold too
            mount_bsfs "$work/packed.d" "$work/mnt"
            for heat in cold warm; do
                [[ $heat == warm ]] || cool "$work/plain/$name" "$work/packed.d/$name.bs"
                for side in plain mnt; do
                    printf '%s\t%s\t%s\t%s\n' "$way" "$heat" "$side" "$(reading "$way" "$work/$side/$name")" >>"$work/times"
                done
            done
            unmount_bsfs "$work/mnt"
        done
    done
    # middle WAY HEAT SIDE: median GB/s
    middle() {
        awk -F '\t' -v a="$1" -v b="$2" -v c="$3" '$1 == a && $2 == b && $3 == c { print $4 }' "$work/times" | sort -g |
            awk -v n="$raw" '{ t[NR] = $1 } END { printf "%.3f", n / t[int((NR + 1) / 2)] / 1e9 }'
    }
    printf 'file\traw bytes\taccess\tstate\tplain GB/s\tmounted GB/s\tmounted / plain\n' >"$work/rows"
    for way in read mmap; do
        for heat in cold warm; do
            plain=$(middle "$way" "$heat" plain) mounted=$(middle "$way" "$heat" mnt)
            printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$raw" "$way" "$heat" "$plain" "$mounted" "$(quotient "$mounted" "$plain" %.2f)" >>"$work/rows"
        done
    done
    finish "$work/rows"
}

"$what"
((missed == 0))
