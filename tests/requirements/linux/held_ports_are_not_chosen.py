"""The kernel never chooses a port that a bound socket holds, neither for connect() nor for bind() to port 0.

Relied on by aiomultistack/_switch_lend.py: the ports that are lent to clients are held like this, so that the
system's own connections can't have them.
"""

import socket
from pathlib import Path

from system import set_up

set_up("lo")
Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("50000 50009")
held = []
for port in range(50000, 50009):  # all but the last
    sock = socket.socket()
    sock.bind(("0.0.0.0", port))
    held.append(sock)
server = socket.socket()
server.bind(("127.0.0.1", 80))
server.listen(10)
for _ in range(5):
    with socket.create_connection(("127.0.0.1", 80)) as client:
        assert client.getsockname()[1] == 50009
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # no TIME-WAIT
    server.accept()[0].close()
with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    assert sock.getsockname()[1] == 50009
