"""Config: fields, sources and their precedence, and what it says when something is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import aiomultistack
from aiomultistack import Config, ConfigError, Hub, PortError
from aiomultistack._config import FIELDS

GOOD: dict[str, Any] = {"port": "mem:config", "addresses": ["10.9.0.2/24", "fd09::2/64"]}


@pytest.fixture(autouse=True)
def empty_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours, no file."""
    for name in FIELDS:
        monkeypatch.delenv(f"AIOMULTISTACK_{name.upper()}", raising=False)
    monkeypatch.delenv("AIOMULTISTACK_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def test_fields_are_normalised() -> None:
    config = Config("tap:x", "10.9.0.2/24, fd09::2/64", "10.9.0.1,fd09::1", host_addresses=["10.9.0.1/24"])
    assert config.addresses == ("10.9.0.2/24", "fd09::2/64")
    assert config.gateway == ("10.9.0.1", "fd09::1")
    assert config.host_addresses == ("10.9.0.1/24",)
    assert config.scheme == "tap"
    assert config.port_name == "x"


def test_is_frozen_comparable_and_replaceable() -> None:
    config = Config(**GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = "mem:other"  # type: ignore[misc]
    assert config == Config(**GOOD)
    assert config.replace(mtu=9000).mtu == 9000
    assert config.replace(mtu=9000).addresses == config.addresses
    assert "mem:config" in repr(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": "ams0"}, "write 'tap:ams0'"),
        ({"port": "bogus:x"}, "not one of tap:NAME, xdp:INTERFACE, netmap:INTERFACE, switch:PATH, mem:NAME"),
        ({"port": "tap:"}, "not one of"),
        ({"port": 7}, "must be text"),
        ({"addresses": ["10.9.0.2"]}, "needs a prefix length, such as 10.9.0.2/24"),
        ({"addresses": ["fd09::2"]}, "such as fd09::2/64"),
        ({"addresses": ["10.9.0.256/24"]}, "not an address"),
        ({"addresses": ["10.9.0.2/33"]}, "not an address"),
        ({"addresses": ["224.0.0.1/24"]}, "unicast"),
        ({"port": "tap:ams0", "addresses": ["127.0.0.1/8"]}, "unicast"),
        ({"addresses": ["10.9.0.255/24"]}, "unicast"),
        ({"addresses": ["10.9.0.0/24"]}, "unicast"),
        ({"addresses": ["255.255.255.255/32"]}, "unicast"),
        ({"addresses": ["::ffff:10.9.0.2/120"]}, "unicast"),
        ({"addresses": ["fe80::1%eth0/64"]}, "zone"),
        ({"congestion": 5}, "must be a name"),
        ({"addresses": ["10.9.0.2/24", "10.9.0.2/16"]}, "twice"),
        ({"addresses": 7}, "must be a list"),
        ({"gateway": "10.9.0.300"}, "not an IP address"),
        ({"gateway": "10.8.0.1"}, "in no network of addresses"),
        ({"gateway": "10.9.0.1,10.9.0.3"}, "only one IPv4 gateway"),
        ({"host_addresses": ["10.9.0.1/24"]}, "for tap: ports"),
        ({"port": "tap:x", "host_addresses": ["10.9.0.2/24"]}, "10.9.0.2 is among addresses and host_addresses"),
        ({"host_stack": "maybe"}, "'no' or 'also'"),
        ({"base": "trio"}, "'auto' or 'uvloop' or 'asyncio'"),
        ({"mac": "02-00"}, "must look like"),
        ({"mac": "03:00:00:00:00:01"}, "group address"),
        ({"mtu": 100}, "too small"),
        ({"mtu": 70_000}, "from 0 to 65535"),
        ({"mtu": "1500"}, "must be a number"),
        ({"seed": -1}, "seed must be"),
        ({"backlog": True}, "must be a number"),
        ({"offload": "yes"}, "true or false"),
        ({"time_wait": -1}, "seconds from 0"),
        ({"ephemeral_ports": (5, 4)}, "first and last port"),
        ({"ephemeral_ports": 4}, "first and last port"),
        ({"ephemeral_ports": (1.5, 4)}, "first and last port"),
    ],
)
def test_bad_values_say_what_to_do(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**{**GOOD, **fields})


def test_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, aiomultistack.MultistackError)


def test_nothing_configured() -> None:
    with pytest.raises(ConfigError, match="AIOMULTISTACK_PORT"):
        aiomultistack.new_event_loop()
    with pytest.raises(ConfigError, match="has no addresses"):
        aiomultistack.new_event_loop(Config("mem:x"))
    with pytest.raises(ConfigError, match="no port"):
        aiomultistack.new_event_loop(Config(addresses=["10.9.0.2/24"]))


def test_environment() -> None:
    config = Config.from_env(
        {
            "AIOMULTISTACK_PORT": "mem:env",
            "AIOMULTISTACK_ADDRESSES": "10.9.0.2/24,fd09::2/64",
            "AIOMULTISTACK_GATEWAY": "10.9.0.1",
            "AIOMULTISTACK_MTU": "9_000",
            "AIOMULTISTACK_SEED": "0x10",
            "AIOMULTISTACK_OFFLOAD": "off",
            "AIOMULTISTACK_TIME_WAIT": "1.5",
            "AIOMULTISTACK_EPHEMERAL_PORTS": "40000-50000",
            "UNRELATED": "1",
        }
    )
    assert config == Config(
        "mem:env", ["10.9.0.2/24", "fd09::2/64"], "10.9.0.1", mtu=9000, seed=16, offload=False, time_wait=1.5,
        ephemeral_ports=(40_000, 50_000),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AIOMULTISTACK_MTU", "big", "AIOMULTISTACK_MTU='big'"),
        ("AIOMULTISTACK_OFFLOAD", "perhaps", "neither 1, true"),
        ("AIOMULTISTACK_ADDRESS", "10.9.0.2/24", "did you mean 'AIOMULTISTACK_ADDRESSES'"),
    ],
)
def test_bad_environment(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_env({variable: value})


def test_every_field_has_a_variable() -> None:
    samples = {
        "port": "mem:x", "addresses": "10.9.0.2/24", "gateway": "10.9.0.1", "host_addresses": "", "host_stack": "also",
        "mac": "02:00:00:00:00:01", "mtu": "1400", "congestion": "newreno", "ecn": "ask", "seed": "1", "sndbuf": "1000",
        "rcvbuf": "1000", "sndbuf_max": "1000", "rcvbuf_max": "1000", "backlog": "7", "max_connections": "9",
        "time_wait": "2", "ephemeral_ports": "1000-2000", "offload": "no", "user_timeout_option": "yes",
        "pacing": "on",
        "dad": "yes", "base": "asyncio", "control": "0", "dns": "10.9.0.1,[fd09::1]:54", "dns_search": "example.org",
        "dns_timeout": "2.5", "autoconf": "yes", "autoconf_secret": "one", "redirects": "all",
    }  # fmt: skip
    assert samples.keys() == FIELDS.keys()
    config = Config.from_env({f"AIOMULTISTACK_{name.upper()}": text for name, text in samples.items()})
    defaults = Config()
    unchanged = [name for name in FIELDS if getattr(config, name) == getattr(defaults, name)]
    assert unchanged == ["host_addresses"]


@pytest.mark.parametrize("table", ["", "[aiomultistack]\n"])
def test_file(tmp_path: Path, table: str) -> None:
    path = tmp_path / "aiomultistack.toml"
    path.write_text(f'{table}port = "mem:file"\naddresses = ["10.9.0.2/24"]\nmtu = 1400\noffload = false\n')
    expected = Config("mem:file", ["10.9.0.2/24"], mtu=1400, offload=False)
    assert Config.from_file(path) == expected
    assert Config.load() == expected


def test_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text('port = "mem:file"\naddresses = ["10.9.0.2/24"]\nmtu = 1400\nsndbuf = 1000\n')
    monkeypatch.setenv("AIOMULTISTACK_CONFIG", str(path))
    monkeypatch.setenv("AIOMULTISTACK_MTU", "1450")
    monkeypatch.setenv("AIOMULTISTACK_PORT", "mem:env")
    config = Config.load(port="mem:explicit")
    assert (config.port, config.mtu, config.sndbuf) == ("mem:explicit", 1450, 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [("port = ", "is not TOML"), ("prot = 'mem:x'", "did you mean 'port'"), ("mtu = 'x'", "must be a number")],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "aiomultistack.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Config.load()


def test_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOMULTISTACK_CONFIG", "/nowhere/at/all.toml")
    with pytest.raises(ConfigError, match=r"cannot read /nowhere/at/all\.toml"):
        Config.load()


# ---- what the engine refuses ----------------------------------------------------------------------------------


def test_a_switch_that_is_not_there() -> None:
    with pytest.raises(PortError, match="no switch answers at /run/nowhere/x: start one"):
        aiomultistack.new_event_loop(Config("switch:/run/nowhere/x"))


def test_unknown_congestion_control() -> None:
    with pytest.raises(ConfigError, match=r"there is no 'vegas-is-not-here'; there are .*cubic"):
        aiomultistack.new_event_loop(Config(**GOOD, congestion="vegas-is-not-here"))


def test_something_else_for_a_configuration() -> None:
    with pytest.raises(TypeError, match=r"must be an aiomultistack\.Config, not 'tap:ams0'"):
        aiomultistack.new_event_loop("tap:ams0")  # type: ignore[arg-type]


def test_both_addresses_of_a_link_of_two() -> None:
    assert Config("mem:config", ["10.9.0.0/31", "10.9.0.2/32"]).addresses == ("10.9.0.0/31", "10.9.0.2/32")


# ---- hubs ---------------------------------------------------------------------------------------------------


def test_hub_names_are_unique_while_in_use() -> None:
    hub = Hub("unique", loss=0.1)
    with pytest.raises(ConfigError, match="exists already"):
        Hub("unique")
    hub.impair(loss=0.2)
    del hub
    Hub("unique")


def test_a_port_keeps_its_hub() -> None:
    loop = aiomultistack.new_event_loop(Config("mem:kept", ["10.9.0.2/24"], control=False))
    with pytest.raises(ConfigError, match="exists already"):
        Hub("kept")
    loop.close()
    del loop
    Hub("kept")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 1.5}, "probability"),
        ({"delay": -1.0}, "negative"),
        ({"mtu": 10}, "mtu must be"),
        ({"name": ""}, "needs a name"),
    ],
)
def test_bad_hubs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Hub(**{"name": "bad", **options})


def test_offloading_hub_cannot_be_impaired() -> None:
    hub = Hub("clean")
    with pytest.raises(ConfigError, match="offload=False"):
        hub.impair(loss=0.1)
    Hub("dirty", offload=False).impair(loss=0.1)
