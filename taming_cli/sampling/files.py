"""Writes the samples of a request: PNGs that record their settings, a grid of them, a token file and an array."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch

import taming_cli
from taming_cli.codec.reconstruct import DECODING, decoding
from taming_cli.codec.vqgan import code_levels
from taming_cli.config.size import Size
from taming_cli.data.arrays import origin_of, write_pictures
from taming_cli.data.disk import make_folder, sync_folder, write_atomically
from taming_cli.data.images import SETTINGS, SHEET, grid, png_settings, read_image, write_png
from taming_cli.data.locks import shared
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.errors import UsageError
from taming_cli.prior.estimate import SamplingCost
from taming_cli.runtime.interrupt import StopRequest
from taming_cli.runtime.run.folder import next_folder
from taming_cli.sampling.draw import chunk_size, draw_chunks
from taming_cli.sampling.model import OnProgress
from taming_cli.sampling.own_codes import CHUNK, OwnCodes, codes_text
from taming_cli.sampling.rejection import Scorer, accepted, load_scorer
from taming_cli.sampling.request import Request

LARGEST_GRID = 100
"""Largest number of pictures in the grid; more would be too small to see."""


@dataclass(frozen=True, kw_only=True)
class SampleFile:
    """A picture on disk: its path, the number of the sample, the names of its class and map, its size in pixels, and
    whether it was decoded with exact statistics. `cost` is that of the prior. A raster prior counts it while it draws,
    so it is None for a picture that was present, and for the best of several candidates."""

    path: Path
    sample: int
    label: str | None
    map: str | None
    size: Size
    exact: bool
    cost: SamplingCost | None = None

    def to_json(self, **settings: Any) -> dict[str, Any]:
        """A description for other programs, with `settings` that all samples share."""
        values = {"path": str(self.path), "sample": self.sample, "seed": settings.pop("seed"), "class": self.label}
        values |= {"size": str(self.size), **settings, **({} if self.cost is None else self.cost._asdict())}
        values[DECODING] = decoding(self.exact)
        return values if self.map is None else values | {"cond": self.map}


class WrittenSamples(NamedTuple):
    """A folder, and the pictures of one request in it."""

    folder: Path
    files: list[SampleFile]


def write_samples(
    request: Request,
    *,
    on_sample: Callable[[SampleFile], None] | None = None,
    on_progress: OnProgress | None = None,
    on_decode: OnProgress | None = None,
    on_bytes: Callable[[int, int | None], None] | None = None,
) -> WrittenSamples:
    """Draw the samples of a request and write its files; returns the folder and the pictures.

    Each picture is `NNNNNN.png`, with its settings in the text chunk `taming` and its codes in another; `grid.png`
    shows up to 100 of them; `request.tokens` receives the codes, and `request.npz` all pictures as one array. Pictures
    that are present with the same settings are kept, so an interrupted call resumes when it is repeated.

    `on_sample` is called for each picture once it is written; `on_progress` receives (cells drawn, cells in total) of
    the candidates, if any, and then of the samples; `on_decode` (cells decoded, cells in total) of a large picture;
    `on_bytes` (bytes, total) of a classifier's download. Raises UsageError if a file is present with other settings,
    before anything is drawn; Interrupted after a signal.
    """
    scorer = load_scorer(request, on_bytes) if request.config.accept_rate < 1 else None
    npz_plan = "" if request.npz is None else _npz_plan(request, request.npz, scorer)
    folder = request.folder or next_folder(Path("runs") / "sample")
    numbers: Sequence[int] = request.numbers[request.shard.places]
    if scorer is None:
        _refuse_others(request, folder, numbers)
    make_folder(folder)
    with shared(folder, request.shared_settings):
        if scorer is not None:
            numbers = accepted(request, folder, scorer, on_progress)
        files = _write_pictures(request, folder, numbers, on_sample, on_progress, on_decode)
    if request.npz is not None:
        write_npz(request.npz, [file.path for file in files], [request.class_of(n) for n in numbers], npz_plan)
    return WrittenSamples(folder, files)


def _write_pictures(
    request: Request,
    folder: Path,
    numbers: Sequence[int],
    on_sample: Callable[[SampleFile], None] | None,
    on_progress: OnProgress | None,
    on_decode: OnProgress | None,
) -> list[SampleFile]:
    """Write the PNGs, their grid and the token file."""
    size, exact = request.frame.size, request.model.exact(request.grid)
    files = [
        SampleFile(
            path=folder / f"{number:06d}.png",
            sample=number,
            label=request.label_of(number),
            map=request.maps.name_of(number),
            size=size,
            exact=exact,
            cost=None if "stride" in request.model.own_settings else request.cost,
        )
        for number in numbers
    ]
    settings = _refuse_others(request, folder, numbers)
    codec_sha256 = request.model.codec.sha256()
    with ExitStack() as stack:
        job = stack.enter_context(_token_job(request, request.tokens, numbers)) if request.tokens else None
        pending = {part.start: part for part in job.pending()} if job is not None else {}
        stop = stack.enter_context(StopRequest())

        def find_missing(start: int, chunk: Sequence[int]) -> Sequence[int]:
            present = all(file.path.exists() for file in files[start : start + len(chunk)])
            return () if present and start not in pending else chunk

        for chunk in draw_chunks(request, numbers, find_missing, on_progress=on_progress, on_decode=on_decode):
            done = files[chunk.start : chunk.start + len(chunk.numbers)]
            if chunk.drawn is not None:
                if chunk.drawn.costs is not None:
                    done = [replace(file, cost=cost) for file, cost in zip(done, chunk.drawn.costs, strict=True)]
                    files[chunk.start : chunk.start + len(done)] = done
                for file, image, codes in zip(done, chunk.drawn.images, chunk.drawn.codes, strict=True):
                    own = codes_text(OwnCodes(codes, request.frame, codec_sha256))
                    write_png(file.path, image, {SETTINGS: settings[file.path], CHUNK: own})
                if job is not None and chunk.start in pending:
                    bottom, *top = code_levels(request.model.codec.config, chunk.drawn.codes[:, None])
                    job.write(
                        pending[chunk.start],
                        codes=bottom.numpy(),
                        top=top[0].numpy() if top else None,
                        names=[file.path.name for file in done],
                        labels=chunk.drawn.classes,
                        conditions={},
                        skipped=[],
                    )
            if on_sample is not None:
                for file in done:
                    on_sample(file)
            if stop.requested and done[-1] is not files[-1]:
                written = chunk.start + len(done)
                raise stop.interrupted(f"stopped; {written} pictures are in {folder}: repeat the command to continue")
        if job is not None:
            job.finish()
    if files:
        shown = [file.path for file in files[: request.model.at_once(request.grid, LARGEST_GRID)]]
        _write_grid(folder / "grid.png", shown)
    sync_folder(folder)
    return files


def _refuse_others(request: Request, folder: Path, numbers: Sequence[int]) -> dict[Path, str]:
    """The settings of each picture by its path. UsageError where a file is present with other settings."""
    settings = {
        folder / f"{number:06d}.png": request.settings_of(number, request.label_of(number)) for number in numbers
    }
    for path, text in settings.items():
        if path.exists() and png_settings(path) != text:
            raise UsageError(f"{path} exists and was made with other settings; give another --out")
    return settings


def write_npz(path: Path, pictures: Sequence[Path], classes: Sequence[int | None], plan: str) -> None:
    """Write pictures on disk as one .npz in the format of the ADM suite: all pictures, and their classes if all have
    one. `plan` is recorded in the file, which is replaced atomically."""
    known = None if None in classes else [index for index in classes if index is not None]
    rows = (read_image(each.read_bytes(), str(each)).permute(1, 2, 0).numpy() for each in pictures)
    write_atomically(path, lambda temporary: write_pictures(temporary, rows, len(pictures), known, origin=plan))


def _npz_plan(request: Request, path: Path, scorer: Scorer | None) -> str:
    """The hash of everything that the array depends on. Raises UsageError if another file is at its path."""
    plan = {**request.plan(request.samples), "judge": None if scorer is None else scorer.stamp}
    digest = sha256(json.dumps(plan).encode()).hexdigest()
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file for the array")
    if path.exists() and origin_of(path) != digest:
        raise UsageError(f"{path} exists and holds other pictures; name another file or remove it")
    return digest


def _token_job(request: Request, path: Path, numbers: Sequence[int]) -> TokenJob:
    codec = request.model.codec
    header = TokenHeader(
        codec_sha256=codec.sha256(),
        codec_path=str(request.model.path.resolve()),
        codebook_size=codec.config.codebook_size,
        downsample_factor=codec.config.downsample_factor,
        preprocess={"sampled": True, **request.frame.to_values()},
        created_by=f"taming {taming_cli.__version__}",
        views=1,
        height=request.grid.height,
        width=request.grid.width,
        top_codebook_size=codec.config.codebook_size if codec.config.levels > 1 else 0,
    )
    plan = request.plan(numbers)
    return TokenJob(path, header=header, plan=plan, total=len(numbers), shard_size=chunk_size(request))


def _write_grid(path: Path, pictures: Sequence[Path]) -> None:
    images = torch.stack([read_image(picture.read_bytes(), picture.name) for picture in pictures])
    columns = max(1, round((len(pictures) * images.shape[2] / images.shape[3]) ** 0.5))
    write_png(path, grid(images, columns=columns), {SETTINGS: SHEET})
