"""Progress: one line on a terminal that never wraps, plain lines every few seconds elsewhere."""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from taming_cli.cli.console import Output, duration, figure

if TYPE_CHECKING:
    from rich.console import RenderResult

PLAIN_SECONDS = 5.0
"""Seconds between two progress lines where stderr is no terminal."""
VERBOSE_SECONDS = 1.0
"""With -v; there they stand above the bar too."""
RECENT_SECONDS = 60.0
"""What is left is reckoned from the pace of so many seconds: a training's phases are not equally fast."""
NARROWEST, WIDEST = 6, 30
"""Columns of the bar itself."""
GAP = "  "


class Bar:
    """A context manager: `update(done, *words, total=...)` says how far the work is."""

    def __init__(self, output: Output, what: str, total: float | None, unit: str | None) -> None:
        self.output, self.what, self.total, self.unit = output, what, total, unit
        self.done = 0.0
        self.words: Sequence[str] = ()
        self.pace, self._fetched = Pace(), Pace()
        self._every = VERBOSE_SECONDS if output.verbose else PLAIN_SECONDS
        self._spoke = time.monotonic()
        self._live: Live | None = None
        if output.live:
            self._live = Live(
                _Line(self),
                console=output.errors,
                refresh_per_second=5,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # what is read by another program is not for this terminal
            )

    def __enter__(self) -> "Bar":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, done: float, *words: str, total: float | None = None) -> None:
        """Show that `done` of the total is done; `words` say more, the most important first, and stay until others
        come."""
        self.done, self.total = done, self.total if total is None else total
        self.words = words or self.words
        self.pace.note(time.monotonic(), done)
        self._speak()

    def within(self, done: int, total: int) -> None:
        """Show how far the item is that is being decoded now."""
        self.update(self.done, *([f"decoding {100 * done / total:.0f}%"] if done < total else [""]))

    def fetching(self, done: int, total: int | None) -> None:
        """Show that `done` bytes of a network's weights have come, which the work waits for."""
        self._fetched.note(time.monotonic(), done)
        words = [f"weights {done / 1e6:.0f}{f'/{total / 1e6:.0f}' if total else ''} MB"]
        if (rate := self._fetched.rate()) is not None:
            words.append(f"{figure(rate / 1e6)} MB/s")
        if total and (left := self._fetched.left(time.monotonic(), total)) is not None:
            words.append(f"{duration(left)} left")
        self.words = () if done == total else words
        self._speak()

    def _speak(self) -> None:
        now = time.monotonic()
        if (self._live is None or self.output.verbose) and now - self._spoke >= self._every:
            self._spoke = now
            self.output.note(f"{self.what}: {GAP.join(word.strip() for word in self.said())}")

    def line(self, *words: str) -> None:
        """A line that stays, above the bar: on a terminal as many of the words as it is wide."""
        if self._live is not None:
            words = fitting(words, self.output.errors.width)
        self.output.note(GAP.join(words))

    def said(self) -> list[str]:
        """What is known, the most important first: share, time left, count, rate, more."""
        said = []
        if self.total:
            said.append(f"{100 * min(1.0, self.done / self.total):3.0f}%")
            left = self.pace.left(time.monotonic(), self.total)
            if left is not None:
                said.append(f"{duration(left)} left")
        if self.unit and (self.total or self.done):
            said.append(f"{self.done:.0f}{f'/{self.total:.0f}' if self.total else ''} {self.unit}")
            if (rate := self.pace.rate()) is not None:
                said.append(f"{figure(rate)} {self.unit}/s")
        return [*said, *filter(None, self.words)]


class Pace:
    """How fast the last minute was. Told by one thread, asked by another."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def note(self, now: float, done: float) -> None:
        """At the time `now`, so much is done."""
        with self._lock:
            if self._seen and done < self._seen[-1][1]:  # the same anew, of another set
                self._seen.clear()
            self._seen.append((now, done))
            while len(self._seen) > 2 and now - self._seen[1][0] >= RECENT_SECONDS:
                self._seen.popleft()

    def rate(self) -> float | None:
        """How much a second; None before there is any."""
        with self._lock:
            if not self._seen:
                return None
            (since, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - since) if done > before and now > since else None

    def left(self, now: float, total: float) -> float | None:
        """Seconds until `total` is done, seen from the time `now`."""
        rate = self.rate()
        if rate is None:
            return None
        with self._lock:
            at, done = self._seen[-1]
        return max(0.0, (total - done) / rate - (now - at))


class _Line:
    """The bar as one line of whatever width the terminal has now."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> "RenderResult":
        bar, width = self.bar, max(0, options.max_width - 3)  # with room for the ^C that a terminal writes there
        said = bar.said() if bar.done or bar.words else [*bar.said(), "starting"]
        words = GAP.join(fitting(said, width - len(bar.what) - NARROWEST - 2))
        room = min(WIDEST, width - len(bar.what) - 2 - len(words))
        if room < NARROWEST:
            yield Text(f"{bar.what} {words}"[:width], end="")
            return
        yield Text(f"{bar.what} ", end="")
        yield from _drawn(bar, room, console, options)
        yield Text(f" {words}", end="")


def _drawn(bar: Bar, width: int, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
    """The bar itself, always as wide: without colours rich would leave the part to come out."""
    total = bar.total or 1.0
    shares = ProgressBar(total=total, completed=min(bar.done, total), width=width, pulse=not bar.total)
    segments = list(console.render(shares, options))
    yield from segments
    yield Segment(" " * (width - sum(segment.cell_length for segment in segments)))


def fitting(words: Sequence[str], width: int) -> tuple[str, ...]:
    """As many of the words, from the first, as `width` columns hold; at least one."""
    kept = [*words[:1]]
    for word in words[1:]:
        if len(GAP.join([*kept, word])) > width:
            break
        kept.append(word)
    return tuple(kept)
