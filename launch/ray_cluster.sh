#!/usr/bin/env bash
# Ray on several machines, for as long as one command runs on the first of them:
#   launch/ray_cluster.sh HOST HOST ... -- python -m tuner --address auto --work /shared/runs ...
# Inside a Slurm allocation the hosts are its nodes: launch/ray_cluster.sh -- python -m tuner ...
# Run it on the first host, in the same folder on all of them. See launch/README.md.
set -euo pipefail

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

hosts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in -*) usage ;; esac
    hosts+=("$1")
    shift
done
[ $# -ge 2 ] || usage
shift

if [ ${#hosts[@]} -eq 0 ]; then
    [ -n "${SLURM_JOB_NODELIST:-}" ] || usage
    while read -r host; do hosts+=("$host"); done < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
fi

port=${RAY_PORT:-6379}
ray=$(command -v ray) || { echo "error: there is no ray in PATH; pip install 'chromaclick[tune]'" >&2; exit 2; }
head_address=${HEAD_ADDRESS:-${hosts[0]}}
# Said everywhere, for Ray 2.60 asks for the token of ~/.ray where it starts, and has none where it connects.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
# Slurm's limits, else what Ray finds on each machine.
limits=()
[ -z "${SLURM_CPUS_ON_NODE:-}" ] || limits+=("--num-cpus=$SLURM_CPUS_ON_NODE")
[ -z "${SLURM_GPUS_ON_NODE:-}" ] || limits+=("--num-gpus=$SLURM_GPUS_ON_NODE")

processes=() running='' answer=$(mktemp)
# In the background, as bash puts a signal off until a command in the foreground has ended. With job control on, for
# else the command would ignore Ctrl-C; off again, so that bash does not say how each job ended.
patiently() {
    set -m
    "$@" &
    running=$!
    set +m
    wait "$running"
}
# The signal goes on to the command, which may have something to save.
stopped() {
    trap '' "$1"
    if [ -n "$running" ]; then
        kill "-$1" "$running" 2>/dev/null || true
        wait "$running" 2>/dev/null || true
    fi
    exit "$2"
}
finish() {
    rm -f "$answer"
    # By their ids: `ray stop` would end Ray processes of others on these machines too.
    for process in "${processes[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
    done
    for process in "${processes[@]}"; do
        wait "$process" 2>/dev/null || true
    done
}
trap finish EXIT
trap 'stopped TERM 143' TERM
trap 'stopped INT 130' INT

# Ray on another machine, until the connection to this process ends.
start_worker() {
    local host=$1
    local words=(env "RAY_AUTH_MODE=$RAY_AUTH_MODE" "$ray" start "--address=$head_address:$port" --disable-usage-stats --block "${limits[@]}")
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        srun --overlap --nodes=1 --ntasks=1 --nodelist="$host" "${words[@]}" &
    else
        # -tt: the worker gets SIGHUP when this end of the connection is gone.
        ssh -tt -o BatchMode=yes "$host" "cd $(printf %q "$PWD") && exec$(printf ' %q' "${words[@]}")" </dev/null &
    fi
    processes+=($!)
}

"$ray" start --head "--node-ip-address=$head_address" "--port=$port" --include-dashboard=false \
    --disable-usage-stats --block "${limits[@]}" &
processes+=($!)
for host in "${hosts[@]:1}"; do
    start_worker "$host"
done

export RAY_ADDRESS="$head_address:$port"
nodes=0 reason=''
for _ in $(seq "${RAY_TRIES:-60}"); do
    for process in "${processes[@]}"; do
        kill -0 "$process" 2>/dev/null || { echo "error: ray start has ended on a machine" >&2; exit 1; }
    done
    # `ray list nodes` would need the dashboard.
    patiently timeout "${RAY_PATIENCE:-60}" python -c 'import ray; ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))' >"$answer" 2>&1 || true
    nodes=$(tail -n 1 "$answer")
    case $nodes in '' | *[!0-9]*) reason="; $nodes" nodes=0 ;; *) reason='' ;; esac
    [ "$nodes" -lt ${#hosts[@]} ] || break
    patiently sleep "${RAY_PAUSE:-2}"
done
[ "$nodes" -ge ${#hosts[@]} ] || { echo "error: $nodes of ${#hosts[@]} machines have joined$reason" >&2; exit 1; }
echo "Ray at $RAY_ADDRESS on $nodes machines" >&2
patiently "$@"
