#!/usr/bin/env bash
# An elastic training: one to four machines, which may fail, leave and come back. On each of them:
#   RENDEZVOUS=HOST:29400 launch/torchrun.sh [PRESET] --run.name NAME [trainer/main.py's options]
# HOST is one of them, whose failure ends the job. Without RENDEZVOUS it is this machine alone. See launch/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

case " $* " in
    *' --run.name '* | *' --run.name='*) ;;
    *)
        sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
        echo "error: give --run.name: it says which run a restart goes on with" >&2
        exit 2
        ;;
esac

# Else torch keeps one store over restarts, and new processes may call the addresses that dead ones left in it.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# Time for the step at hand and its checkpoint; torch's own 30 s would kill a save in the middle.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-240}
machines=1:4
[ -n "${RENDEZVOUS:-}" ] || machines=1
# Port 0: any free one, so that two trainings on one machine do not meet.
exec torchrun --rdzv-backend=c10d "--rdzv-endpoint=${RENDEZVOUS:-localhost:0}" "--rdzv-id=${JOB:-chromaclick}" \
    "--rdzv-conf=last_call_timeout=${LAST_CALL:-30}" "--nnodes=${MACHINES:-$machines}" \
    "--nproc-per-node=${PROCESSES:-auto}" "--max-restarts=${RESTARTS:-3}" \
    trainer/main.py "$@" --resume-or-start
