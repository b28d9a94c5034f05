#!/usr/bin/env bash
# Real readers on a plain model directory and on the same directory mounted by bsfs: what they see must be equal.
#
#   scripts/e2e.sh [TARGET...] [--plain DIR --mount DIR] [--cached] [--keep] [--list]
#
# targets
#   bytes         every file by read, private and shared mappings and direct I/O (Python alone)
#   mistralrs     mistral.rs: completions of a Llama directory
#   safetensors   safetensors: all tensors and slices with numpy, and with torch where the torch packages are installed
#   transformers  transformers: logits bit for bit, greedy generation, tied embeddings     (5 GB of packages)
#   diffusers     diffusers: a picture bit for bit; each file as ComfyUI loads it          (the same 5 GB)
#   streamers     fastsafetensors and Run:ai model streamer: all tensors by direct I/O     (the same 5 GB)
#   gguf          llama.cpp's converter: the GGUF files made from both                     (the same 5 GB)
#   vllm          vLLM on the CPU: completions, two ways of loading                        (1 GB more)
#   light         bytes, mistralrs, safetensors: the default, under 100 MB of packages
#   all           everything
#
# Without --plain and --mount it builds bsfs, makes small models (sharded with tied embeddings; one file without; that one
# again in the layout of a hub cache; one with every dtype), compresses and mounts them, and removes everything at the end
# (--keep leaves the files). With them, each target runs on the two given directories, and bsfs itself is not needed.
#
# --cached mounts once to fill a disk cache, and lets the readers have the second mount, which decodes nothing.
#
# Packages are kept in ${BSFS_CACHE:-~/.cache/bsfs-scripts}; BSFS names a ready bsfs program. The last line for each target
# is `PASS name` or `FAIL name: why`. Exit code 0 if all passed, 1 if one failed, 2 if they could not be run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

ORDER=(bytes mistralrs safetensors transformers diffusers streamers gguf vllm)
LIMIT=${BSFS_E2E_LIMIT:-900} # seconds for one reader on one directory
plain='' mounted='' cached='' keep='' wanted=()
while (($#)); do
    case $1 in
        --plain) plain=${2:?--plain needs a directory}; shift ;;
        --mount) mounted=${2:?--mount needs a directory}; shift ;;
        --cached) cached=1 ;;
        --keep) keep=1 ;;
        --list) printf '%s\n' "${ORDER[@]}"; exit 0 ;;
        light) wanted+=(bytes mistralrs safetensors) ;;
        all) wanted+=("${ORDER[@]}") ;;
        *) [[ " ${ORDER[*]} " == *" $1 "* ]] || die "no target $1; there are: ${ORDER[*]} light all"; wanted+=("$1") ;;
    esac
    shift
done
((${#wanted[@]})) || wanted=(bytes mistralrs safetensors)
[[ -n $plain && -n $mounted || -z $plain$mounted ]] || die "--plain and --mount go together"
[[ -z $cached || -z $plain ]] || die "--cached is for mounts that the script makes"
# `all` of a directory that is no pipeline of diffusers is all that can be read there.
if [[ -n $plain && ! -e $plain/model_index.json && " ${wanted[*]} " == *" diffusers "* ]] && ((${#wanted[@]} > 1)); then
    say "$plain has no model_index.json: without diffusers"
    for at in "${!wanted[@]}"; do [[ ${wanted[at]} != diffusers ]] || unset "wanted[at]"; done
fi
wants() { [[ " ${wanted[*]} " == *" $1 "* ]]; }

begin=$(now)
# The packages first: an installation that fails should not leave a mount to be taken away.
light=python3 torch='' vllm=''
need_python
if wants mistralrs || wants safetensors; then venv light light; fi
if wants transformers || wants diffusers || wants streamers || wants gguf; then venv torch torch uv; fi
if wants vllm; then
    need c++=g++ # vLLM compiles kernels for this CPU when it starts
    venv vllm vllm uv
fi

work=
work_dir work
[[ -z $keep ]] || { keep_dir "$work"; say "files stay in $work"; }

# The models: name, plain directory, mounted directory.
names=() plains=() mounts=()
model() { names+=("$1") plains+=("$2") mounts+=("$3"); }
if [[ -n $plain ]]; then
    [[ -d $plain && -d $mounted ]] || die "--plain and --mount take directories"
    model given "$(cd "$plain" && pwd -P)" "$(cd "$mounted" && pwd -P)"
else
    need_fuse
    build_bsfs
    say "making the models"
    run python3 "$SCRIPTS/make_model.py" "$work/plain/sharded" --shards 3 >&2
    run python3 "$SCRIPTS/make_model.py" "$work/plain/single" --shards 1 --untied --hidden 256 --layers 4 --seed 2 >&2
    mkdir -p "$work/plain/mixed"
    run python3 "$SCRIPTS/readers/mixed_file.py" "$work/plain/mixed/mixed.safetensors"
    # As a hub cache keeps a model: links with the names, to files named by a hash.
    mkdir -p "$work/plain/hub/blobs" "$work/plain/hub/snapshots/main"
    for file in "$work/plain/single"/*; do
        blob=$(sha256sum "$file" | cut -c1-64)
        cp "$file" "$work/plain/hub/blobs/$blob"
        ln -s "../../blobs/$blob" "$work/plain/hub/snapshots/main/${file##*/}"
    done
    if wants diffusers; then run "$torch" "$SCRIPTS/make_pipeline.py" "$work/plain/picture" >&2; fi
    say "compressing and mounting them"
    run "$BSFS" compress "$work/plain" -o "$work/packed" >&2
    if [[ -n $cached ]]; then
        MOUNT_CACHE=(--cache all --cache-dir "$work/cache")
        mount_bsfs "$work/packed" "$work/mnt" --log-file "$work/mount.log" --warm
        warm_up "$work/mnt" "$work/warming.json"
        unmount_bsfs "$work/mnt"
    fi
    mount_bsfs "$work/packed" "$work/mnt" --log-file "$work/mount.log"
    for name in sharded single mixed picture; do
        [[ ! -d $work/plain/$name ]] || model "$name" "$work/plain/$name" "$work/mnt/$name"
    done
    model hub "$work/plain/hub/snapshots/main" "$work/mnt/hub/snapshots/main"
fi

# compare PYTHON READER MODEL: runs a reader on both directories of a model; 0 if it saw the same, else why is set.
why=
compare() {
    local python=$1 reader=$2 i=$3 side dir status start
    local log=$work/log.$reader.${names[i]}
    for side in plain mount; do
        dir=${plains[i]}
        [[ $side == plain ]] || dir=${mounts[i]}
        status=0 start=$(now)
        # a cache of its own for both sides, so that neither profits from what the other left
        run env HF_HOME="$work/hf.$side" TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1 \
            RUST_BACKTRACE=0 \
            timeout --kill-after=10 "$LIMIT" "$python" "$SCRIPTS/readers/$reader.py" "$dir" \
            >"$log.$side.json" 2>"$log.$side.err" || status=$?
        if ((status)); then
            tail -n 15 "$log.$side.err" >&2
            case $status in
                124 | 137) why="still running after $LIMIT s" ;;
                *) if ((status > 128)); then why="ended by signal $((status - 128))"; else why="exit code $status"; fi ;;
            esac
            why="$why on the $side directory of $(label "$i"): $(complaint "$log.$side.err")"
            return 1
        fi
        [[ $(wc -l <"$log.$side.json") == 1 ]] || { why="no result from the $side directory of $(label "$i")"; return 1; }
        printf '   %-22s %-8s %-5s %6s s  %s\n' "$reader" "${names[i]}" "$side" "$(since "$start")" "$(cut -c1-110 "$log.$side.json")" >&2
    done
    if ! cmp -s "$log.plain.json" "$log.mount.json"; then
        diff "$log.plain.json" "$log.mount.json" >&2 || true
        why="differs between the plain and the mounted directory of $(label "$i")"
        return 1
    fi
}
# The line of a reader's errors that says most: the last exception, else the last line.
complaint() {
    { grep -E '^[A-Za-z_.]*(Error|Exception)\b' "$1" || grep -v '^[[:space:]]*$' "$1" || true; } | tail -n 1 | cut -c1-200
}
label() { printf '%s' "${names[$1]/#given/${mounts[$1]}}"; }

# each PYTHON READER MODEL...: the reader on each of the models named, or on the given directories.
each() {
    local python=$1 reader=$2 i
    for i in "${!names[@]}"; do
        if [[ ${names[i]} == given || " ${*:3} " == *" ${names[i]} "* ]]; then
            compare "$python" "$reader" "$i" || return 1
        fi
    done
}

one() {
    case $1 in
        bytes) each python3 raw_bytes sharded single mixed hub ;;
        mistralrs) each "$light" mistralrs_complete sharded single hub ;;
        safetensors)
            each "$light" safetensors_tensors sharded single mixed || return 1
            if venv_ready torch; then
                venv torch torch uv
                each "$torch" safetensors_tensors sharded single mixed
            fi
            ;;
        transformers) each "$torch" transformers_logits sharded single ;;
        diffusers) each "$torch" diffusers_picture picture ;;
        streamers) each "$torch" streamers_tensors sharded single ;;
        gguf) each "$torch" gguf_convert sharded ;;
        vllm) each "$vllm" vllm_complete sharded ;;
    esac
}

passed=0 failed=0 results=()
for target in "${ORDER[@]}"; do
    wants "$target" || continue
    say "$target"
    if one "$target"; then
        passed=$((passed + 1)) results+=("PASS $target")
    else
        failed=$((failed + 1)) results+=("FAIL $target: $why")
        [[ ! -s $work/mount.log ]] || { say "the end of the mount's log"; tail -n 20 "$work/mount.log" >&2; }
    fi
done

if [[ -n $cached ]]; then
    "$BSFS" status "$work/mnt" --json >"$work/status.json"
    if ! python3 - "$work/status.json" <<'PY'; then
import json, sys
(record,) = json.load(open(sys.argv[1]))
status = record["status"]
decoded, opens = status["engine"]["decoded_chunks"], status["passthrough_opens"]
print(f"== the second mount decoded {decoded} chunks; the kernel served {opens} opens by itself", file=sys.stderr)
sys.exit(decoded > 0)
PY
        failed=$((failed + 1)) results+=("FAIL cached: the second mount decoded something")
    fi
fi
printf '%s\n' "${results[@]}"
[[ -n $plain ]] || unmount_bsfs "$work/mnt"
say "e2e took $(since "$begin") s"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
