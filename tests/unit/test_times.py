"""Times as they are typed."""

from __future__ import annotations

import contextlib
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.shell.times import parse_moment, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 10),
        ("0.5", 0.5),
        (".5s", 0.5),
        ("500ms", 0.5),
        ("1m30s", 90),
        ("5m", 300),
        ("1h", 3600),
        ("1d", 86_400),
        ("1d2h3m4s5ms", 93_784.005),
        ("10000d", 864_000_000),
    ],
)
def test_times(text: str, seconds: float) -> None:
    """Numbers have units, the longest first; a number alone is of seconds."""
    assert pytest.approx(seconds) == parse_time(text)


def test_the_unit_of_a_number_alone() -> None:
    """Where milliseconds are usual, a number alone is of those, and short ones make sense."""
    assert (0.1, 0.0005, 1.5) == tuple(
        parse_time(text, "ms", "1us") for text in ("100", ".5", "1.5s")
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *((text, "is not a time") for text in ("", "soon", "-1", "nan", "inf", "1e5", "1.", "s")),
        *((text, "is not a time") for text in ("1s1m", "1m30", "1 m", "5x", "٣s", "1s1s", "+5")),
        *((text, "no time at all") for text in ("0", "0s", "0.0", "0h0m")),
        ("0.0000001", "too short; the least is 1ms"),
        ("10001d", "too long; the most is 10000d"),
        ("9" * 400, "9…' is too long"),
    ],
)
def test_what_is_no_time_is_named(text: str, words: str) -> None:
    """The error says what is wrong, and repeats but a part of what is long."""
    with pytest.raises(ValueError, match=words) as caught:
        parse_time(text)
    assert 100 > len(str(caught.value))


@given(st.text(max_size=20))
def test_whatever_is_typed_is_a_time_or_an_error(text: str) -> None:
    """Nothing else is raised, and no time is out of bounds."""
    try:
        seconds = parse_time(text)
    except ValueError:
        return
    assert 1e-3 <= seconds <= 864_000_000


NOW = dt.datetime(2026, 11, 30, 12, 0, 0, tzinfo=dt.timezone(dt.timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", "2026-11-30T10:00:00+01:00"),
        ("1d12h", "2026-11-29T00:00:00+01:00"),
        ("2026-11-30T09:30Z", "2026-11-30T09:30:00+00:00"),
        ("2026-11-30T09:30:15.5+02:00", "2026-11-30T09:30:15.5+02:00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    """So long ago, or by date and zone."""
    assert dt.datetime.fromisoformat(moment) == parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["9:30", "09:30", "09:30:00"])
def test_a_time_of_day_is_of_today(text: str) -> None:
    """By the local clock, as is a date without a zone."""
    expected = dt.datetime(2026, 11, 30, 9, 30).astimezone()
    assert expected == parse_moment(text, NOW)
    assert expected == parse_moment("2026-11-30 09:30", NOW)


@given(st.text(max_size=20))
def test_whatever_is_typed_is_a_moment_or_an_error(text: str) -> None:
    """Nothing else is raised."""
    with contextlib.suppress(ValueError, OverflowError):
        parse_moment(text, NOW)


@pytest.mark.parametrize("text", ["", "10", "noon", "25:00", "2026-13-01"])
def test_what_is_no_moment_is_named(text: str) -> None:
    """With examples of what is one."""
    with pytest.raises(ValueError, match="no moment such as 2h"):
        parse_moment(text, NOW)
