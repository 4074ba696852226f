"""Progress: one line on a terminal that never wraps, plain lines every few seconds elsewhere."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, Task
from rich.table import Table
from rich.text import Text

from taming_cli.cli.formatting import duration, figure

PLAIN_SECONDS = 5.0
"""Seconds between two progress lines on a stderr that is no terminal."""
VERBOSE_SECONDS = 1.0
"""The same with -v, which prints these lines above a bar too."""
RECENT_SECONDS = 60.0
"""The remaining time is estimated from the rate over this period, since the phases of a training differ in speed."""
NARROWEST, WIDEST = 6, 30
"""Columns of the bar itself."""
MARGIN = 3
"""Columns left free for the ^C that a terminal echoes."""
GAP = "  "


class Bar:
    """A context manager that shows the progress of some work. `note` prints a line on stderr."""

    def __init__(
        self,
        console: Console,
        note: Callable[[str], None],
        label: str,
        total: float | None,
        unit: str | None,
        *,
        live: bool,
        verbose: bool,
    ) -> None:
        self.console, self.note, self.label, self.total, self.unit = console, note, label, total, unit
        self.done = 0.0
        self.words: Sequence[str] = ()
        self.pace, self._download = Pace(), Pace()
        self._every = VERBOSE_SECONDS if verbose else PLAIN_SECONDS
        self._printed = time.monotonic()
        self._plain = verbose or not live
        self._line = _Line(self) if live else None

    def __enter__(self) -> "Bar":
        if self._line is not None:
            self._line.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.stop()

    def update(self, done: float, *words: str, total: float | None = None) -> None:
        """Show that `done` of the total is done. `words` are shown beside that, the most important first, until other
        words replace them."""
        self.done, self.total = done, self.total if total is None else total
        self.words = words or self.words
        self.pace.note(time.monotonic(), done)
        self._changed()

    def within(self, done: int, total: int) -> None:
        """Show the progress within the current item, which is being decoded."""
        self.update(self.done, *([f"decoding {100 * done / total:.0f}%"] if done < total else [""]))

    def fetching(self, done: int, total: int | None) -> None:
        """Show that `done` bytes of a network's weights, which the work needs, have been downloaded."""
        self._download.note(time.monotonic(), done)
        words = [f"weights {done / 1e6:.0f}{f'/{total / 1e6:.0f}' if total else ''} MB"]
        if (rate := self._download.rate()) is not None:
            words.append(f"{figure(rate / 1e6)} MB/s")
        if total and (left := self._download.left(time.monotonic(), total)) is not None:
            words.append(f"{duration(left)} left")
        self.words = () if done == total else words
        self._changed()

    def _changed(self) -> None:
        now = time.monotonic()
        if self._plain and now - self._printed >= self._every:
            self._printed = now
            self.note(f"{self.label}: {GAP.join(word.strip() for word in self.state())}")

    def line(self, *words: str) -> None:
        """Print a line that stays, above the bar: on a terminal as many of the words as fit."""
        if self._line is not None:
            words = fitting(words, self.console.width)
        self.note(GAP.join(words))

    def state(self) -> list[str]:
        """The state of the work, the most important first: share, time left, count, rate, other words."""
        state = []
        if self.total:
            state.append(f"{100 * min(1.0, self.done / self.total):3.0f}%")
            left = self.pace.left(time.monotonic(), self.total)
            if left is not None:
                state.append(f"{duration(left)} left")
        if self.unit and (self.total or self.done):
            state.append(f"{self.done:.0f}{f'/{self.total:.0f}' if self.total else ''} {self.unit}")
            if (rate := self.pace.rate()) is not None:
                state.append(f"{figure(rate)} {self.unit}/s")
        return [*state, *filter(None, self.words)]


class Pace:
    """The rate over the last minute. One thread may record progress while another reads the rate."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def note(self, now: float, done: float) -> None:
        """Record how much is done at the time `now`, in seconds."""
        with self._lock:
            if self._samples and done < self._samples[-1][1]:  # the count starts again, for another set
                self._samples.clear()
            self._samples.append((now, done))
            while len(self._samples) > 2 and now - self._samples[1][0] >= RECENT_SECONDS:
                self._samples.popleft()

    def rate(self) -> float | None:
        """Amount per second; None before anything was done."""
        with self._lock:
            if not self._samples:
                return None
            (since, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - since) if done > before and now > since else None

    def left(self, now: float, total: float) -> float | None:
        """Seconds from the time `now` until `total` is done; None without a rate."""
        rate = self.rate()
        if rate is None:
            return None
        with self._lock:
            at, done = self._samples[-1]
        return max(0.0, (total - done) / rate - (now - at))


class _Line(Progress):
    """The bar and its words on one line that fits the current width of the terminal."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        super().__init__(
            console=bar.console,
            refresh_per_second=5,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # output that another program reads is not for this terminal
        )
        self.add_task(bar.label, total=None)

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            self.update(task.id, completed=self.bar.done, total=self.bar.total or None)
            yield self._drawn(task)

    def _drawn(self, task: Task) -> RenderableType:
        label, width = self.bar.label, max(0, self.console.width - MARGIN)
        state = self.bar.state() if self.bar.done or self.bar.words else [*self.bar.state(), "starting"]
        words = GAP.join(fitting(state, width - len(label) - NARROWEST - 2))
        room = min(WIDEST, width - len(label) - 2 - len(words))
        if room < NARROWEST:
            return Text(f"{label} {words}"[:width])
        line = Table.grid(padding=(0, 1))
        line.add_row(Text(label), BarColumn(room).render(task), Text(words))
        return line


def fitting(words: Sequence[str], width: int) -> tuple[str, ...]:
    """As many of the words, from the first, as fit into `width` columns; at least one."""
    kept = [*words[:1]]
    for word in words[1:]:
        if len(GAP.join([*kept, word])) > width:
            break
        kept.append(word)
    return tuple(kept)
