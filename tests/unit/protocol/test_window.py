from __future__ import annotations

import pytest

from sealos_devbox._protocol.window import MAX_LIMIT, MIN_WINDOW, ReceiveWindow

FRAME = 64 * 1024


def simulate(window: ReceiveWindow, *, rate: float, rtt: float, seconds: float) -> float:
    """One stream over a link that carries `rate`: what is granted arrives a round trip later."""
    now = 0.0
    window.streams = 1
    window.measured_rtt(rtt, now)
    window.reserve(MIN_WINDOW, now)
    in_flight = [(rtt, FRAME) for _ in range(MIN_WINDOW // FRAME)]
    free_at = rtt
    delivered = 0
    while in_flight and now < seconds:
        arrival, size = in_flight.pop(0)
        now = max(now, arrival)
        window.release(size)
        window.delivered(size, now)
        delivered += size
        while window.outstanding + FRAME <= window.share:
            window.reserve(FRAME, now)
            free_at = max(free_at + FRAME / rate, now + rtt)
            in_flight.append((free_at, FRAME))
    return delivered / now


def test_grows_until_the_link_is_full():
    window = ReceiveWindow()
    achieved = simulate(window, rate=100e6, rtt=0.020, seconds=3.0)
    assert achieved > 80e6
    assert window.rate == pytest.approx(100e6, rel=0.2)
    # One bandwidth-delay product is 2 MB; a quarter more, and 10 ms of the link.
    assert 2e6 < window.limit < 5e6


def test_stays_small_on_a_slow_link():
    window = ReceiveWindow()
    simulate(window, rate=1e6, rtt=0.020, seconds=5.0)
    assert window.limit == MIN_WINDOW


def test_never_grows_beyond_its_bound():
    window = ReceiveWindow()
    simulate(window, rate=10e9, rtt=0.100, seconds=5.0)
    assert window.limit == MAX_LIMIT


def test_streams_share_but_none_starves():
    window = ReceiveWindow()
    window.limit = 4 << 20
    window.streams = 4
    assert window.share == 1 << 20
    window.streams = 100
    assert window.share == MIN_WINDOW


def test_someone_may_always_start():
    window = ReceiveWindow()
    window.limit = MIN_WINDOW
    assert window.has_room(10 << 20)
    window.reserve(1, 0.0)
    assert not window.has_room(MIN_WINDOW)


def test_an_idle_caller_says_nothing_about_the_link():
    window = ReceiveWindow()
    simulate(window, rate=100e6, rtt=0.020, seconds=3.0)
    limit = window.limit
    window.release(window.outstanding)
    for second in range(4, 60):
        window.reserve(1000, float(second))
        window.release(1000)
        window.delivered(1000, second + 0.5)
    assert window.limit == limit


def test_a_longer_round_trip_counts_when_the_shortest_is_old():
    window = ReceiveWindow()
    window.measured_rtt(0.010, 0.0)
    window.measured_rtt(0.050, 10.0)
    assert window.min_rtt == 0.010
    window.measured_rtt(0.050, 31.0)
    assert window.min_rtt == 0.050
    window.measured_rtt(0.005, 32.0)
    assert window.min_rtt == 0.005
