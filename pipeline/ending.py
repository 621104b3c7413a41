"""How signals end a live run: in good order at first, then at once."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from .live import LivePipeline

# A terminal that is closed sends SIGHUP; Windows has none.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ending:
    """Takes the signals that end a run, as a context manager of the main thread.

    Before a pipeline runs, one raises KeyboardInterrupt, so that what was begun is cleared away. After that the first
    one stops the pipeline: what was seen is written and complete. The second one stops the source as well, though it
    may hang; the third finds the system's own handlers.

    Attributes
    ----------
    caught : int
        Signals so far.
    """

    def __init__(self) -> None:
        self.caught = 0
        self._pipeline: LivePipeline | None = None
        self._before: dict[int, Any] = {}

    def watch(self, pipeline: LivePipeline) -> None:
        """From now on this pipeline is stopped."""
        self._pipeline = pipeline

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._end)
            if number not in (signal.SIGINT, signal.SIGTERM) and self._before[number] == signal.SIG_IGN:
                signal.signal(number, signal.SIG_IGN)  # under nohup
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.caught += 1
        if self._pipeline is None:
            raise KeyboardInterrupt
        if self.caught == 1:
            self._pipeline.stop()
            return
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._pipeline.force_stop()
