"""What a live run shows while it runs: a table on a terminal, a line now and then elsewhere; always on standard error.

The pipeline makes a `LiveStatus` when `LiveDisplay.due` says so, and hands it to `LiveDisplay.update`.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

#: Shortest time between two updates, on a terminal and elsewhere [s].
TERMINAL_S, LINE_S = 0.25, 10.0


@dataclass(frozen=True)
class LiveStatus:
    """A live run at one moment.

    Attributes
    ----------
    elapsed_s : float
        Since the first block [s].
    rate_sa_s : float
        Samples processed per second of late [Sa/s].
    realtime_factor : float or None
        Signal seconds per wall second; 1 or more keeps up. None while it is not known.
    cells, cells_per_s : int, float
        Cells found so far, and per second of late.
    dropped : mapping of str to int
        Reason, with what it counts, to how many: ``{"samples, ring full": 0, "cells, output full": 12}``.
    queue_mib, queue_most_mib : float
        Cells that wait to be written now, and the most that ever did [MiB].
    ring, ring_most : float
        Share of the ring that is filled now, and the most that ever was, 0 to 1.
    lock : str
        State of the line clock, such as ``locked`` or ``searching``.
    latency_p50_ms, latency_p99_ms : float or None
        From a cell's last sample to its row [ms]; None before the first cell.
    """

    elapsed_s: float
    rate_sa_s: float
    realtime_factor: float | None
    cells: int
    cells_per_s: float
    queue_mib: float
    queue_most_mib: float
    ring: float
    ring_most: float
    lock: str
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to who prints: rich would close standard output, and end the process."""
        raise BrokenPipeError


class LiveDisplay:
    """Shows a run's status; use it as a context manager, so that the terminal is left in order.

    A terminal or pipe that is gone is no error: the run goes on, unseen.

    Parameters
    ----------
    console : Console, optional
        By default standard error, so that standard output stays for results.
    clock : callable, optional
        Time [s], of any origin.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or _Console(stderr=True)
        self._clock = clock
        self._period_s = TERMINAL_S if self._console.is_terminal else LINE_S
        self._next = clock() + self._period_s
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)

    def due(self) -> bool:
        """Whether it is time for the next update, so that nobody makes a status in vain."""
        return self._clock() >= self._next

    def update(self, status: LiveStatus) -> None:
        """Show a status, if it is time."""
        if not self.due():
            return
        self._next = self._clock() + self._period_s
        with suppress(OSError):
            if self._live is not None:
                self._live.update(status_table(status), refresh=True)
            else:
                self._console.print(status_line(status), soft_wrap=True, markup=False, highlight=False)

    def __enter__(self) -> Self:
        if self._live is not None:
            with suppress(OSError):
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()


def status_entries(status: LiveStatus) -> dict[str, str]:
    """What is shown, label to text."""
    latency = (status.latency_p50_ms, status.latency_p99_ms)
    dropped = {reason: count for reason, count in status.dropped.items() if count}
    return {
        "time": f"{status.elapsed_s:.0f} s",
        "rate": f"{status.rate_sa_s / 1e9:.2f} GSa/s",
        "realtime factor": "-" if status.realtime_factor is None else f"{status.realtime_factor:.2f}",
        "cells": f"{status.cells} ({status.cells_per_s:.0f}/s)",
        "dropped": "; ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none",
        "queue": f"{status.queue_mib:.1f} MiB (most {status.queue_most_mib:.1f})",
        "ring": f"{status.ring:.0%} (most {status.ring_most:.0%})",
        "line clock": status.lock,
        "latency": " / ".join("-" if ms is None else f"{ms:.1f}" for ms in latency) + " ms (p50 / p99)",
    }


def status_line(status: LiveStatus) -> str:
    """A status on one line."""
    return ", ".join(f"{label} {text}" for label, text in status_entries(status).items())


def status_table(status: LiveStatus) -> Table:
    """A status as a table; what was lost is red."""
    table = Table.grid("label", "text", padding=(0, 2))
    for label, text in status_entries(status).items():
        lost = label == "dropped" and any(status.dropped.values())
        table.add_row(label, text, style="bold red" if lost else None)
    return table
