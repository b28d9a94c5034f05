#!/bin/sh
# The same with Slurm: sbatch --array=0-7 scripts/k8s/slurm-compress.sh MODELS PACKED
#SBATCH --job-name=bsfs-compress
#SBATCH --cpus-per-task=4
#SBATCH --mem=2G
#SBATCH --requeue
set -eu
models=${1:?sbatch --array=0-N slurm-compress.sh MODELS PACKED} packed=${2:?sbatch --array=0-N slurm-compress.sh MODELS PACKED}
exec bsfs compress "$models" -o "$packed" -j "${SLURM_CPUS_PER_TASK:-0}" \
    --shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT"
