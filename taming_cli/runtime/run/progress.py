"""What a training says of itself as it goes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl; their values are means over those steps."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a caller is told at each step: `spent` is the share of the training done; `values`, at every tenth step, the
    means of the last ten steps' terms, else empty; or a validation's figures where `validation` is set."""

    step: int
    spent: float
    seconds: float
    images_per_second: float
    values: Mapping[str, float]
    validation: bool = False


OnStep = Callable[[Progress], None]


def tell(on_step: OnStep | None, **what: Any) -> None:
    """Call `on_step` with a `Progress` of these fields, where there is one to call."""
    if on_step is not None:
        on_step(Progress(**what))


class Means:
    """Means of loss terms, and the rate of images, over the steps since they were last taken."""

    def __init__(self) -> None:
        self.images_per_second = self.waiting_seconds = 0.0
        self._start()

    def _start(self) -> None:
        self._terms: dict[str, list[Tensor]] = {}
        self._images, self._steps, self._waiting, self._since = 0, 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done within keeps the step waiting for its batch."""
        began = time.monotonic()
        yield
        self._waiting += time.monotonic() - began

    def add(self, terms: Mapping[str, Tensor], images: int) -> None:
        """One step's scalar terms, on the CPU."""
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value)
        self._images += images
        self._steps += 1

    def take(self) -> dict[str, float]:
        """The means, and a new beginning; `images_per_second` is the rate since the last one, and `waiting_seconds`
        what each step has waited for its batch."""
        self.images_per_second = self._images / (time.monotonic() - self._since)
        self.waiting_seconds = self._waiting / max(1, self._steps)
        means = {name: torch.stack(values).mean().item() for name, values in self._terms.items()}
        self._start()
        return means
