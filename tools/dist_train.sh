#!/usr/bin/env bash
# Trains on several GPUs of one machine:  tools/dist_train.sh CONFIG GPUS [arguments of train.py]
# On several machines: NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT as torchrun has them.
set -euo pipefail
config=$1 gpus=$2
shift 2
if [[ ${NNODES:-1} == 1 ]]; then
    place=(--standalone)
else
    place=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?}" --master_addr "${MASTER_ADDR:?}"
        --master_port "${MASTER_PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${place[@]}" --nproc_per_node "$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
