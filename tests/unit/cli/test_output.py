"""What commands about boxes print, and how they read times, ports and variables."""

from datetime import UTC, datetime, timedelta

import click
import pytest

from devboxfs.cli import boxes, monitoring, output, plotting
from sealos_devbox import EnvVar, Metrics, MetricSample, Secret, SecretRef, SshInfo

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("API_TOKEN", True),
        ("DB_PASSWORD", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("OPENAI_API_KEY", True),
        ("SSH_KEY", True),
        ("KEYBOARD", False),
        ("MODE", False),
        ("TURKEY", False),
    ],
)
def test_values_of_variables_named_like_credentials_are_hidden(name: str, hidden: bool) -> None:
    variable = EnvVar(name, "value")
    assert output.json_of(variable)["hidden"] is hidden
    assert (output.json_of(variable)["value"] is None) is hidden
    assert output.json_of(variable, secrets=True)["value"] == "value"
    assert (output.shown_value(variable, secrets=False) == output.HIDDEN) is hidden


def test_secrets_are_shown_when_asked_for() -> None:
    info = SshInfo("host", 22, "devbox", "/work", Secret("the key"))
    assert output.json_of(info)["private_key"] is None
    assert output.json_of(info, secrets=True)["private_key"] == "the key"
    reference = EnvVar("TOKEN", secret=SecretRef("mine", "key"))
    assert output.shown_value(reference, secrets=False) == "(key key of the secret mine)"
    assert output.json_of(reference)["hidden"] is False


def test_times_in_json_are_utc() -> None:
    assert output.json_of(NOON) == "2026-01-31T12:00:00Z"


def test_columns_of_a_pipe_are_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "n"), [("a" * 200, 1), ("b\x1b", None)], empty="none")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "NAME".ljust(200) + "  N"
    assert first == "a" * 200 + "  1"
    assert second == "b\\x1b"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("3h", 10_800), ("2d", 172_800), ("7", 7)]
)
def test_durations(text: str, seconds: float) -> None:
    assert monitoring.Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-1h", "3 weeks"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        monitoring.Duration().convert(text, None, None)


def test_a_refused_variable_is_not_shown() -> None:
    assert boxes.parse_variables(["A=b=c", "D="]) == {"A": "b=c", "D": ""}
    with pytest.raises(click.BadParameter) as refused:
        boxes.parse_variables(["s3cret"])
    assert "s3cret" not in str(refused.value)


def metrics(*samples: tuple[float, float, float]) -> Metrics:
    return Metrics(
        NOON - timedelta(hours=1),
        NOON,
        60.0,
        tuple(
            MetricSample(NOON - timedelta(minutes=minutes), cpu, memory)
            for minutes, cpu, memory in samples
        ),
    )


def test_a_plot_has_its_highest_point_where_the_figures_have_it() -> None:
    low_then_high = [(60.0 - at, 5.0 if at < 30 else 95.0, 40.0) for at in range(60)]
    drawn = plotting.plot("mybox", metrics(*low_then_high), colour=False)
    rows = [line for line in drawn.splitlines() if "┤" in line or "│" in line]
    dotted = [row for row in rows[3:] if "●" in row]
    left = len(rows[0]) // 2
    high = [row for row in rows[:4] if "●" in row[left:]]
    assert high
    assert "●" in dotted[-1][:left]
    assert "now  95.00 %" in drawn
    assert "mean  50.00 %" in drawn


def test_a_gap_is_not_drawn_over() -> None:
    found = metrics((60, 50, 10), (59, 50, 10), (10, 50, 10), (9, 50, 10))
    assert [len(run) for run in plotting._unbroken(found)] == [2, 2]


def test_nothing_to_plot() -> None:
    assert "no samples" in plotting.plot("mybox", metrics(), colour=False)
