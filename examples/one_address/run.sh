#!/bin/sh
# One NIC with one IP address, and three servers on it: Python's http.server on the kernel's TCP, aiohttp and
# uvicorn on user-space TCP in two processes of their own.  The NIC is one end of a veth pair in a network
# namespace; clients are in another one, at its other end.  Shows it, and leaves nothing behind.
#
#   sudo examples/one_address/run.sh [PYTHON]
#
# PYTHON has aiomultistack, aiohttp and uvicorn installed; without uvicorn, aiohttp stands in for it.
set -eu
python=${1:-python3}
here=$(cd "$(dirname "$0")" && pwd)
server=ams-server-$$
client=ams-client-$$
work=$(mktemp -d)
socket=$work/switch.sock
pids=

cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait
    ip netns delete "$server" 2>/dev/null || true
    ip netns delete "$client" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

# start COMMAND...: in the server's namespace, in the background.
start() {
    ip netns exec "$server" "$@" >>"$work/log" 2>&1 &
    pids="$pids $!"
}

# fetch URL: from the client's namespace; waits until the server is there.
fetch() {
    ip netns exec "$client" curl --silent --retry 40 --retry-delay 1 --retry-connrefused --max-time 5 "$1" ||
        { cat "$work/log" >&2; exit 1; }
}

ip netns add "$server"
ip netns add "$client"
ip -n "$server" link add eth0 type veth peer name eth0 netns "$client"
for name in "$server" "$client"; do
    ip -n "$name" link set lo up
    ip -n "$name" link set eth0 up
done
ip -n "$server" address add 192.0.2.1/24 dev eth0
ip -n "$server" address add 2001:db8::1/64 dev eth0 nodad
ip -n "$client" address add 192.0.2.2/24 dev eth0
ip -n "$client" address add 2001:db8::2/64 dev eth0 nodad

echo "http.server on the kernel's TCP" >"$work/index.html"
start "$python" -m http.server 8000 --bind :: --directory "$work"
start "$python" -m aiomultistack switch --uplink xdp:eth0 --socket "$socket"
while [ ! -S "$socket" ]; do sleep 0.1; done
start "$python" -m aiomultistack run --port "switch:$socket" "$here/aiohttp_app.py" 8001
if "$python" -c 'import uvicorn' 2>/dev/null; then
    for host in 0.0.0.0 ::; do
        start "$python" -m aiomultistack run --port "switch:$socket" \
            -m uvicorn --app-dir "$here" asgi_app:app --host "$host" --port 8002
    done
else
    start "$python" -m aiomultistack run --port "switch:$socket" "$here/aiohttp_app.py" 8002
fi

for port in 8000 8001 8002; do
    for host in 192.0.2.1 '[2001:db8::1]'; do
        printf 'http://%s:%s/  ' "$host" "$port"
        fetch "http://$host:$port/"
    done
done
echo
"$python" -m aiomultistack ports --socket "$socket"
echo
"$python" -m aiomultistack tuples --socket "$socket"
