#!/bin/bash
# One analysis by several processes without Slurm: one process a device of this machine, or of several machines. The
# arguments are curvtool's command line; torchrun's own options go before it and end with --:
#
#   scripts/torchrun.sh eigs model.pt --factory models:Net --data data.npz --json report.json
#
# and on each of two machines, 0 being the number of the first:
#
#   scripts/torchrun.sh --nnodes=2 --node-rank=0 --master-addr=first.example --master-port=29500 -- eigs model.pt ...
#
# torchrun turns every status of curvtool but 0 into 1, the 75 of a run that was stopped and can be resumed too; prefer
# srun where there is Slurm.
#
# Edit, or set before the call:
NPROC=${NPROC:-} # processes a machine; empty: one a CUDA device, or one where there is none
VENV=${VENV:-}   # the virtual environment that holds curvtool; empty where curvtool is on PATH

set -euo pipefail

options=()
if [[ ${1:-} == -* ]]; then
    while (($#)) && [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift || true # the --
fi
if (($# == 0)); then
    echo "usage: $(basename "$0") [TORCHRUN OPTIONS --] COMMAND [MODEL] [OPTIONS], as for curvtool" >&2
    exit 2
fi
((${#options[@]})) || options=(--standalone)

[[ -z $VENV ]] || source "$VENV/bin/activate"
NPROC=${NPROC:-$(python3 -c 'import torch; print(max(1, torch.cuda.device_count()))')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / NPROC > 0 ? $(nproc) / NPROC : 1))}

# USR1 or USR2 would end torchrun alone and leave curvtool's processes running without it. Older torchruns cannot help
if torchrun --help | grep -e --signals-to-handle > /dev/null; then
    options+=(--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2)
fi

exec torchrun "${options[@]}" --nproc-per-node="$NPROC" --no-python curvtool "$@"
