"""SOCK_SEQPACKET over AF_UNIX keeps messages whole, tells of cut descriptors, and of the peer's PID and user.

Relied on by the protocol between switch and clients (native/io/daemon_linux.c, aiomultistack/_switch_session.py).
"""

import os
import socket
import struct
import tempfile

with tempfile.TemporaryDirectory() as folder:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(f"{folder}/s")
    server.listen(1)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(f"{folder}/s")
    peer, _ = server.accept()

pid, uid, gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
assert (pid, uid, gid) == (os.getpid(), os.geteuid(), os.getegid())

client.send(b"one")
client.send(b"another")
assert peer.recv(100) == b"one"
assert peer.recv(3) == b"ano"  # the rest is gone, and not taken for the next
client.send(b"third")
assert peer.recv(100) == b"third"

socket.send_fds(client, [b"two"], [0, 1])
_, descriptors, flags, _ = socket.recv_fds(peer, 100, 1)
assert flags & socket.MSG_CTRUNC or len(descriptors) == 2, (flags, descriptors)
client.close()
assert peer.recv(100) == b""
