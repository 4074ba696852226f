"""The public Python API: a prior and its codec, which draw, complete, encode and decode pictures.

from taming_cli import Pipeline
pipeline = Pipeline.load()                                          # the built-in model, or that of a path
samples = pipeline.sample(n=4, seed=7, class_name="lake")           # samples.images: uint8 (4, 3, H, W)
painted = pipeline.sample(cond="seg.png", size="1280x832")
whole = pipeline.complete("photo.png", "mask.png")
folder, files = pipeline.sample_to("out", n=50, accept_rate=0.5, npz="out.npz")  # as `taming sample` does
codes = pipeline.encode(samples.images)                             # int64 (4, h, w)
images = pipeline.decode(codes)                                     # uint8 (4, 3, f h, f w)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taming_cli.config.shard import Shard
from taming_cli.errors import UsageError
from taming_cli.sampling.conditions import Maps
from taming_cli.sampling.draw import Samples, draw
from taming_cli.sampling.files import SampleFile, WrittenSamples, write_samples
from taming_cli.sampling.model import LoadedModel, OnProgress
from taming_cli.sampling.request import WHOLE, Request, resolve_request


@dataclass(frozen=True)
class Pipeline(LoadedModel):
    """A loaded model that draws pictures. Several threads may share it."""

    def sample(
        self,
        *,
        n: int = 1,
        cond: Maps | None = None,
        first: int = 0,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Samples:
        """Draw new pictures: `images` uint8 (n, 3, H, W) and `codes` int64 (n, h, w), where the grid is the smallest
        that covers the pictures.

        `cond` is a condition map, or a folder of maps that the samples take in turn; `{kind: path}` where the prior
        takes several kinds. `settings` are those of `SampleConfig`, above all `seed`, `class_name` and `size`
        ("1280x832", by default that of the map or of the training pictures); the model file's suggestions replace
        defaults. Samples are numbered from `first`, and depend on their number alone, not on the others. `on_progress`
        receives (cells drawn, cells in total). Raises UsageError for settings or maps that do not fit the prior.
        """
        request = resolve_request(self, {"n": n, **settings}, cond=cond, first=first)
        return _in_memory(request, on_progress)

    def complete(
        self,
        picture: str | Path,
        mask: str | Path | None = None,
        *,
        redraw: str | Path | None = None,
        at: tuple[int, int] | None = None,
        n: int = 1,
        cond: Maps | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> Samples:
        """Draw the pixels of a picture that are white in `mask` (an image of its size, or "upper-half" to keep that
        half). With a larger `size`, draw the surroundings of the picture, whose upper left corner is `at` (x, y),
        centred by default. Other pixels are unchanged; with `keep="codes"` their codes are unchanged instead, and the
        whole picture is decoded. With `redraw` in place of `mask`, `picture` is a PNG that `sample_to` wrote: its codes
        where the mask is black stay as they were drawn.

        Other arguments as in `sample`. Raises BadImageError for files that cannot be read.
        """
        request = resolve_request(
            self, {"n": n, **settings}, cond=cond, complete=picture, mask=mask, redraw=redraw, at=at
        )
        return _in_memory(request, on_progress)

    def sample_to(
        self,
        folder: str | Path,
        *,
        cond: Maps | None = None,
        complete: str | Path | None = None,
        mask: str | Path | None = None,
        redraw: str | Path | None = None,
        at: tuple[int, int] | None = None,
        first: int = 0,
        shard: Shard = WHOLE,
        tokens: str | Path | None = None,
        npz: str | Path | None = None,
        class_map: str | Path | None = None,
        weights: str | Path | None = None,
        offline: bool = False,
        on_sample: Callable[[SampleFile], None] | None = None,
        on_progress: OnProgress | None = None,
        **settings: Any,
    ) -> WrittenSamples:
        """Do what `taming sample` does: draw pictures, or complete one, and write them into `folder` as PNGs, with a
        grid, and optionally as a token file and as one array (`npz`).

        Pictures that are present with the same settings are kept, so an interrupted call resumes when it is repeated.
        With `accept_rate` below 1, n / accept_rate candidates are drawn, and the n are written whose class the
        `classifier` finds most likely; `class_map` is JSON from the prior's classes to the classifier's, `weights` a
        file or folder of the classifier's weights, and `offline` forbids a download. `shard` draws a part of the
        samples. `n` is by default the number of maps, at least 1. `on_sample` is called for each picture once it is
        written. Other arguments as in `sample` and `complete`. Raises UsageError also where files are present with
        other settings; Interrupted after a signal.
        """
        request = resolve_request(
            self,
            settings,
            cond=cond,
            complete=complete,
            mask=mask,
            redraw=redraw,
            at=at,
            first=first,
            shard=shard,
            folder=Path(folder),
            tokens=None if tokens is None else Path(tokens),
            npz=None if npz is None else Path(npz),
            class_map=None if class_map is None else Path(class_map),
            weights=None if weights is None else Path(weights),
            offline=offline,
        )
        return write_samples(request, on_sample=on_sample, on_progress=on_progress)


def _in_memory(request: Request, on_progress: OnProgress | None) -> Samples:
    if request.config.accept_rate < 1:
        raise UsageError(f"accept_rate is {request.config.accept_rate:g}; candidates are drawn by sample_to alone")
    return draw(request, request.numbers, on_progress=on_progress)
