"""Ctrl-C and TERM: the first signal requests a stop at the next safe point, the second stops at once."""

import contextlib
import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from taming_cli.errors import Interrupted

_log = logging.getLogger(__name__)


class StopRequest:
    """A context in which the first SIGINT or SIGTERM sets `requested`; the second one acts as outside of the context.

    A signal that was ignored stays ignored, as Ctrl-C is for the background jobs of a script. Outside the main thread,
    where signals cannot be handled, the context does nothing.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number)
        self._restore()
        with contextlib.suppress(RuntimeError):  # the signal arrived while another line was being written
            _log.warning("%s: stopping at the next safe point; a second signal stops at once", self.requested.name)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def interrupted(self, message: str) -> Interrupted:
        """The error to raise once the work is saved, with exit code 130 for INT and 143 for TERM."""
        return Interrupted(message, 128 + int(self.requested or signal.SIGINT))
