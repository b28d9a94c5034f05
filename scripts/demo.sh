#!/usr/bin/env bash
# The whole of bsfs in one run: compress a model directory, mount it, let a real engine use it, prove every byte equal.
#
#   scripts/demo.sh [--model DIR] [--keep]
#
#   --model DIR   your own model directory, in place of a small generated one (50 MB); it is only read. The engine runs if
#                 it is a Llama directory with a tokenizer.json.
#   --keep        leave the work directory (the model, the compressed copy, logs) and say where it is
#
# Wants Debian 12 or newer (or Ubuntu) and a Rust toolchain; whatever else is missing it installs: a C compiler, Python, fuse3
# and, into a virtual environment, mistral.rs. The work directory is under ${TMPDIR:-/tmp} and goes away at the end, as the
# mount does, also after a failure or Ctrl-C. Exit code 0 if all was equal, 1 if something differed, 2 if it could not run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

model='' keep=''
while (($#)); do
    case $1 in
        --model) model=${2:?--model needs a directory}; shift ;;
        --keep) keep=1 ;;
        *) die "unknown option $1 (see --help)" ;;
    esac
    shift
done
[[ -z $model || -d $model ]] || die "--model $model: no such directory"

begin=$(now)
need_python
need_fuse
build_bsfs

work=
work_dir work
[[ -z $keep ]] || { keep_dir "$work"; say "the work directory is $work"; }
packed=$work/packed mnt=$work/mnt
times=$work/times
# timed TITLE MB COMMAND...: runs and notes the time; the speed too, if MB is a number.
timed() {
    local start status=0
    start=$(now)
    "${@:3}" || status=$?
    local seconds
    seconds=$(since "$start")
    printf '%s\t%s s\t%s\n' "$1" "$seconds" "${2:+$(quotient "$2" "$seconds" '%.0f') MB/s}" >>"$times"
    return "$status"
}

if [[ -n $model ]]; then
    plain=$(cd "$model" && pwd -P)
    [[ $(safetensors_bytes "$plain") != 0 ]] || die "$model holds no .safetensors file"
    space=$(df --output=avail -B1 "$work" | tail -n 1)
    size=$(find -L "$plain" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%d", n }')
    ((space > size)) || die "the compressed copy may need $(megabytes "$size") MB under $work; set TMPDIR to a disk with room"
else
    plain=$work/model
    say "making a small Llama model"
    run python3 "$SCRIPTS/make_model.py" "$plain" >&2
fi
engine=''
if [[ -e $plain/tokenizer.json ]] && grep -qs '"LlamaForCausalLM"' "$plain/config.json"; then
    venv light engine
fi
raw=$(safetensors_bytes "$plain")
raw_mb=$(megabytes "$raw")

say "compressing"
timed compress "$raw_mb" run "$BSFS" compress "$plain" -o "$packed" >&2
say "mounting"
timed mount '' mount_bsfs "$packed" "$mnt" --log-file "$work/mount.log"

failures=()
# complete DIR FILE: the engine's completions of two prompts, from one directory.
complete() {
    run env HF_HOME="$work/hf" PYTHONDONTWRITEBYTECODE=1 RUST_BACKTRACE=0 timeout 1800 \
        "$engine" "$SCRIPTS/readers/mistralrs_complete.py" "$1" >"$2" 2>"$2.err" || { tail -n 20 "$2.err" >&2; return 1; }
}
if [[ -n $engine ]]; then
    say "mistral.rs completes a prompt from the mountpoint, then from the plain directory"
    if ! timed "completion, mounted (cold)" '' complete "$mnt" "$work/said.mounted"; then
        failures+=("the engine failed on the mountpoint")
    elif ! timed "completion, plain" '' complete "$plain" "$work/said.plain"; then
        failures+=("the engine failed on the plain directory")
    elif ! cmp -s "$work/said.mounted" "$work/said.plain"; then
        diff "$work/said.plain" "$work/said.mounted" >&2 || true
        failures+=("the completions differ")
    fi
else
    say "no Llama directory with a tokenizer.json: the engine is left out"
fi

# digests DIR FILE: SHA-256 and path of every file below DIR.
digests() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    run env LC_ALL=C bash -o pipefail -c 'cd "$1" && find -L . -type f -print0 | sort -z | xargs -0 sha256sum --' _ "$1" >"$2"
}
say "comparing SHA-256 of every file"
timed "SHA-256, mounted" "$raw_mb" digests "$mnt" "$work/sums.mounted" || failures+=("a mounted file could not be read")
timed "SHA-256, plain" "$raw_mb" digests "$plain" "$work/sums.plain"
if ! diff "$work/sums.plain" "$work/sums.mounted" >&2; then
    failures+=("files differ (< plain, > mounted, above)")
fi

say "unmounting"
timed unmount '' unmount_bsfs "$mnt"

small=$(safetensors_bytes "$packed" .bs)
{
    printf 'weights\tplain MB\tpacked MB\tratio\tSHA-256 of the mounted file\n'
    while IFS= read -r file; do
        a=$(stat -Lc %s "$plain/$file") b=$(stat -c %s "$packed/$file.bs" 2>/dev/null || echo 0)
        sum=$(awk -v f="./$file" 'substr($0, 67) == f { print substr($0, 1, 16) }' "$work/sums.mounted")
        same=differs
        ! grep -Fqx -- "$(awk -v f="./$file" 'substr($0, 67) == f' "$work/sums.plain")" "$work/sums.mounted" || same=equal
        printf '%s\t%s\t%s\t%s\t%s.. %s\n' "$file" "$(megabytes "$a")" "$(megabytes "$b")" "$(quotient "$b" "$a")" "$sum" "$same"
    done < <(cd "$plain" && find -L . -type f -name '*.safetensors' -printf '%P\n' | LC_ALL=C sort)
    printf 'all\t%s\t%s\t%s\t%s files compared\n' "$raw_mb" "$(megabytes "$small")" "$(quotient "$small" "$raw")" \
        "$(wc -l <"$work/sums.plain")"
} | table
echo
{ printf 'step\ttime\tspeed\n'; cat "$times"; } | table
echo
if [[ -s $work/said.mounted ]]; then
    printf 'the engine said, from the mountpoint:\n'
    python3 -c 'import json, sys
said = json.load(open(sys.argv[1]))
for prompt, text in zip(said["prompts"], said["texts"]): print(f"  {prompt} -> {text}")' "$work/said.mounted"
    [[ -n $model ]] || echo '  (the weights are random numbers, so the text has no sense; that it is the same from both directories has)'
    echo
fi
if ((${#failures[@]})); then
    printf 'FAIL demo: %s\n' "${failures[@]}"
    [[ ! -s $work/mount.log ]] || tail -n 20 "$work/mount.log" >&2
    exit 1
fi
echo "PASS demo: every file equal${engine:+, the same completions}, $(megabytes $((raw - small))) of $raw_mb MB saved, in $(since "$begin") s"
