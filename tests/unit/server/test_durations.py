"""What the engine takes as the step of a series: what Prometheus does."""

from __future__ import annotations

import pytest

from sealos_devbox.server.control import forms


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6667ms", 6.667),
        ("2m", 120),
        ("1h30m", 5400),
        ("1y", 365 * 86400),
        ("1w2d3h4m5s6ms", 7 * 86400 + 2 * 86400 + 3 * 3600 + 4 * 60 + 5.006),
        ("15", 15),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e2", 100),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert forms.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0s",
        "-1",
        "-5s",
        "s",
        "ms",
        "1.5h",
        "30m1h",
        "1H",
        "5 m",
        "nan",
        "inf",
        "1_0",
        "9y9y",
        "99y",
        "1m ",
        "٣s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(forms.Invalid):
        forms.duration(text)
