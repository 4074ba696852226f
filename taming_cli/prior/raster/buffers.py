"""Buffers that sampling reuses between pictures: the key/value cache and, on a CUDA device, its steps as CUDA graphs.

A step of a few windows is hundreds of small kernels, and the host launches them more slowly than the device runs them.
A CUDA graph launches all of them at once, provided that no shape changes. So the numbers of rows and of tokens attended
to are rounded up, and the excess is masked.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from taming_cli.config.sampling import MOST_CELLS, DecodingConfig
from taming_cli.prior.decoding import choose, guide
from taming_cli.prior.networks.cache import KVCache
from taming_cli.prior.networks.gpt import GPT

REACH = 128
"""The number of tokens attended to is rounded up to a multiple of this, since hundreds of numbers would need as many
graphs."""


class DecodingBuffers:
    """Buffers for up to `windows` windows at once, with twice as many rows under guidance. With `recorded`, steps have
    fixed shapes and run as CUDA graphs; this is the default on CUDA devices."""

    def __init__(self, gpt: GPT, decoding: DecodingConfig, windows: int, *, recorded: bool | None = None) -> None:
        self.gpt, self.decoding, self.windows = gpt, decoding, windows
        weight = gpt.head.weight
        rows = windows * (1 + decoding.guided)
        self.cache = KVCache(gpt.config, rows, dtype=weight.dtype, device=weight.device)
        if recorded is None:
            recorded = weight.device.type == "cuda"
        kind = RecordedSteps if recorded else Steps
        self.steps = kind(gpt, self.cache, decoding)

    def fits(self, gpt: GPT, decoding: DecodingConfig, windows: int) -> bool:
        """Whether these buffers can serve such a call."""
        names = [each.name for each in fields(DecodingConfig)]
        same = all(getattr(self.decoding, name) == getattr(decoding, name) for name in names)
        return gpt is self.gpt and same and windows <= self.windows


class BufferCache:
    """The last buffers of each thread, reused while they fit, since allocating them takes longer than a small picture.

    Drawing writes to its buffers from the first token to the last, so threads that draw concurrently must not share
    them. The buffers of a thread are freed with the thread.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def __reduce__(self) -> tuple[type["BufferCache"], tuple[()]]:
        """A copy starts empty."""
        return type(self), ()

    def get(self, gpt: GPT, decoding: DecodingConfig, windows: int) -> DecodingBuffers:
        """The last buffers of this thread if they fit, else new ones in their place."""
        last: DecodingBuffers | None = getattr(self._of_thread, "last", None)
        if last is None or not last.fits(gpt, decoding, windows):
            self._of_thread.last = last = None  # frees the memory before the next allocation
            self._of_thread.last = last = self.make(gpt, decoding, windows)
        return last

    def make(self, gpt: GPT, decoding: DecodingConfig, windows: int) -> DecodingBuffers:
        """Allocate buffers."""
        return DecodingBuffers(gpt, decoding, windows)


class Steps:
    """Steps from the last codes to the next. With guidance each window has two adjacent rows of the cache: with its
    condition, and without."""

    def __init__(self, gpt: GPT, cache: KVCache, decoding: DecodingConfig) -> None:
        self._gpt, self._cache, self._decoding = gpt, cache, decoding.at(0)
        self._guided = decoding.guided

    def start(self) -> None:
        """Continue from the present contents of the cache."""

    def next(self, codes: Tensor, noise: Tensor | None) -> Tensor:
        """Codes (B,) int64 of each window's last cell and noise (B, K) for its next -> the next codes (B,). B may
        shrink as the last windows finish. The next call may overwrite the returned tensor."""
        return self.choose(self._gpt.step(self._cache, self._rows(codes)), noise)

    def ahead(self, codes: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The last code of each window and guesses of the next ones, (B, T), and noise (B, T, K) for the cells behind
        them -> the codes of these cells (B, T), and the logits (B, K) of the last of them. `keep` then counts the codes
        that were right. The next call may overwrite the returned tensors."""
        logits = self.guide(self._gpt.extend(self._cache, self._rows(codes)))
        return choose(logits, noise, self._decoding), logits[:, -1]

    def keep(self, cells: Sequence[int]) -> None:
        """Count the first `cells[b]` of the codes that `ahead` was given for window b."""
        self._cache.keep([number for number in cells for _ in range(1 + self._guided)])

    def choose(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """Logits (rows, K) and noise (windows, K) -> codes (windows,)."""
        return choose(self.guide(logits), noise, self._decoding)

    def guess(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """The codes that cells with noise (windows, T, K) would have by logits (windows, K) of a cell before them:
        (windows, T), or (windows, 1), the same for all, where decoding is greedy."""
        return choose(logits[:, None], noise, self._decoding)

    def guide(self, logits: Tensor) -> Tensor:
        """Logits (rows, ..., K) -> (windows, ..., K)."""
        return guide(logits[0::2], logits[1::2], self._decoding.guidance) if self._guided else logits

    def _rows(self, codes: Tensor) -> Tensor:
        return codes.repeat_interleave(2, dim=0) if self._guided else codes


class RecordedSteps(Steps):
    """Steps whose shapes do not depend on the position in the window."""

    def __init__(self, gpt: GPT, cache: KVCache, decoding: DecodingConfig) -> None:
        super().__init__(gpt, cache, decoding)
        rows, self._capacity = cache.keys.shape[1], cache.length
        windows = rows // (1 + self._guided)
        self._device = device = cache.keys.device
        self._codes = torch.zeros(windows, dtype=torch.int64, device=device)
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self._noise = torch.zeros(windows, gpt.config.codebook_size, dtype=torch.float64, device=device)
        self._many: _ManyCells | None = None
        self._held: list[int] = []
        self._graphs: dict[tuple[int, ...], Callable[[], None]] = {}
        self._pool: Any = None

    def start(self) -> None:  # noqa: D102 - as in Steps
        self._lengths.zero_()
        self._lengths[: len(self._cache.lengths)] = self._cache.device_lengths
        self._held = list(self._cache.lengths)

    def next(self, codes: Tensor, noise: Tensor | None) -> Tensor:  # noqa: D102
        active = len(codes)
        self._codes[:active] = codes
        if noise is not None:
            self._noise[:active] = noise
        windows, reach = self._shape(active, 1)
        if (windows, reach) not in self._graphs:
            self._graphs[windows, reach] = self._record(windows, reach)
        self._graphs[windows, reach]()
        self._held = [number + 1 for number in self._held[: active * (1 + self._guided)]]
        return self._codes[:active]

    def ahead(self, codes: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: D102
        active, cells = codes.shape
        many = self._many = self._many or _ManyCells(self._codes, self._noise)
        many.codes[:active, :cells] = codes
        if noise is not None:
            many.noise[:active, :cells] = noise
        padded = 1 << (cells - 1).bit_length()
        shape = (*self._shape(active, padded), padded)
        if shape not in self._graphs:
            self._graphs[shape] = self._record_many(many, *shape)
        self._graphs[shape]()
        return many.codes[:active, :cells], many.logits[:active]

    def keep(self, cells: Sequence[int]) -> None:  # noqa: D102
        kept = [number for number in cells for _ in range(1 + self._guided)]
        self._held = [number + more for number, more in zip(self._held, kept, strict=False)]
        self._lengths[: len(kept)] += torch.tensor(kept, device=self._device)

    def _shape(self, active: int, cells: int) -> tuple[int, int]:
        """The numbers of windows and of tokens attended to, rounded up."""
        longest = max(self._held[: active * (1 + self._guided)]) + cells
        windows = min(1 << (active - 1).bit_length(), len(self._codes))
        return windows, min(-(-longest // REACH) * REACH, self._capacity)

    def _record(self, windows: int, reach: int) -> Callable[[], None]:
        rows = windows * (1 + self._guided)

        def run() -> None:
            lengths = self._lengths[:rows]
            codes = self._rows(self._codes[:windows])
            # a finished window may be beyond the end: its result in the last position is never read
            logits = self._gpt.step_at(self._cache, codes[:, None], lengths.clamp(max=reach - 1), reach)[:, 0]
            self._codes[:windows] = self.choose(logits, self._noise[:windows])
            lengths += 1

        return self._captured(run) if self._device.type == "cuda" else run

    def _record_many(self, many: "_ManyCells", windows: int, reach: int, cells: int) -> Callable[[], None]:
        rows = windows * (1 + self._guided)

        def run() -> None:
            codes = self._rows(many.codes[:windows, :cells])
            logits = self._gpt.step_at(self._cache, codes, self._lengths[:rows], reach)
            logits = self.guide(logits)
            many.codes[:windows, :cells] = choose(logits, many.noise[:windows, :cells], self._decoding)
            many.logits[:windows] = logits[:, -1]

        return self._captured(run) if self._device.type == "cuda" else run

    def _captured(self, run: Callable[[], None]) -> Callable[[], None]:
        """Capture `run` as one CUDA graph. Warming up changes lengths and codes, which are restored; its writes to the
        cache lie where the next steps write."""
        held = [self._lengths, self._codes, *([] if self._many is None else [self._many.codes])]
        before = [each.clone() for each in held]
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run()
                run()
            torch.cuda.current_stream().wait_stream(stream)
            for each, was in zip(held, before, strict=True):
                each.copy_(was)
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads may continue meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        return graph.replay


class _ManyCells:
    """Buffers for several cells of each window: `codes` (windows, cells), `noise` (windows, cells, K) and the last
    `logits` (windows, K)."""

    def __init__(self, codes: Tensor, noise: Tensor) -> None:
        self.codes = codes.new_zeros(len(codes), MOST_CELLS)
        self.noise = noise.new_zeros(len(noise), MOST_CELLS, noise.shape[1])
        self.logits = noise.new_zeros(noise.shape, dtype=torch.float32)
