"""Samples as files: `sample_to` is `taming sample`. PNGs that say what they are of, a grid, token file and array."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import taming_cli
from taming_cli.codec.reconstruct import DECODING, decoding
from taming_cli.config.fields import to_dict
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.size import Size
from taming_cli.data.arrays import write_pictures
from taming_cli.data.disk import write_atomically
from taming_cli.data.images import SETTINGS, SHEET, grid, png_settings, read_image, write_png
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.errors import UsageError
from taming_cli.runtime.device import precision_name
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.model_files import named
from taming_cli.sampling.conditions import Asked
from taming_cli.sampling.pipeline import Pipeline

CHUNK = 64
"""Samples drawn, decoded and written before the next, at most: what a kill can cost."""
GRID_MOST = 100
"""Pictures in the grid, at most; more would only make it unreadable."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One picture on disk: its file, the number of the sample, its class, its map, its size in pixels, and whether it
    was decoded exactly."""

    path: Path
    sample: int
    label: str | None
    map: str | None
    size: Size
    exact: bool


def sample_to(
    pipeline: Pipeline,
    config: SampleConfig,
    out: Path,
    *,
    asked: Asked | None = None,
    first: int = 0,
    numbers: Sequence[int] | None = None,
    tokens: Path | None = None,
    ckpt: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_decode: Callable[[int, int], None] | None = None,
) -> Iterator[Sampled]:
    """Draw samples `first` to `first + n - 1`, or `numbers`, into the folder `out`, yielding each once it is written.

    Each is `NNNNNN.png` with its settings in the text chunk `taming`; `grid.png` shows up to 100 of them; `tokens`
    receives the codes. `asked` is what `Pipeline.ask` made of condition maps. Pictures that are there with the very
    same settings are kept, so a killed job goes on where it stopped. Raises UsageError where another picture is in the
    way, Interrupted after a signal.
    """
    numbers = range(first, first + config.n) if numbers is None else numbers
    asked = asked or pipeline.ask(config)
    classes = pipeline.classes(config, numbers, asked)
    settings = {
        number: settings_of(pipeline, config, asked, number, index)
        for number, index in zip(numbers, classes, strict=True)
    }
    targets = {number: out / f"{number:06d}.png" for number in numbers}
    for number, target in targets.items():
        if target.exists() and png_settings(target) != settings[number]:
            raise UsageError(f"{target} exists and was made with other settings; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    cells, step = asked.latent.width * asked.latent.height, pipeline.at_once(asked.latent, CHUNK)
    exact = pipeline.exact(asked.latent)
    with ExitStack() as stack:
        job = stack.enter_context(_job(pipeline, config, asked, tokens, ckpt, numbers)) if tokens else None
        pending = {part.start: part for part in job.pending()} if job is not None else {}
        stop = stack.enter_context(StopRequest())
        for start in range(0, len(numbers), step):
            chunk = numbers[start : start + step]
            if start in pending or not all(targets[number].exists() for number in chunk):
                done = start * cells

                def told(now: int, total: int, done: int = done, chunk: Sequence[int] = chunk) -> None:
                    if on_progress is not None:
                        on_progress(done + now * len(chunk) * cells // max(1, total), len(numbers) * cells)

                drawn = pipeline.draw(config, asked=asked, numbers=chunk, on_progress=told, on_decode=on_decode)
                for number, image in zip(chunk, drawn.images, strict=True):
                    write_png(targets[number], image, {SETTINGS: settings[number]})
                if job is not None and start in pending:
                    names = [targets[number].name for number in chunk]
                    codes = drawn.codes[:, None].numpy()
                    job.write(pending[start], codes=codes, names=names, labels=drawn.classes, conditions={}, skipped=[])
            for number, index in zip(chunk, classes[start : start + step], strict=True):
                label = None if index is None else pipeline.label(index)
                name = asked.names[number % len(asked.names)] if asked.names else None
                yield Sampled(path=targets[number], sample=number, label=label, map=name, size=asked.size, exact=exact)
            if stop.requested and chunk[-1] != numbers[-1]:
                raise stop.interrupted(f"stopped; {start + len(chunk)} pictures are in {out}: run the same again")
        if job is not None:
            job.finish()
    if shown := numbers[: pipeline.at_once(asked.latent, GRID_MOST)]:
        _write_grid(out, [targets[number] for number in shown])


def write_npz(path: Path, pictures: Sequence[Path], classes: Sequence[int | None], made: str) -> None:
    """Put samples that are on disk into one .npz, as the ADM suite reads them: all pictures, and the classes if there
    are any. The file appears whole, and says what it was `made` of."""
    known = None if None in classes else [index for index in classes if index is not None]
    rows = (read_image(each.read_bytes(), str(each)).permute(1, 2, 0).numpy() for each in pictures)
    write_atomically(path, lambda temporary: write_pictures(temporary, rows, len(pictures), known, made=made))


def plan_of(pipeline: Pipeline, config: SampleConfig, asked: Asked, numbers: Sequence[int]) -> dict[str, Any]:
    """All that decides what these samples together look like: the same plan, the same pictures."""
    plan: dict[str, Any] = {
        "config": {**to_dict(config), "batch_size": None},
        "prior": pipeline.sha256,
        "precision": precision_name(pipeline.precision),
        DECODING: decoding(pipeline.exact(asked.latent)),
        "numbers": hashlib.sha256(repr(list(numbers)).encode()).hexdigest(),
    }
    if hashes := asked.hashes(numbers):
        plan["asked"] = hashes
    if pipeline.tuned:
        plan["codec"] = pipeline.tuned
    return plan


def _job(
    pipeline: Pipeline, config: SampleConfig, asked: Asked, tokens: Path, ckpt: Path | None, numbers: Sequence[int]
) -> TokenJob:
    header = TokenHeader(
        codec_sha256=pipeline.codec.sha256(),
        codec_path=str(named(ckpt).resolve()) if ckpt else "",
        codebook_size=pipeline.codec.config.codebook_size,
        downsample_factor=pipeline.codec.config.downsample_factor,
        preprocess={"sampled": True, **asked.frame.to_values()},
        created_by=f"taming {taming_cli.__version__}",
        views=1,
        height=asked.latent.height,
        width=asked.latent.width,
    )
    plan = plan_of(pipeline, config, asked, numbers)
    return TokenJob(
        tokens, header=header, plan=plan, total=len(numbers), shard_size=pipeline.at_once(asked.latent, CHUNK)
    )


def settings_of(pipeline: Pipeline, config: SampleConfig, asked: Asked, number: int, index: int | None) -> str:
    """What a picture's text chunk says: all that it depends on, as JSON."""
    values = to_dict(config)
    for name in ("n", "batch_size", "class_name", "size"):
        values.pop(name)
    if hashes := asked.hashes([number]):
        values["asked"] = hashes
    if pipeline.tuned:
        values["codec_file_sha256"] = pipeline.tuned
    return json.dumps(
        {
            "prior_sha256": pipeline.sha256,
            "sample": number,
            "class": None if index is None else pipeline.label(index),
            "size": str(asked.size),
            "grid": str(asked.latent),
            "precision": precision_name(pipeline.precision),
            DECODING: decoding(pipeline.exact(asked.latent)),
            **values,
            "stride": pipeline.stride(config),
        },
        sort_keys=True,
    )


def _write_grid(out: Path, paths: Sequence[Path]) -> None:
    images = torch.stack([read_image(path.read_bytes(), path.name) for path in paths])
    columns = max(1, round((len(paths) * images.shape[2] / images.shape[3]) ** 0.5))
    write_png(out / "grid.png", grid(images, columns=columns), {SETTINGS: SHEET})
