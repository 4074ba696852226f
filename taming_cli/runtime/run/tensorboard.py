"""TensorBoard, where `--tensorboard` asks for it: what metrics.jsonl says, and the sheets of pictures, as event files.

It needs tensorboardX, which nothing else does: for the format of those files. Its own writer would keep what it is
given in a queue, and a kill would lose that.
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
"""In a run folder: what `tensorboard --logdir runs` finds."""
SHEETS = "samples"
"""What the sheets of pictures are called there."""


def check_installed() -> None:
    """TamingError where tensorboardX is not there."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise TamingError("--tensorboard needs tensorboardX, which is not installed; run: pip install tensorboardX")


class Board:
    """Writes event files into `folder`: scalars as `train/l1` or `validation/psnr`, sheets as `samples`.

    A training that goes on after `step` will say again what it said later than that: TensorBoard is told to drop it. In
    a new folder the lines `logged` before come first.
    """

    def __init__(self, folder: Path, step: int, logged: Sequence[Mapping[str, Any]] = ()) -> None:
        goes_on = folder.exists()
        folder.mkdir(exist_ok=True)
        self._events, self._summaries = (
            importlib.import_module(f"tensorboardX.proto.{name}_pb2") for name in ("event", "summary")
        )
        files = importlib.import_module("tensorboardX.event_file_writer")
        self._folder = folder
        self._file = files.EventsWriter(str(folder / "events"), f".{step}")
        if goes_on:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(self._events.Event(step=step + 1, wall_time=time.time(), session_log=start))
            return
        for line in logged:
            self._log(line, time.time() - logged[-1]["seconds"] + line["seconds"])

    def log(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: its figures, by their names there."""
        self._log(line, time.time())

    def show(self, step: int, png: Path) -> None:
        """A sheet of pictures."""
        image = self._summaries.Summary.Image(encoded_image_string=png.read_bytes())
        self._say(step, time.time(), [self._summaries.Summary.Value(tag=SHEETS, image=image)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _log(self, line: Mapping[str, Any], at: float) -> None:
        value = self._summaries.Summary.Value
        said = [value(tag=f"{line['kind']}/{name}", simple_value=figure) for name, figure in figures_in(line).items()]
        self._say(line["step"], at, said)

    def _say(self, step: int, at: float, values: Sequence[Any]) -> None:
        self._write(self._events.Event(step=step, wall_time=at, summary=self._summaries.Summary(value=values)))

    def _write(self, event: Any) -> None:
        with refusals(self._folder):
            self._file.write_event(event)
            self._file.flush()
