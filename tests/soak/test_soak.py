"""A short soak in virtual time; the long ones are commands, see soak.py."""

from __future__ import annotations

import pytest

from . import soak


@pytest.mark.timeout(180)
def test_some_minutes_of_mixed_load_on_a_bad_link() -> None:
    tally, counters, _ = soak.virtual(seed=3, minutes=8.5, epochs=3, workers=5)
    for action in ("echo", "tls", "half-close", "source", "slow reader", "refused", "cancelled", "udp"):
        assert tally[f"{action}: done"] > 0, tally
    assert counters["stack.tcp_retrans"] > 0
