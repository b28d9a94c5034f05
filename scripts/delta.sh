#!/usr/bin/env bash
# What a base saves, and what reading through it costs, as Markdown tables, on the pairs of scripts/corpus.sh.
#
#   scripts/delta.sh [--rounds N]
#
#   ratio   each fine-tune with and without its base, packed / raw; if BIGSMALL names a Python that has the package bigsmall, its
#           own delta of the same pair beside
#   twice   by --dedup: a directory that holds one model twice, and one where it is a PyTorch file too, against the model once
#   CPU     of the daemon and of `cat`, per GiB read cold through the mount: a fine-tune of BF16 (the pair's, repeated to 1 GB)
#           with its base and alone; median of --rounds (default 5), the two taking turns
#
# Every file is decompressed and compared. BSFS names a ready bsfs program. Exit code 1 if a target is missed or a file did not come
# back byte for byte.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

rounds=5
while (($#)); do
    case $1 in
        --rounds) rounds=${2:?--rounds needs a number}; shift ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
need_python
need_fuse
build_bsfs
work=
work_dir work
missed=0
size() { stat -c %s "$1"; }
printf 'target\tvalue\tbar\tverdict\n' >"$work/targets"

pairs=("minilm-l6-v2.bf16 minilm-l6-v2-sre-ft.bf16" "minilm-l6-v2.f32 minilm-l6-v2-sre-ft.f32"
    "sevennet0-2024-05.f32 sevennet0-2024-07.f32")
names=()
for pair in "${pairs[@]}"; do
    for name in $pair; do names+=(--only "$name"); done
done
run "$SCRIPTS/corpus.sh" "${names[@]}" >/dev/null
corpus=$CACHE/corpus

printf 'file\tbase\tdelta / raw\talone / raw%s\n' "${BIGSMALL:+$'\tits delta / raw'}" >"$work/rows"
for pair in "${pairs[@]}"; do
    read -r base name <<<"$pair"
    raw=$(size "$corpus/$name.safetensors")
    run "$BSFS" compress "$corpus/$name.safetensors" -o "$work/alone.bs" >/dev/null
    run "$BSFS" compress "$corpus/$name.safetensors" --base "$corpus/$base.safetensors" -o "$work/delta.bs" >/dev/null
    run "$BSFS" decompress "$work/delta.bs" --base "$corpus/$base.safetensors" -o "$work/back"
    cmp "$work/back" "$corpus/$name.safetensors" || missed=1
    delta=$(quotient "$(size "$work/delta.bs")" "$raw" %.4f) alone=$(quotient "$(size "$work/alone.bs")" "$raw" %.4f)
    theirs=
    if [[ -n ${BIGSMALL:-} ]]; then
        run "$BIGSMALL" -W ignore "$SCRIPTS/readers/bigsmall_package.py" delta "$corpus/$name.safetensors" \
            "$corpus/$base.safetensors" "$work/theirs.bs" >/dev/null 2>&1 || die "the package made no delta of $name"
        theirs=$(quotient "$(size "$work/theirs.bs")" "$raw" %.4f)
    fi
    printf '%s\t%s\t%s\t%s%s\n' "$name" "$base" "$delta" "$alone" "${theirs:+$'\t'$theirs}" >>"$work/rows"
    case $name in
        *sre-ft.bf16) target "$name, delta / raw" "$delta" '<=' 0.170 ;;
        *sre-ft.f32) target "$name, delta / raw" "$delta" '<=' 0.49 ;;
        *) target "$name, delta / alone" "$(quotient "$(size "$work/delta.bs")" "$(size "$work/alone.bs")" %.5f)" '<=' 1 ;;
    esac
    rm -f "$work"/*.bs "$work/back"
done
table <"$work/rows"

mkdir "$work/once" "$work/twice"
cp "$corpus/minilm-l6-v2.f32.safetensors" "$work/once/model.safetensors"
cp "$work/once/model.safetensors" "$work/twice/model.safetensors"
# The same numbers under other names, in another order, and as PyTorch keeps them.
python3 - "$work" <<'PY'
import json, struct, sys, zipfile
from pathlib import Path

work = Path(sys.argv[1])
data = (work / "once/model.safetensors").read_bytes()
(size,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8:8 + size])
header.pop("__metadata__", None)
parts = [(k, v, data[8 + size + v["data_offsets"][0]:8 + size + v["data_offsets"][1]]) for k, v in header.items()]
out, at = {}, 0
for i, (_, v, part) in enumerate(reversed(parts)):
    out[f"layers.{i}.w"] = {**v, "data_offsets": [at, at + len(part)]}
    at += len(part)
text = json.dumps(out).encode()
with open(work / "twice/consolidated.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(part for *_, part in reversed(parts)))
(work / "thrice").mkdir()
with zipfile.ZipFile(work / "thrice/pytorch_model.bin", "w", zipfile.ZIP_STORED) as z:
    for i, (*_, part) in enumerate(parts):
        z.writestr(f"archive/data/{i}", part)
PY
cp "$work"/twice/* "$work/thrice/"
echo
printf 'directory\traw bytes\tpacked bytes\tto the model once\n' >"$work/rows"
for dir in once twice thrice; do
    run "$BSFS" compress --dedup "$work/$dir" -o "$work/$dir.packed" >/dev/null
    run "$BSFS" verify "$work/$dir.packed" --source "$work/$dir" >/dev/null || missed=1
    packed=$(du -bc "$work/$dir.packed"/* | awk 'END { print $1 }')
    [[ $dir != once ]] || once=$packed
    times=$(quotient "$packed" "$once" %.4f)
    printf '%s\t%s\t%s\t%s\n' "$dir" "$(du -bc "$work/$dir"/* | awk 'END { print $1 }')" "$packed" "$times" >>"$work/rows"
    [[ $dir == once ]] || target "one model $dir / once" "$times" '<=' 1.01
done
table <"$work/rows"
rm -r "$work"/{once,twice,thrice}*

# Repeated with other numbers at the front of each tensor, so that no two tensors are equal.
for name in minilm-l6-v2 minilm-l6-v2-sre-ft; do
    python3 - "$corpus/$name.bf16.safetensors" "$work/$name.safetensors" <<'PY'
import json, struct, sys

data = open(sys.argv[1], "rb").read()
(size,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8:8 + size])
header.pop("__metadata__", None)
tensors = [(k, v, data[8 + size:][slice(*v["data_offsets"])]) for k, v in header.items() if v["dtype"] == "BF16"]
out, at = {}, 0
for i in range(24):
    for k, v, part in tensors:
        out[f"{i}.{k}"] = {**v, "data_offsets": [at, at + len(part)]}
        at += len(part)
text = json.dumps(out).encode()
with open(sys.argv[2], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text)
    for i in range(24):
        for *_, part in tensors:
            f.write(struct.pack("<Q", i * 0x9E3779B97F4A7C15 & (1 << 64) - 1) + part[8:])
PY
done
mkdir "$work/packed" "$work/mnt"
run "$BSFS" compress "$work/minilm-l6-v2.safetensors" -o "$work/packed/base.safetensors.bs" >/dev/null
run "$BSFS" compress "$work/minilm-l6-v2-sre-ft.safetensors" -o "$work/packed/alone.safetensors.bs" >/dev/null
run "$BSFS" compress "$work/minilm-l6-v2-sre-ft.safetensors" --base "$work/minilm-l6-v2.safetensors" \
    -o "$work/packed/delta.safetensors.bs" >/dev/null
raw=$(size "$work/minilm-l6-v2-sre-ft.safetensors")
rm "$work"/*.safetensors
ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
MOUNT_CACHE=(--cache off)
: >"$work/times"
for ((round = 1; round <= rounds; round++)); do
    for file in alone delta; do
        mount_bsfs "$work/packed" "$work/mnt" --log-file "$work/mount.log"
        pid=$("$BSFS" status "$work/mnt" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["status"]["pid"])')
        before=$(ticks "$pid")
        reader=$(python3 - "$work/mnt/$file.safetensors" <<'PY'
import os, subprocess, sys
subprocess.run(["cat", sys.argv[1]], stdout=subprocess.DEVNULL, check=True)
t = os.times()
print(t.children_user + t.children_system)
PY
        )
        awk -v f="$file" -v t="$(($(ticks "$pid") - before))" -v hz="$(getconf CLK_TCK)" -v r="$reader" -v raw="$raw" \
            'BEGIN { printf "%s\t%.4f\n", f, (t / hz + r) / raw * 2 ^ 30 }' >>"$work/times"
        unmount_bsfs "$work/mnt"
    done
done
median() { awk -F '\t' -v f="$1" '$1 == f { print $2 }' "$work/times" | sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }
echo
printf 'read cold through the mount\tCPU s / GiB\n' >"$work/rows"
for file in alone delta; do printf '%s\t%.2f\n' "$file" "$(median "$file")" >>"$work/rows"; done
table <"$work/rows"
target "CPU, delta / alone" "$(quotient "$(median delta)" "$(median alone)" %.2f)" '<=' 2.5
echo
table <"$work/targets"
((missed == 0))
