"""The display of a live run, on a terminal and elsewhere."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from stretchscope.pipeline import live_display
from stretchscope.pipeline.live_display import LiveDisplay, LiveStatus, status_line

STATUS = LiveStatus(
    elapsed_s=12.4,
    rate_sa_s=4.93e9,
    realtime_factor=0.986,
    cells=12345,
    cells_per_s=1034.2,
    queue_mib=3.0,
    queue_most_mib=17.25,
    ring=0.25,
    ring_most=0.8125,
    lock="locked",
    latency_p50_ms=1.25,
    latency_p99_ms=9.0,
    dropped={"samples, ring full": 0, "cells, output full": 12},
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_line_says_everything():
    assert status_line(STATUS) == (
        "time 12 s, rate 4.93 GSa/s, realtime factor 0.99, cells 12345 (1034/s), dropped 12 cells, output full, "
        "queue 3.0 MiB (most 17.2), ring 25% (most 81%), line clock locked, latency 1.2 / 9.0 ms (p50 / p99)"
    )


def test_line_before_anything_is_known():
    line = status_line(replace(STATUS, realtime_factor=None, latency_p50_ms=None, latency_p99_ms=None, dropped={}))
    assert "realtime factor -," in line
    assert "dropped none" in line
    assert "latency - / - ms" in line


@pytest.mark.parametrize(("terminal", "expected"), [(False, 6), (True, 240)])
def test_updates_are_rare(terminal, expected):
    """A minute of a thousand statuses a second: a line each 10 s; on a terminal a picture each 0.25 s."""
    clock, text = Clock(), io.StringIO()
    shown = 0
    with LiveDisplay(Console(file=text, force_terminal=terminal, width=300), clock) as display:
        for tick in range(60_001):
            clock.now = tick / 1000
            shown += display.due()
            display.update(STATUS)
    assert shown == expected
    if not terminal:
        assert text.getvalue() == (status_line(STATUS) + "\n") * expected
    else:
        assert "4.93 GSa/s" in text.getvalue()
        assert text.getvalue().endswith("\x1b[?25h")  # the cursor is back


class Gone(io.StringIO):
    """A terminal, or a pipe, that nobody holds any more."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError()])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_that_is_gone_is_no_error(terminal, error):
    clock = Clock()
    console = live_display._Console(file=Gone(error), force_terminal=terminal, width=300)
    with LiveDisplay(console, clock) as display:
        for _ in range(3):
            clock.now += 10.0
            display.update(STATUS)


def test_standard_output_stays_clean(capsys):
    clock = Clock()
    with LiveDisplay(clock=clock) as display:
        clock.now = 10.0
        display.update(STATUS)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split() == status_line(STATUS).split()
