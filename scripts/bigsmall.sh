#!/usr/bin/env bash
# bsfs and the Python package bigsmall on the same files: what one writes, the other must read, bit for bit.
#
#   scripts/bigsmall.sh [FILE...] [--release VERSION]... [--keep]
#
#   FILE                 safetensors files to try beside the generated ones
#   --release VERSION    a release of the package: 3.5.0 or 4.0.0 [default: both]
#   --keep               leave the files
#
# for each release
#   export-VERSION    bsfs export, decoded by the package
#   single-VERSION    compressed by the package; bsfs verify, decompress, migrate and back
#   delta-VERSION     two versions of a model, the difference written by the package; the same
#   sharded-VERSION   a directory with a tensor that is there twice, by compress_for_hub; the same, also in place
#   loaders-VERSION   a Llama in three shards with tied embeddings, by compress_for_hub, mounted: what scripts/e2e.sh reads with
#                     mistral.rs, safetensors and transformers is equal to the plain directory
#
# Packages (5 GB, as torch is among them) are kept in ${BSFS_CACHE:-~/.cache/bsfs-scripts}; BSFS names a ready bsfs program. The last line for each target
# is `PASS name` or `FAIL name: why`. Exit code 0 if all passed, 1 if one failed, 2 if they could not be run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

keep='' releases=() given=()
while (($#)); do
    case $1 in
        --release) releases+=("${2:?--release needs a version}"); shift ;;
        --keep) keep=1 ;;
        -*) die "unknown option $1 (see --help)" ;;
        *) [[ -f $1 ]] || die "$1: no such file"; given+=("$(cd "$(dirname "$1")" && pwd -P)/${1##*/}") ;;
    esac
    shift
done
((${#releases[@]})) || releases=(3.5.0 4.0.0)
pythons=()
for release in "${releases[@]}"; do
    name=bigsmall${release//./}
    [[ -e $SCRIPTS/readers/requirements-$name.txt ]] || die "no release $release here; there are 3.5.0 and 4.0.0"
    python=
    venv "$name" python uv
    pythons+=("$python")
done
need_fuse
build_bsfs

begin=$(now)
work=
work_dir work
[[ -z $keep ]] || { keep_dir "$work"; say "files stay in $work"; }
package() { run env PYTHONDONTWRITEBYTECODE=1 "$1" "$SCRIPTS/readers/bigsmall_package.py" "${@:2}"; }
say "making the models"
package "${pythons[0]}" make "$work/every.safetensors"
package "${pythons[0]}" shards "$work/sharded"
files=("$work/every.safetensors" ${given[@]+"${given[@]}"})

# step COMMAND...: runs it quietly; on failure `why` is the last line it wrote.
why=
step() {
    local log=$work/step.log
    run "$@" >"$log" 2>&1 && return 0
    tail -n 5 "$log" >&2
    why="$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | cut -c1-200) (${1##*/} ${2-} ${3-})"
    return 1
}
by_package() { step env PYTHONDONTWRITEBYTECODE=1 "$python" "$SCRIPTS/readers/bigsmall_package.py" "$@"; }

# there_and_back CONTAINER ORIGINAL [OPTION...]: all verbs of bsfs on a container or a directory of them.
there_and_back() {
    local container=$1 original=$2 out=$work/out
    rm -rf -- "$out"
    mkdir -p "$out"
    step "$BSFS" info "$container" &&
        step "$BSFS" verify "$container" "${@:3}" &&
        step "$BSFS" decompress "$container" -o "$out/plain" "${@:3}" &&
        by_package same "$original" "$out/plain" &&
        step "$BSFS" migrate "$container" --dry-run "${@:3}" &&
        step "$BSFS" migrate "$container" -o "$out/ours${suffix-}" --allow-larger "${@:3}" &&
        step "$BSFS" verify "$out/ours${suffix-}" &&
        step "$BSFS" decompress "$out/ours${suffix-}" -o "$out/back" &&
        by_package same "$original" "$out/back"
}

export_() {
    local file
    for file in "${files[@]}"; do
        rm -f -- "$work/export.bs" "$work/ours.bs"
        step "$BSFS" export --format bigsmall "$file" -o "$work/export.bs" || return 1
        step "$BSFS" verify "$work/export.bs" --source "$file" || return 1
        by_package reads "$work/export.bs" "$file" || return 1
        # from a container of ours the same
        step "$BSFS" compress "$file" -o "$work/ours.bs" || return 1
        step "$BSFS" export --format bigsmall "$work/ours.bs" -o "$work/export.bs" --force || return 1
        by_package reads "$work/export.bs" "$file" || return 1
    done
}

single() {
    local file suffix=.bs
    for file in "${files[@]}"; do
        rm -f -- "$work/theirs.bs"
        by_package compress "$file" "$work/theirs.bs" || return 1
        there_and_back "$work/theirs.bs" "$file" || return 1
    done
}

delta() {
    local suffix=.bs dir=$work/delta
    rm -rf -- "$dir"
    mkdir "$dir"
    python3 - "$work/sharded/model-00003-of-00003.safetensors" "$dir/tuned.safetensors" <<'PY' || { why="no model made"; return 1; }
import sys
data = bytearray(open(sys.argv[1], "rb").read())
start = 8 + int.from_bytes(data[:8], "little")
for at in range(start + start % 2, len(data), 38):
    data[at] ^= 1
open(sys.argv[2], "wb").write(data)
PY
    cp "$work/sharded/model-00003-of-00003.safetensors" "$dir/base.safetensors"
    by_package delta "$dir/tuned.safetensors" "$dir/base.safetensors" "$dir/delta.bs" || return 1
    there_and_back "$dir/delta.bs" "$dir/tuned.safetensors" || return 1
    mv "$dir/base.safetensors" "$work/elsewhere.safetensors"
    there_and_back "$dir/delta.bs" "$dir/tuned.safetensors" --base "$work/elsewhere.safetensors" || return 1
    if step "$BSFS" verify "$dir/delta.bs"; then
        why="a delta without its base is called sound"
        return 1
    fi
    if step "$BSFS" decompress "$dir/delta.bs" -o "$dir/wrong" --base "$dir/tuned.safetensors" || [[ -e $dir/wrong ]]; then
        why="a delta with a wrong base is decompressed"
        return 1
    fi
}

sharded() {
    local suffix='' dir=$work/hub
    rm -rf -- "$dir"
    by_package hub "$work/sharded" "$dir" || return 1
    there_and_back "$dir" "$work/sharded" || return 1
    step "$BSFS" migrate "$dir" --in-place --allow-larger || return 1
    if [[ -e $dir/bigsmall.index.json || -n $(find "$dir" -name '*.bs' ! -name '*.safetensors.bs') ]]; then
        why="migrated in place, and something of the original is there: $(ls "$dir" | tr '\n' ' ')"
        return 1
    fi
    step "$BSFS" verify "$dir" && step "$BSFS" decompress "$dir" -o "$work/out/in-place" &&
        cp "$dir/model.safetensors.index.json" "$work/out/in-place/" && by_package same "$work/sharded" "$work/out/in-place"
}

loaders() {
    local dir=$work/llama status=0
    if [[ ! -d $dir.plain ]]; then
        # the Python with NumPy that every release has
        step "$python" "$SCRIPTS/make_model.py" "$dir.plain" || return 1
    fi
    rm -rf -- "$dir.hub"
    by_package hub "$dir.plain" "$dir.hub" || return 1
    mkdir -p "$work/mnt"
    mount_bsfs "$dir.hub" "$work/mnt" --log-file "$work/mount.log"
    step "$SCRIPTS/e2e.sh" mistralrs safetensors transformers --plain "$dir.plain" --mount "$work/mnt" || status=1
    unmount_bsfs "$work/mnt"
    return "$status"
}

passed=0 failed=0 results=()
for i in "${!releases[@]}"; do
    python=${pythons[i]}
    for target in export single delta sharded loaders; do
        name=$target-${releases[i]} start=$(now) body=$target
        [[ $target != export ]] || body=export_
        if "$body"; then
            passed=$((passed + 1)) results+=("PASS $name")
        else
            failed=$((failed + 1)) results+=("FAIL $name: $why")
        fi
        say "$name took $(since "$start") s"
    done
done
printf '%s\n' "${results[@]}"
say "all of it took $(since "$begin") s"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
