"""A source for Spectrum digitisers in FIFO mode: one page between the `spcm` package and the live pipeline.

    with spcm.Card("/dev/spcm0") as card:
        ...                                     # one channel, clock, SPC_REC_FIFO_SINGLE, as in the maker's examples
        transfer = spcm.DataTransfer(card)
        transfer.allocate_buffer(64 << 22)      # one page-aligned buffer, 64 blocks of 2**22 samples
        source = SpectrumSource(spcm, card, transfer, metadata=CaptureMetadata(sample_rate_hz=5e9, bits=8))

The card fills the buffer round and round, and never what was not given back. When the buffer is full its own memory
holds on for a while; then it reports an overrun and stops. Samples up to there are good; how many followed until it
was started again, only the host's clock can tell.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stretchscope.acquisition import Block, CaptureMetadata, EndOfStream, SourceError


class SpectrumSource:
    """Blocks of the card's DMA buffer, without a copy.

    Parameters
    ----------
    spcm : module
        The package ``spcm``, for its constants and exceptions.
    card, transfer : spcm.Card, spcm.DataTransfer
        Set up for one channel, the buffer allocated: a whole number of blocks.
    metadata : CaptureMetadata
        What is known of the instrument, the sample rate above all.
    block_samples : int, optional
        Samples of a block; the card's notify size.
    clock, sleep : callable, optional
        Host's clock [ns] and how to wait [s].
    """

    zero_copy = True

    def __init__(
        self,
        spcm: Any,
        card: Any,
        transfer: Any,
        *,
        metadata: CaptureMetadata,
        block_samples: int = 1 << 22,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._spcm, self._card, self._transfer = spcm, card, transfer
        self._buffer: np.ndarray = transfer.buffer[0]  # of the one channel
        self._buffer.flags.writeable = False
        if self._buffer.size % block_samples:
            raise ValueError(f"a buffer of {self._buffer.size} samples must hold whole blocks of {block_samples}")
        self.metadata, self.sample_rate_hz = metadata, metadata.sample_rate_hz
        self.dtype, self.block_samples = self._buffer.dtype, block_samples
        self.depth = self._buffer.size // block_samples
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()  # release() comes from any thread
        self._epoch = -1
        self._running = False

    def start(self) -> None:
        with self._lock:
            self._begun_ns = self._clock()
            self._index_end = 0
            self._start_card()
            self._running = True

    def acquire(self, timeout_s: float) -> Block | None:
        deadline = self._clock() + round(timeout_s * 1e9)
        while True:
            with self._lock:
                if not self._running:
                    raise EndOfStream
                held = self._handed - self._freed
                if not held:  # the driver waits for one block, which must not be one that was handed over
                    self._wait(deadline)
                length = self._transfer.avail_user_len()  # before the status: what came before an overrun is good
                overrun = self._card.status() & self._spcm.M2STAT_DATA_OVERRUN
                if length >= (held + 1) * self.block_samples:
                    return self._hand_over(held, length)
                if overrun:
                    self._start_card()
            if self._clock() >= deadline:
                return None
            if held:
                self._sleep(self.block_samples / self.sample_rate_hz / 4)

    def release(self, block: Block) -> None:
        epoch, number = block.token
        with self._lock:
            if epoch != self._epoch or not self._running:
                return  # the card was started again, with an empty buffer
            self._released.add(number)
            while self._freed in self._released:  # the card takes memory back in order only
                self._released.remove(self._freed)
                self._transfer.avail_card_len(self.block_samples)
                self._freed += 1

    def stop(self) -> int:
        with self._lock:
            if not self._running:
                return 0
            self._running = False
            stopped_itself = self._card.status() & self._spcm.M2STAT_DATA_OVERRUN
            lost = self._samples_missed() if stopped_itself else 0
            self._card.stop(self._spcm.M2CMD_DATA_STOPDMA)
            return lost

    def _start_card(self) -> None:
        """Start with an empty buffer. After an overrun that is a new epoch, a time unknown after the last block."""
        self._epoch += 1
        self._handed = self._freed = 0
        self._released: set[int] = set()
        try:
            if self._running:
                self._card.stop(self._spcm.M2CMD_DATA_STOPDMA)
            self._transfer.start_buffer_transfer(self._spcm.M2CMD_DATA_STARTDMA, notify_samples=self.block_samples)
            self._card.start(self._spcm.M2CMD_CARD_ENABLETRIGGER)
        except self._spcm.SpcmException as error:
            raise SourceError(f"the card does not start: {error}") from error
        self._lost = self._samples_missed() if self._running else 0
        self._estimated = self._running

    def _samples_missed(self) -> int:
        since_start = (self._clock() - self._begun_ns) * self.sample_rate_hz / 1e9
        return max(round(since_start) - self._index_end, 0)

    def _wait(self, deadline: int) -> None:
        left_ms = math.ceil((deadline - self._clock()) / 1e6)
        self._card.timeout(max(left_ms, 1))  # to the driver, 0 means for ever
        try:
            self._transfer.wait_dma()
        except self._spcm.SpcmTimeout:
            pass  # acquire() looks at the clock itself
        except self._spcm.SpcmException as error:
            if not self._card.status() & self._spcm.M2STAT_DATA_OVERRUN:
                raise SourceError(f"the card failed: {error}") from error

    def _hand_over(self, held: int, length: int) -> Block:
        first = (self._transfer.avail_user_pos() + held * self.block_samples) % self._buffer.size
        block = Block(
            samples=self._buffer[first : first + self.block_samples],
            index=self._index_end + self._lost,
            lost_before=self._lost,
            lost_exact=not self._estimated,
            epoch=self._epoch,
            host_ns=self._clock(),
            fill=length / self._buffer.size,
            token=(self._epoch, self._handed),
            intact=lambda token: token[0] == self._epoch,
        )
        self._index_end = block.index + self.block_samples
        self._handed += 1
        self._lost, self._estimated = 0, False
        return block
