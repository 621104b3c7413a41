"""How tasks are run: on threads, or on any Dask scheduler. None of it changes a result."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dask

# Samples of one mapping task, by default; changes nothing but memory and speed.
CHUNK_SAMPLES = 1 << 23


@dataclass(frozen=True)
class Execution:
    """How to run: none of this changes a result.

    workers : int, optional
        Threads; as many as cores when not given.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers see the same files.
    chunk_samples : int
        Samples of one mapping task.
    progress : callable, optional
        Called with (samples done, samples in all, cells so far).
    """

    workers: int | None = None
    scheduler: str | None = None
    chunk_samples: int = CHUNK_SAMPLES
    progress: Callable[[int, int, int], None] | None = None

    def run(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        """Results of the calls, in order."""
        tasks = [dask.delayed(function, pure=False)(*call) for call in calls]
        if self.scheduler is not None:
            from distributed import get_client

            return list(get_client().gather(get_client().compute(tasks)))
        workers = self.workers or os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            return list(dask.compute(*tasks, scheduler="threads", pool=pool))
