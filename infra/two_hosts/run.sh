#!/usr/bin/env bash
# A training on two hosts that are network namespaces of this machine, with shards from a third:
#   infra/two_hosts/run.sh SHARDS WORK [PRESET] [trainer/main.py's options]
# SHARDS is a folder with manifest.json; each host has its own folder in WORK. SHAPE="netem delay 20ms loss 1%" gives
# every address such a link, in tc's words. Ends with 77 and the reason where this machine cannot do it. Needs iproute2.
set -euo pipefail
script=$(realpath "$0")

cannot() {
    echo "cannot make two hosts here: $1" >&2
    exit 77
}

if [ "${1:-}" != --inside ]; then
    [ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    [ -f "$1/manifest.json" ] || { echo "error: there is no manifest.json in $1" >&2; exit 2; }
    for program in ip tc; do
        command -v "$program" >/dev/null || cannot "there is no $program; install Debian's package iproute2"
    done
    # Namespaces of networks, mounts and processes: all of it is gone with this process, however that ends.
    words=(unshare --net --mount --pid --fork --kill-child --mount-proc)
    [ "$(id -u)" = 0 ] || words+=(--map-root-user)
    reason=$("${words[@]}" true 2>&1) || cannot "$reason"
    exec "${words[@]}" "$BASH" "$script" --inside "$@"
fi

shift
shards=$(realpath "$1") work=$(realpath --canonicalize-missing "$2")
shift 2
cd "$(dirname "$script")/../.."
subnet=10.77.0 server=10.77.0.9

processes=()
finish() {
    for process in "${processes[@]}"; do
        kill -TERM "$process" 2>/dev/null || true
    done
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

in_host() {
    local host=$1
    shift
    exec nsenter "--net=/run/netns/$host" "$@"
}

# A host with one cable, `eth0`, to the bridge that stands in for a switch.
add_host() {
    local host=$1 address=$2 reason
    reason=$(ip netns add "$host" 2>&1) || cannot "$reason"
    reason=$(ip link add "to-$host" type veth peer name eth0 netns "$host" 2>&1) || cannot "$reason"
    ip link set "to-$host" master switch up
    ip -n "$host" address add "$address/24" dev eth0
    ip -n "$host" link set lo up
    ip -n "$host" link set eth0 up
    if [ -n "${SHAPE:-}" ]; then
        # shellcheck disable=SC2086  # words of tc
        reason=$(tc -n "$host" qdisc add dev eth0 root $SHAPE 2>&1) || cannot "tc refuses '$SHAPE': $reason"
    fi
}

reason=$(mount -t tmpfs none /run 2>&1) || cannot "$reason"
reason=$(ip link add switch type bridge 2>&1) || cannot "$reason"
ip link set switch up
add_host shards "$server"
add_host host0 "$subnet.1"
add_host host1 "$subnet.2"

(in_host shards python -m http.server --bind "$server" --directory "$shards" 8000 >/run/shards.log 2>&1) &
processes+=($!)
until (in_host host0 "$BASH" -c "exec 3<>/dev/tcp/$server/8000") 2>/dev/null; do
    kill -0 "${processes[0]}" 2>/dev/null || { echo "error: the shard server: $(tail -n 1 /run/shards.log)" >&2; exit 1; }
    sleep 0.1
done

export ACCELERATE_USE_CPU=true GLOO_SOCKET_IFNAME=eth0
declare -A hosts=()
for rank in 0 1; do
    (in_host "host$rank" accelerate launch --config_file launch/ddp_nodes.yaml --num_machines 2 --num_processes 2 \
        --machine_rank "$rank" --main_process_ip "$subnet.1" --main_process_port 29500 \
        trainer/main.py "$@" --data.train "http://$server:8000/manifest.json" --run.work "$work/host$rank") &
    processes+=($!)
    hosts[$!]=host$rank
done
# The first that fails ends the other one, which would wait for it.
while [ ${#hosts[@]} -gt 0 ]; do
    code=0
    wait -n -p ended "${!hosts[@]}" || code=$?
    [ $code -eq 0 ] || { echo "error: the training on ${hosts[$ended]} has ended with $code" >&2; exit "$code"; }
    unset "hosts[$ended]"
done
for host in host0 host1 shards; do
    echo "$host: $(tc -n "$host" -s qdisc show dev eth0 | tr -s ' \n' ' ')"
done
