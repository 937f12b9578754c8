"""The fabric: who gets what, who may send what, and who pays for it."""

from __future__ import annotations

import os
import select
import socket

import psutil
import pytest
from aiomultistack._native import ffi, lib
from fabric_lab import (
    CONTROL,
    HOST,
    MAC,
    PEER4,
    PEER6,
    PEER_MAC,
    TCP_PROTO,
    UPLINK,
    US4,
    US6,
    Client,
    Fabric,
    Hub,
    datagram,
    endpoint,
    name_of,
    pair,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw


def readable(fd: int, timeout: float = 10) -> bool:
    """Whether fd becomes readable within some seconds; select() knows no high numbers."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


# ---- between clients --------------------------------------------------------------


@families
@pytest.mark.parametrize("size", [0, 1, 2, 3, 17, 22, 50, 51, 80, 86, 87, 200, 1000, 1400])
@pytest.mark.parametrize("tcp", ["", "A"])
def test_frames_arrive_byte_for_byte(v6: bool, size: int, tcp: str) -> None:
    with pair() as (fabric, one, two):
        frames = [datagram(1, 2, v6=v6, payload=os.urandom(size), tcp=tcp) for _ in range(5)]
        for frame in frames:
            assert one.send(frame) == "OK"
        fabric.run()
        assert two.receive() == frames
        assert one.receive() == []
        assert fabric.drops() == {}
        assert two.counters()["out_bytes"] == one.counters()["in_bytes"] == sum(map(len, frames))


@families
def test_a_foreign_source_never_leaves(v6: bool) -> None:
    with pair() as (fabric, one, two):
        forged = [datagram(2, 1, v6=v6), datagram(3, 2, v6=v6), datagram(1, 2, v6=v6, src_mac=PEER_MAC),
                  datagram(1, 2, v6=v6, src=PEER6 if v6 else PEER4)]
        for frame in forged:
            one.send(frame)
        fabric.run()
        assert two.receive() == one.receive() == []
        assert fabric.drops() == fabric.drops(one.index) == {"tx_tuple": 2, "tx_source_mac": 1, "tx_source_address": 1}


@families
def test_options_and_fragments_take_the_general_path(v6: bool) -> None:
    with pair() as (fabric, one, two):
        if v6:
            packets = [IPv6(src=US6, dst=US6) / UDP(sport=1, dport=2) / Raw(b"y" * 60)]
        else:
            packets = [IP(src=US4, dst=US4, options=[IPOption_NOP()] * 4) / UDP(sport=1, dport=2) / Raw(b"y" * 60),
                       *fragment(IP(src=US4, dst=US4, id=7) / UDP(sport=1, dport=2) / Raw(b"z" * 1200), 512)]
        frames = [bytes(Ether(src=MAC, dst=MAC) / packet) for packet in packets]
        for frame in frames:
            one.send(frame)
        fabric.run()
        assert two.receive() == frames


def test_a_full_receiver_loses_its_own_frames_only() -> None:
    with pair() as (fabric, one, two):
        three = fabric.attach()
        assert three.claim(3) == "OK"
        for _ in range(4):
            for _ in range(30):
                assert one.send(datagram(1, 2)) == "OK"
                assert one.send(datagram(1, 3)) == "OK"
            fabric.run()
            assert len(three.receive()) == 30
        assert len(two.receive()) == 63  # one slot stays unused
        assert fabric.drops(two.index) == {"out_full": 120 - 63}
        assert fabric.drops(one.index) == fabric.drops(three.index) == {}
        one.send(datagram(1, 2))
        fabric.run()
        assert len(two.receive()) == 1


def test_a_sender_s_ring_fills_up_and_empties() -> None:
    with pair() as (fabric, one, two):
        assert [one.send(datagram(1, 2)) for _ in range(64)] == ["OK"] * 63 + ["EAGAIN"]
        fabric.run()
        assert len(two.receive()) == 63
        assert readable(one.fds[2], 0)  # room is announced to who found none
        assert one.send(datagram(1, 2)) == "OK"


@families
def test_one_talks_to_itself(v6: bool) -> None:
    with pair() as (fabric, one, _):
        one.send(datagram(1, 1, v6=v6))
        fabric.run()
        assert one.receive() == [datagram(1, 1, v6=v6)]


@families
def test_a_wildcard_serves_all_addresses(v6: bool) -> None:
    with pair() as (fabric, one, two):
        assert two.claim(80, address="::" if v6 else "0.0.0.0") == "OK"
        frames = [datagram(1, 80, v6=v6), datagram(1, 80, v6=v6)]
        answers = [datagram(80, 1, v6=v6)] * 3
        for frame in frames:
            one.send(frame)
        for frame in answers:
            two.send(frame)
        two.send(datagram(80, 1, v6=v6, src=PEER6 if v6 else PEER4))
        fabric.run()
        assert two.receive() == frames
        assert one.receive() == answers
        assert fabric.drops() == {"tx_source_address": 1}


# ---- claims ---------------------------------------------------------------------------


def test_claims_are_exclusive_and_end_with_their_port() -> None:
    with pair() as (fabric, one, two):
        assert two.claim(1) == "EADDRINUSE"
        assert one.claim(1) == "OK"  # counted
        assert one.release(1) == "OK"
        assert two.claim(1) == "EADDRINUSE"
        assert two.release(1) == "EINVAL"
        assert two.claim(9, address="10.0.0.9") == "EADDRNOTAVAIL"
        fabric.detach(one)
        assert two.claim(1) == "OK"
        assert two.claim(1, protocol=TCP_PROTO) == "OK"


def test_port_numbers_are_claimed_together_or_not_at_all() -> None:
    def held(fabric: Fabric) -> int:
        return int(lib.ams_fabric_tuples(fabric.handle, ffi.NULL, 0))

    def together(fabric: Fabric, client: Client, first: int, number: int) -> str:
        wanted = endpoint(US4, first)
        return name_of(lib.ams_fabric_claim_ports(fabric.handle, client.index, socket.IPPROTO_UDP, wanted, number, 0))

    with pair() as (fabric, one, two):
        before = held(fabric)
        assert two.claim(1300, address=US4) == "OK"
        assert together(fabric, one, 1100, 256) == "EADDRINUSE"  # up to 1355
        assert held(fabric) == before + 1
        assert together(fabric, one, 1044, 256) == "OK"  # up to 1299
        assert held(fabric) == before + 257
        assert two.claim(1044, address=US4) == two.claim(1299, address=US4) == "EADDRINUSE"
        for first, number in ((1100, 0), (1100, -1), (65535, 2)):
            assert together(fabric, one, first, number) == "EINVAL"
        assert together(fabric, one, 65535, 1) == "OK"
        fabric.detach(one)
        assert two.claim(1044, address=US4) == "OK"


def test_what_was_released_no_longer_passes() -> None:
    with pair() as (fabric, one, two):
        one.send(datagram(1, 2))
        fabric.run()
        assert one.release(1) == "OK"
        one.send(datagram(1, 2))
        fabric.run()
        assert fabric.drops() == {"tx_tuple": 1}
        assert two.release(2) == "OK"
        assert one.claim(2) == "OK"
        one.send(datagram(2, 2))
        fabric.run()
        assert len(two.receive()) == 1
        assert len(one.receive()) == 1


def test_addresses_come_and_go() -> None:
    with pair() as (fabric, one, two):
        assert fabric.serve("10.0.0.77", 24) == "OK"
        assert two.claim(5, address="10.0.0.77") == "OK"
        one.send(datagram(1, 5, dst="10.0.0.77"))
        fabric.run()
        assert len(two.receive()) == 1
        assert name_of(lib.ams_fabric_remove_address(fabric.handle, endpoint("10.0.0.77", 0))) == "OK"
        assert name_of(lib.ams_fabric_remove_address(fabric.handle, endpoint("10.0.0.77", 0))) == "EADDRNOTAVAIL"
        assert two.claim(5, address="10.0.0.77") == "EADDRNOTAVAIL"
        two.send(datagram(5, 1, src="10.0.0.77"))
        fabric.run()
        assert fabric.drops() == {"tx_source_address": 1}
        assert two.release(2) == "OK"


def test_tuples_are_listed() -> None:
    with pair() as (fabric, one, two):
        out = ffi.new("struct ams_fabric_tuple[]", 32)
        assert two.claim(7, group=True, address=US4) == one.claim(7, group=True, address=US4) == "OK"
        n = lib.ams_fabric_tuples(fabric.handle, out, 32)
        listed = sorted((out[i].local.port, out[i].protocol, out[i].index, out[i].group) for i in range(n))
        first, second = one.index, two.index
        assert listed == sorted([(1, 6, first, 0), (1, 17, first, 0)] * 2 + [(2, 6, second, 0), (2, 17, second, 0)] * 2
                                + [(7, 17, first, 1), (7, 17, second, 1)])
        assert lib.ams_fabric_tuples(fabric.handle, out, 0) == n


def test_limits_hold() -> None:
    with Fabric(max_clients=2, max_slots=128, max_claims=1) as fabric:
        one, _ = fabric.attach(), fabric.attach(flags=lib.AMS_ATTACH_CONTROL)
        with pytest.raises(OSError, match="EMFILE"):
            fabric.attach()
        with pytest.raises(OSError, match="EINVAL"):
            fabric.attach(tx_slots=129)
        assert one.claim(1, address=US4) == "OK"
        assert one.claim(2, address=US4) == "EMFILE"
        fabric.detach(one)
        with pytest.raises(OSError, match="EBUSY"):
            fabric.attach(flags=lib.AMS_ATTACH_CONTROL)
        assert fabric.attach().index == one.index


# ---- uplink, host, control --------------------------------------------------------------


@families
def test_the_uplink_carries_what_is_for_others(wire: Hub, v6: bool) -> None:
    with pair(uplink=wire.config) as (fabric, one, two):
        there = datagram(1, 99, v6=v6, dst=PEER6 if v6 else PEER4, dst_mac=PEER_MAC)
        back = datagram(99, 1, v6=v6, src=PEER6 if v6 else PEER4, src_mac=PEER_MAC)
        one.send(there)
        one.send(datagram(2, 99, v6=v6, dst=PEER6 if v6 else PEER4, dst_mac=PEER_MAC))
        fabric.run()
        assert wire.receive() == [there]
        wire.send(back)
        fabric.run()
        assert one.receive() == [back]
        assert two.receive() == []
        assert fabric.drops() == {"tx_tuple": 1}
        assert fabric.counters(UPLINK) == {"in_frames": 1, "in_bytes": len(back), "out_frames": 1,
                                           "out_bytes": len(there)}


def test_what_is_for_the_addresses_waits_for_the_control_plane(wire: Hub) -> None:
    with pair(uplink=wire.config) as (fabric, one, two):
        request = bytes(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=PEER_MAC, psrc=PEER4, pdst=US4))
        ping = bytes(Ether(src=PEER_MAC, dst=MAC) / IP(src=PEER4, dst=US4) / ICMP())
        syn = datagram(9, 12345, src=PEER4, src_mac=PEER_MAC, tcp="S")
        for frame in (request, ping, syn):
            wire.send(frame)
        fabric.run()
        assert fabric.punted() == [(UPLINK, request), (UPLINK, ping), (UPLINK, syn)]
        assert one.receive() == two.receive() == []
        reply = bytes(Ether(src=MAC, dst=PEER_MAC) / ARP(op=2, hwsrc=MAC, psrc=US4, hwdst=PEER_MAC, pdst=PEER4))
        assert lib.ams_fabric_inject(fabric.handle, UPLINK, reply, len(reply)) == 0
        assert wire.receive() == [reply]
        assert name_of(lib.ams_fabric_inject(fabric.handle, HOST, reply, len(reply))) == "EINVAL"


def test_the_control_plane_s_frames_go_where_they_are_addressed_to(wire: Hub) -> None:
    with pair(uplink=wire.config) as (fabric, one, two):
        assert two.claim(200) == "OK"
        out = bytes(Ether(src=MAC, dst=PEER_MAC) / IP(src=US4, dst=PEER4) / ICMP())
        mine, nobody_s = datagram(9, 200, src=PEER4), datagram(9, 201, src=PEER4)
        for frame in (out, mine, nobody_s):
            assert lib.ams_fabric_inject(fabric.handle, CONTROL, frame, len(frame)) == 0
        fabric.run()
        assert wire.receive() == [out]
        assert (one.receive(), two.receive()) == ([], [mine])


def test_a_client_asks_the_control_plane_for_neighbours_and_cannot_lie(wire: Hub) -> None:
    with pair(uplink=wire.config) as (fabric, one, _):
        broadcast = "ff:ff:ff:ff:ff:ff"
        honest = [
            bytes(Ether(src=MAC, dst=broadcast) / ARP(hwsrc=MAC, psrc=US4, pdst=PEER4)),
            bytes(Ether(src=MAC, dst="33:33:ff:00:00:02") / IPv6(src=US6, dst="ff02::1:ff00:2", hlim=255)
                  / ICMPv6ND_NS(tgt=PEER6) / ICMPv6NDOptSrcLLAddr(lladdr=MAC)),
        ]
        lies = [
            bytes(Ether(src=MAC, dst=broadcast) / ARP(hwsrc=MAC, psrc=PEER4, pdst=US4)),
            bytes(Ether(src=MAC, dst=broadcast) / ARP(op=2, hwsrc=PEER_MAC, psrc=US4, pdst=PEER4)),
            bytes(Ether(src=PEER_MAC, dst=broadcast) / ARP(hwsrc=PEER_MAC, psrc=US4, pdst=PEER4)),
        ]
        for frame in honest + lies:
            one.send(frame)
        fabric.run()
        assert fabric.punted() == [(one.index, frame) for frame in honest]
        assert wire.receive() == []
        assert fabric.drops() == {"tx_arp": 2, "tx_source_mac": 1}
        answer = bytes(Ether(src=PEER_MAC, dst=MAC) / ARP(op=2, hwsrc=PEER_MAC, psrc=PEER4, hwdst=MAC, pdst=US4))
        assert lib.ams_fabric_inject(fabric.handle, one.index, answer, len(answer)) == 0
        assert one.receive() == [answer]


def test_one_client_cannot_fill_the_control_plane_s_queue() -> None:
    with pair(punt_frames=80) as (fabric, one, two):
        ask = bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=MAC, psrc=US4, pdst=PEER4))
        for _ in range(20):
            one.send(ask)
        two.send(ask)
        fabric.run()
        assert [index for index, _ in fabric.punted()] == [one.index] * 10 + [two.index]
        assert fabric.drops() == fabric.drops(one.index) == {"punt_full": 10}
        fd = lib.ams_fabric_punt_fd(fabric.handle)
        assert not readable(fd, 0)
        one.send(ask)
        fabric.run()
        assert readable(fd, 0)


def test_a_control_owner_speaks_for_the_addresses(wire: Hub) -> None:
    with pair(uplink=wire.config) as (fabric, one, _):
        control = fabric.attach(flags=lib.AMS_ATTACH_CONTROL)
        ping = bytes(Ether(src=PEER_MAC, dst=MAC) / IP(src=PEER4, dst=US4) / ICMP())
        pong = bytes(Ether(src=MAC, dst=PEER_MAC) / IP(src=US4, dst=PEER4) / ICMP(type=0))
        wire.send(ping)
        fabric.run()
        assert control.receive() == [ping]
        control.send(pong)
        one.send(pong)
        fabric.run()
        assert wire.receive() == [pong]
        assert fabric.punted() == [(one.index, pong)]
        fabric.detach(control)
        wire.send(ping)
        fabric.run()
        assert fabric.punted() == [(UPLINK, ping)]


def test_broadcasts_reach_the_wire_and_whom_they_concern(wire: Hub) -> None:
    with pair(uplink=wire.config) as (fabric, one, two):
        assert two.claim(67, address="0.0.0.0") == "OK"
        frame = datagram(1, 67, dst="10.0.0.255", dst_mac="ff:ff:ff:ff:ff:ff")
        one.send(frame)
        fabric.run()
        assert wire.receive() == two.receive() == [frame]
        assert one.receive() == []


def test_nowhere_to_go_is_counted() -> None:
    with pair() as (fabric, one, _):
        one.send(datagram(1, 99, dst=PEER4, dst_mac=PEER_MAC))
        fabric.run()
        assert fabric.drops(one.index) == {"nowhere": 1}


# ---- groups -----------------------------------------------------------------------------


def receivers(fabric: Fabric, sender: Client, members: list[Client], *, v6: bool, flags: str) -> dict[int, int]:
    """Which member gets each of 200 connections' segments."""
    got: dict[int, int] = {}
    for port in range(1000, 1200):
        assert sender.claim(port, protocol=TCP_PROTO) in ("OK",)
        sender.send(datagram(port, 80, v6=v6, tcp=flags))
        fabric.run()
        for member in members:
            for frame in member.receive():
                assert port not in got
                got[Ether(frame)[TCP].sport] = member.index
    return got


@families
def test_connections_of_a_group_spread_and_stay(v6: bool) -> None:
    with Fabric(max_flows=4096) as fabric:
        sender, *workers = [fabric.attach() for _ in range(4)]
        for worker in workers:
            assert worker.claim(80, protocol=TCP_PROTO, group=True) == "OK"
        assert sender.claim(80, protocol=TCP_PROTO) == "EADDRINUSE"
        first = receivers(fabric, sender, workers, v6=v6, flags="S")
        assert len(first) == 200
        for worker in workers:
            assert list(first.values()).count(worker.index) > 30
        for port, index in first.items():  # each worker answers, and the connections are known
            worker = next(worker for worker in workers if worker.index == index)
            worker.send(datagram(80, port, v6=v6, tcp="SA"))
            worker.send(datagram(80, port, v6=v6, tcp="A"))
            fabric.run()
            worker.receive()
            sender.receive()
        newcomer = fabric.attach()
        assert newcomer.claim(80, protocol=TCP_PROTO, group=True) == "OK"
        workers.append(newcomer)
        assert receivers(fabric, sender, workers, v6=v6, flags="A") == first  # nobody moved
        fabric.detach(workers.pop(0))
        second = receivers(fabric, sender, workers, v6=v6, flags="A")
        alive = {worker.index for worker in workers}
        assert {port: index for port, index in second.items() if first[port] in alive} == {
            port: index for port, index in first.items() if index in alive
        }
        assert set(second.values()) == alive
        assert fabric.drops() == {}


def test_the_last_member_takes_the_group_along() -> None:
    with Fabric() as fabric:
        one, two, three = (fabric.attach() for _ in range(3))
        assert one.claim(80, group=True) == two.claim(80, group=True) == "OK"
        assert one.claim(80, group=True) == "OK"
        assert one.release(80) == two.release(80) == "OK"
        assert three.claim(80) == "EADDRINUSE"
        assert two.release(80) == "EINVAL"
        assert one.release(80) == "OK"
        assert three.claim(80) == "OK"
        assert one.claim(80, group=True) == "EADDRINUSE"


def test_an_outsider_sends_nothing_from_a_group_s_tuple() -> None:
    with pair() as (fabric, one, two):
        assert one.claim(80, group=True) == "OK"
        one.send(datagram(80, 2))
        two.send(datagram(80, 1))
        fabric.run()
        assert len(two.receive()) == 1
        assert one.receive() == []
        assert fabric.drops() == {"tx_tuple": 1}


# ---- capture -----------------------------------------------------------------------------


def test_capture_shows_both_sides_and_why_frames_were_dropped(wire: Hub) -> None:
    with pair(uplink=wire.config) as (fabric, one, two):
        good, bad = datagram(1, 2, payload=b"p" * 300), datagram(2, 1)
        out = datagram(1, 99, dst=PEER4, dst_mac=PEER_MAC)
        assert lib.ams_fabric_capture(fabric.handle, -1, 200, 100) == 0
        for frame in (good, bad, out):
            one.send(frame)
        fabric.run()
        assert fabric.captured() == [
            (one.index, False, "", good[:200]), (two.index, True, "", good[:200]),
            (one.index, False, "tx_tuple", bad),
            (one.index, False, "", out), (UPLINK, True, "", out),
        ]
        assert lib.ams_fabric_capture(fabric.handle, two.index, 2000, 2) == 0
        for _ in range(3):
            one.send(good)
        one.send(out)
        fabric.run()
        assert fabric.captured() == [(two.index, True, "", good)] * 2
        assert lib.ams_fabric_capture_lost(fabric.handle) == 1
        assert lib.ams_fabric_capture(fabric.handle, -1, 0, 0) == 0
        one.send(good)
        fabric.run()
        assert fabric.captured() == []


# ---- life cycle ----------------------------------------------------------------------------


def test_ports_come_and_go_without_growth() -> None:
    with Fabric() as fabric:
        client = fabric.attach(tx_slots=8, rx_slots=8)
        fabric.detach(client)
        before = len(os.listdir("/proc/self/fd"))
        memory = psutil.Process().memory_info().rss
        frame = datagram(1, 1)
        for round_ in range(10_000):
            client = fabric.attach(tx_slots=8, rx_slots=8)
            assert client.index == lib.AMS_FABRIC_CLIENTS
            assert client.claim(1, address=US4) == client.claim(2, address=US6, group=bool(round_ % 2)) == "OK"
            if round_ % 50 == 0:
                client.send(frame)
                fabric.run()
            fabric.detach(client)
        assert len(os.listdir("/proc/self/fd")) == before
        assert psutil.Process().memory_info().rss < memory + (8 << 20)
        assert fabric.counters()["in_frames"] == 200


def test_256_ports_at_once() -> None:
    with Fabric(max_clients=256) as fabric:
        clients = [fabric.attach(tx_slots=8, rx_slots=8) for _ in range(256)]
        for number, client in enumerate(clients, 1):
            assert client.claim(number, address=US4) == "OK"
        fabric.start()
        for number, client in enumerate(clients, 1):
            client.send(datagram(number, number % 256 + 1))
        for number, client in enumerate(clients, 1):
            client.open() if not client.port else None
            assert readable(client.fds[2])
            assert client.receive() == [datagram((number - 2) % 256 + 1, number)]
        lib.ams_fabric_stop(fabric.handle)


def test_memory_reads_as_zeros_after_a_detach() -> None:
    with pair() as (fabric, one, _):
        rings = one.rings()
        assert rings.field(rings.tx, "num_slots") == 64
        assert lib.ams_fabric_detach(fabric.handle, one.index) == 0
        assert rings.field(rings.tx, "num_slots") == 0
        rings.close()
        one.close()
        fabric.clients.remove(one)


def test_the_thread_serves_calls_and_stops() -> None:
    with pair() as (fabric, one, two):
        fabric.start()
        assert name_of(lib.ams_fabric_start(fabric.handle)) == "EBUSY"
        assert name_of(lib.ams_fabric_poll(fabric.handle, 0)) == "EBUSY"
        for _ in range(100):
            two.open() if not two.port else None
            one.send(datagram(1, 2))
            assert readable(two.fds[2])
            assert len(two.receive()) == 1
        lib.ams_fabric_stop(fabric.handle)
        one.send(datagram(1, 2))
        fabric.run()
        assert len(two.receive()) == 1
        fabric.start()


def test_a_region_cannot_be_shrunk() -> None:
    with pair() as (_, one, _two):
        for size in (0, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(one.fds[0], size)


@pytest.mark.parametrize(("spec", "word"), [
    ("shm:", "three file descriptors"), ("shm:1", "three"), ("shm:1,2,x", "three"), ("shm:999,998,997", "no rings"),
    ("shm:0,0,0", "no rings"), ("shm:-1,2,3", "three"),
])
def test_bad_descriptors_are_refused(spec: str, word: str) -> None:
    error = ffi.new("char[]", 256)
    out = ffi.new("struct ams_port **")
    name = ffi.new("char[]", spec.encode())
    assert lib.ams_port_open(out, ffi.new("struct ams_port_config *", {"spec": name}), error, len(error)) < 0
    assert word in ffi.string(error).decode()


@pytest.mark.parametrize(("config", "word"), [
    ({"max_clients": 5000}, "4096"), ({"tx_slots": 4}, "slots"), ({"mtu": 20000}, "MTU"),
    ({"uplink": ("tap:a/b", ffi.NULL)}, "a/b"), ({"host": ("nothing:x", ffi.NULL)}, "nothing"),
])
def test_bad_configurations_say_what_is_wrong(config: dict[str, object], word: str) -> None:
    with pytest.raises(OSError, match=word):
        Fabric(**config)
