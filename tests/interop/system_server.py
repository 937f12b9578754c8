"""A server on the kernel's own stack: what runs on a machine beside a user-space stack, knowing nothing of it.

python system_server.py PORT: HTTP (http.server) and a UDP echo on the port, on all addresses.
"""

from __future__ import annotations

import http.server
import socket
import sys
import threading


class Server(http.server.ThreadingHTTPServer):
    """On IPv6 and IPv4."""

    address_family = socket.AF_INET6
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with as many bytes as the path says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"k" * int(self.path[1:] or 0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def echo(sock: socket.socket) -> None:
    """Sends datagrams back."""
    while True:
        data, address = sock.recvfrom(65535)
        sock.sendto(data, address)


def main() -> None:
    """Serves until killed."""
    port = int(sys.argv[1])
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", port))
    threading.Thread(target=echo, args=[udp], daemon=True).start()
    Server(("::", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
