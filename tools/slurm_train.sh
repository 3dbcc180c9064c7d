#!/usr/bin/env bash
# Trains under Slurm:  GPUS=8 tools/slurm_train.sh PARTITION CONFIG [arguments of train.py]
# GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS are optional.
set -euo pipefail
partition=$1 config=$2
shift 2
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
exec srun --partition "$partition" --job-name "$(basename "$config" .py)" --gres "gpu:$per_node" \
    --ntasks "$gpus" --ntasks-per-node "$per_node" --cpus-per-task "${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${PYTHON:-python}" "$(dirname "$0")/train.py" "$config" \
    --launcher slurm "$@"
