"""Event files for TensorBoard (`--tensorboard`): the figures of metrics.jsonl and the sheets of pictures.

This needs tensorboardX, for the format of those files. Its own writer is not used, since it keeps events in a queue,
which a kill would lose.
"""

import importlib
import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taming_cli.data.disk import refusals
from taming_cli.errors import TamingError
from taming_cli.runtime.run.metrics import figures_in

FOLDER = "tensorboard"
"""The subfolder of a run folder, which `tensorboard --logdir runs` finds."""
SHEETS = "samples"
"""The tag of the sheets of pictures."""


def check_installed() -> None:
    """TamingError where tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise TamingError("--tensorboard needs tensorboardX, which is not installed; run: pip install tensorboardX")


class Board:
    """Writes event files into `folder`: scalars as `train/l1` or `validation/psnr`, sheets as `samples`.

    A training that is resumed after `step` logs the later steps again, so the file begins with an event that makes
    TensorBoard discard them. In a new folder, the lines `logged` so far are written first.
    """

    def __init__(self, folder: Path, step: int, logged: Sequence[Mapping[str, Any]] = ()) -> None:
        resumed = folder.exists()
        folder.mkdir(exist_ok=True)
        self._events, self._summaries = (
            importlib.import_module(f"tensorboardX.proto.{name}_pb2") for name in ("event", "summary")
        )
        files = importlib.import_module("tensorboardX.event_file_writer")
        self._folder = folder
        self._file = files.EventsWriter(str(folder / "events"), f".{step}")
        if resumed:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(self._events.Event(step=step + 1, wall_time=time.time(), session_log=start))
            return
        for line in logged:
            self._log(line, time.time() - logged[-1]["seconds"] + line["seconds"])

    def log(self, line: Mapping[str, Any]) -> None:
        """Write the figures of a line of metrics.jsonl, by their names there."""
        self._log(line, time.time())

    def show(self, step: int, png: Path) -> None:
        """Write a sheet of pictures."""
        image = self._summaries.Summary.Image(encoded_image_string=png.read_bytes())
        self._write_values(step, time.time(), [self._summaries.Summary.Value(tag=SHEETS, image=image)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _log(self, line: Mapping[str, Any], at: float) -> None:
        value = self._summaries.Summary.Value
        kind, figures = line["kind"], figures_in(line)
        scalars = [value(tag=f"{kind}/{name}", simple_value=figure) for name, figure in figures.items()]
        self._write_values(line["step"], at, scalars)

    def _write_values(self, step: int, at: float, values: Sequence[Any]) -> None:
        self._write(self._events.Event(step=step, wall_time=at, summary=self._summaries.Summary(value=values)))

    def _write(self, event: Any) -> None:
        with refusals(self._folder):
            self._file.write_event(event)
            self._file.flush()
