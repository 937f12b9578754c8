"""netmap ports without netmap: the driver on the device of tests/native/netmap_fake.h."""

from __future__ import annotations

import importlib.util
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cffi
from port_segment import Port, PortError

TOP = Path(__file__).resolve().parents[2]
ROOMS = ("core", "wire", "switch")
DRIVER = ("clock", "port", "ring", "pages_linux", "claims", "claims_linux", "link_mark", "waitset_linux", "netmap",
          "netmap_name", "netmap_open", "netmap_share")
FUNCTIONS = """
    struct fake;
    struct fake *fake_netmap_new(void);
    void fake_netmap_free(struct fake *fake);
    int fake_netmap_open(struct fake *fake, struct ams_port **port, const char *name, char *error, size_t size);
    void fake_netmap_poll(struct fake *fake);
"""


def _declarations() -> str:
    """What native/build_ffi.py reads from the public header."""
    spec = importlib.util.spec_from_file_location("build_ffi", TOP / "native" / "build_ffi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.declarations())


@cache
def library() -> tuple[Any, Any]:
    """cffi's view of the driver with the fake, compiled once a session, and the library."""
    files = [path for room in ROOMS for path in sorted((TOP / "native" / room).glob("*.c"))]
    files += [TOP / "native" / "io" / f"{name}.c" for name in DRIVER]
    with TemporaryDirectory() as out:
        path = Path(out, "fake_netmap.so")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-std=gnu11", "-O0", "-Wall", "-Wno-unused-parameter",
             f"-I{TOP}/native", f"-I{TOP}/native/include", f"-I{TOP}/tests/native", "-o", str(path),
             str(TOP / "tests" / "io" / "fake_netmap.c"), *map(str, files)],
            check=True,
        )
        ffi = cffi.FFI()
        ffi.cdef(_declarations() + FUNCTIONS)
        return ffi, ffi.dlopen(str(path))


class FakePort(Port):
    """A port on a fake device."""

    def __init__(self, fake: Any, name: str) -> None:
        self.ffi, self.lib = library()
        self.fake = fake
        error = self.ffi.new("char[]", 256)
        out = self.ffi.new("struct ams_port **")
        status = self.lib.fake_netmap_open(fake, out, name.encode(), error, len(error))
        if status < 0:
            raise PortError(status, self.ffi.string(error).decode())
        self.handle = out[0]

    def readable(self, timeout: float = 0) -> bool:
        """As `Port.readable`, after what poll() does in a real kernel."""
        self.lib.fake_netmap_poll(self.fake)
        return super().readable(timeout)


class FakePipe:
    """Both ends of a pipe: a `Segment`."""

    def __init__(self) -> None:
        self.lib = library()[1]
        self.fake = self.lib.fake_netmap_new()
        self.port = FakePort(self.fake, "eth0{1")
        self.peer = FakePort(self.fake, "eth0}1")

    def peer_send(self, frame: bytes) -> None:
        """Sends a frame towards the port."""
        assert self.peer.send(frame) == "OK"

    def peer_recv(self) -> bytes:
        """The next test frame from the port."""
        return self.peer.recv()

    def again(self) -> Port:
        """Another port on the device."""
        return FakePort(self.fake, "eth0{2")

    def close(self) -> None:
        """Gives everything back."""
        self.port.close()
        self.peer.close()
        self.lib.fake_netmap_free(self.fake)
