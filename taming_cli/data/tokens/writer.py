"""Write token files so that a kill at any moment loses no finished work and leaves no broken file at the target.

A job's items are cut into fixed slices. Each becomes a shard, a small token file of its own under `FILE.parts/`,
written under a temporary name, flushed to the disk and renamed; at the end the shards are merged the same way. What
stands under its final name is therefore whole, and a restarted job goes on at the next shard. The result does not
depend on how the work was cut or interrupted.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from taming_cli.config.shard import Shard
from taming_cli.data.disk import refusals
from taming_cli.data.tokens.columns import Skipped, TokenContent, sort_labels, stored_text, write_tokens
from taming_cli.data.tokens.file import TokenFile, TokenHeader, TokenPart, blocks, verify
from taming_cli.data.tokens.parts import PartsFolder, publish
from taming_cli.errors import BadFileError, TamingError, UsageError

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ShardSlice:
    """Items `start` to `stop` (exclusive) of a job's list, which make its shard number `index`."""

    index: int
    start: int
    stop: int


@dataclass(frozen=True)
class Finished:
    """A whole token file, how many samples it holds, and the items that it lacks."""

    path: Path
    count: int
    skipped: tuple[Skipped, ...]


class TokenJob:
    """One token file being made, by one process at a time, over as many starts as it takes.

    `plan` is anything that JSON can hold and must say all that decides the content (settings, a digest of the item
    names in order); together with `header` (but for `codec_path` and `created_by`) and `total` it is how a restarted
    job knows its own work. `total` is the number of items, `shard_size` how many of them make a shard. With `part`,
    this is the job of one of several machines: its slices are those of its own stretch of the items, and `merge` joins
    what all have made.

        with TokenJob(path, header=header, plan=plan, total=len(items), shard_size=256) as job:
            for shard in job.pending():
                job.write(shard, codes=..., names=..., labels=..., conditions=..., skipped=...)
            finished = job.finish()

    `done` is True when the target already holds this very job's result; then nothing is pending, and `finish` says
    what it said before. Raises `UsageError` where the target, or an unfinished job, is there with other settings, and
    `TamingError` where another process holds the job or the disk refuses.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        header: TokenHeader,
        plan: Mapping[str, Any],
        total: int,
        shard_size: int,
        part: Shard | None = None,
    ) -> None:
        assert shard_size >= 1, shard_size
        self.path = Path(path)
        self.header = header
        if total < 1:
            raise UsageError(f"{self.path}: there are no items to make it from; name at least one")
        content = {"header": _deciding(header), "plan": dict(plan), "total": total}
        self._plan = json.loads(json.dumps(content | {"shard_size": shard_size}))
        self._plan_sha256 = whole = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self._part, items = None, range(total)
        if part is not None and part.count > 1:
            self._part = TokenPart(index=part.index, count=part.count, total=total, of=whole)
            self._plan |= {"part": str(part)}
            self._plan_sha256 = hashlib.sha256(f"{whole} {part}".encode()).hexdigest()
            items = part.stretch(total)
            if not items:
                raise UsageError(f"{self.path}: part {part} of {total} items is empty; use fewer parts")
        starts = range(items.start, items.stop, shard_size)
        self._slices = [ShardSlice(k, start, min(start + shard_size, items.stop)) for k, start in enumerate(starts)]
        self._parts = PartsFolder(self.path)
        self._whole: set[int] = set()
        self.done = self._look_at_target()

    def __enter__(self) -> Self:
        if self.done and not self._parts.folder.exists():
            return self
        self._parts.lock()
        try:
            self.done = self._look_at_target()  # another process may have finished it before the lock was ours
            if not self.done:
                self._take_up()
            elif self._parts.read_plan() == self._plan or not self._parts.shards():
                self._parts.remove()
        except BaseException:
            self._parts.unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.unlock()

    def pending(self) -> list[ShardSlice]:
        """Return the slices that have no whole shard yet, in order."""
        return [] if self.done else [shard for shard in self._slices if shard.index not in self._whole]

    def write(
        self,
        shard: ShardSlice,
        *,
        codes: Codes,
        names: Sequence[str],
        labels: Sequence[str | None],
        conditions: Mapping[str, Codes],
        skipped: Sequence[Skipped],
    ) -> None:
        """Write one shard; once this returns, no kill undoes it.

        `codes` and each of `conditions` are (n, V, h, w) in [0, codebook_size); `names`, and `labels` (None for none),
        are those of the n samples; `skipped` holds the slice's other items.
        """
        assert self._parts.held, "a job writes inside its `with`"
        assert not self.done, f"{self.path} is done"
        assert len(names) == len(labels) == len(codes), (len(names), len(labels), len(codes))
        assert len(codes) + len(skipped) == shard.stop - shard.start, (shard, len(codes), len(skipped))
        assert set(conditions) == set(self.header.conditions), (set(conditions), set(self.header.conditions))
        _check_range(codes, self.header.codebook_size)
        for kind, values in conditions.items():
            _check_range(values, self.header.conditions[kind].codebook_size)
        label_names = sort_labels(label for label in labels if label is not None)
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(label_names)}
        stored = stored_text(names)
        content = TokenContent(
            header=self.header,
            count=len(names),
            codes=[codes],
            conditions={kind: [values] for kind, values in sorted(conditions.items())},
            names=[stored],
            name_bytes=stored.dtype.itemsize,
            labels=[np.array([numbers.get(label, -1) for label in labels], dtype=np.int32)],
            label_names=label_names,
            skipped=skipped,
            plan_sha256=self._shard_sha256(shard),
        )
        path = self._shard_path(shard)
        with refusals(self.path, self._parts.temporary(path)):
            write_tokens(self._parts.temporary(path), content)
            publish(self._parts.temporary(path), path)
        self._whole.add(shard.index)

    def finish(self) -> Finished:
        """Merge the shards into the target, in order, and clear them away; needs nothing to be pending.

        Raises `TamingError` when every item had to be skipped.
        """
        if self.done:
            file = TokenFile(self.path)
            return Finished(self.path, len(file), file.skipped)
        assert self._parts.held, "a job finishes inside its `with`"
        assert not self.pending(), self.pending()
        self._look_at_target()
        shards = [self._shard_path(shard) for shard in self._slices]
        finished = _join(shards, self._parts, self.header, self._plan_sha256, self._part)
        self.done = True
        self._parts.remove()
        return finished

    def _shard_path(self, shard: ShardSlice) -> Path:
        return self._parts.folder / f"shard-{shard.index:05d}.h5"

    def _shard_sha256(self, shard: ShardSlice) -> str:
        return hashlib.sha256(f"{self._plan_sha256} {shard.start} {shard.stop}".encode()).hexdigest()

    def _look_at_target(self) -> bool:
        """Say whether the target is this job's result; raises `UsageError` when it is anything else."""
        if not self.path.exists():
            return False
        try:
            same = TokenFile(self.path).plan_sha256 == self._plan_sha256
        except BadFileError as error:
            raise UsageError(f"{error}; it is in the way: give another -o or remove it") from error
        if not same:
            raise UsageError(f"{self.path}: exists and was made with other settings; give another -o or remove it")
        return True

    def _take_up(self) -> None:
        """Go on with what an earlier start left, if it was this job; shards that are not whole count as unwritten."""
        self._parts.clear_temporaries()
        there = self._parts.read_plan()
        if there != self._plan:
            if self._parts.shards():
                what = "; ".join(_differences(there, self._plan)) if there else "its plan.json is missing or damaged"
                raise UsageError(
                    f"{self._parts.folder}: holds an unfinished job with other settings ({what}); "
                    "use those again, give another -o, or remove that folder"
                )
            self._parts.write_plan(self._plan)
        self._whole = {shard.index for shard in self._slices if self._is_whole(shard)}

    def _is_whole(self, shard: ShardSlice) -> bool:
        try:
            return verify(self._shard_path(shard)).plan_sha256 == self._shard_sha256(shard)
        except BadFileError:
            return False


def merge(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Finished:
    """Join finished token files of one codec, latent size and preprocessing into `out`: in the given order, or, where
    they are the parts of one work, in theirs; the result is then what one job would have made.

    Raises `UsageError` when `out` exists or no file is given, `BadFileError` naming the file that is damaged, differs
    from the first, holds a name that an earlier one holds too, or is no part of the same work; and a part that is
    missing.
    """
    sources, target = [Path(path) for path in paths], Path(out)
    if not sources:
        raise UsageError("no token files to merge; name at least one")
    if target.exists():
        raise UsageError(f"{target}: exists; give another -o or remove it")
    first = TokenFile(sources[0]).header
    holder: dict[str, int] = {}
    for number, source in enumerate(sources):
        with TokenFile(source) as file:
            if different := "; ".join(_differences(_deciding(file.header), _deciding(first))):
                raise BadFileError(f"{source}: does not fit {sources[0]} ({different}); merge files of one kind")
            for name in file.names() if file.part is None else ():  # parts hold what the whole would, twice or not
                if (earlier := holder.setdefault(name, number)) != number:
                    raise BadFileError(f"{source}: holds {name!r}, as does {sources[earlier]}; leave one of them out")
    whole = next((part.of for part in (TokenFile(source).part for source in sources) if part is not None), None)
    if whole is not None:
        sources = _in_order(sources)
    parts = PartsFolder(target)
    parts.lock()
    try:
        if target.exists() or parts.shards():
            raise UsageError(f"{target}: exists, or a job is making it in {parts.folder}; give another -o")
        try:
            parts.clear_temporaries()
            return _join(sources, parts, first, whole)
        finally:
            parts.remove()
    finally:
        parts.unlock()


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """Token files, of which one is a part of a work, by their numbers. BadFileError for one that is no part of the same
    work, doubled, short or missing."""
    parts = [(path, TokenFile(path).part) for path in paths]
    first, known = next((path, part) for path, part in parts if part is not None)
    found: dict[int, Path] = {}
    for path, part in parts:
        if part is None:
            raise BadFileError(f"{path}: is a whole, and {first} a part of one; merge parts by themselves")
        if part.of != known.of or part.count != known.count:
            raise BadFileError(f"{path}: is part {part} of another work than {first}, part {known}; leave it out")
        if part.index in found:
            raise BadFileError(f"{path}: is part {part}, as is {found[part.index]}; leave one of them out")
        with TokenFile(path) as file:
            if len(file) + len(file.skipped) != part.items:
                raise BadFileError(f"{path}: holds {len(file)} of the {part.items} items of part {part}; make it again")
        found[part.index] = path
    if missing := sorted(set(range(1, known.count + 1)) - found.keys()):
        raise BadFileError(
            f"part {missing[0]}/{known.count} is missing; make it with --shard {missing[0]}/{known.count}, and name it"
        )
    return [found[index] for index in sorted(found)]


def _join(
    paths: Sequence[Path],
    parts: PartsFolder,
    header: TokenHeader,
    plan_sha256: str | None,
    part: TokenPart | None = None,
) -> Finished:
    """Write the samples of the token files at `paths`, in order, to the target; one block is in memory at a time."""
    # Each is opened only while it is read: a job may have more shards than a process may have open files.
    count, name_bytes, used, skipped = 0, 1, set[str](), list[Skipped]()
    for file in map(TokenFile, paths):
        count += len(file)
        name_bytes = max(name_bytes, file.name_bytes)
        used |= set(file.label_names)
        skipped += file.skipped
    if not count and part is None:
        parts.remove()
        first = f"; the first is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise TamingError(f"{parts.target}: not made, since all {len(skipped)} items had to be skipped{first}")
    label_names = sort_labels(used)
    places = {name: place for place, name in enumerate(label_names)}

    def opened() -> Iterator[TokenFile]:
        for path in paths:
            with TokenFile(path) as file:
                yield file

    def condition(kind: str) -> Iterator[Codes]:
        for file in opened():
            yield from (file.condition(kind, block) for block in blocks(file))

    def labels() -> Iterator[npt.NDArray[np.int32]]:
        for file in opened():
            table = np.array([*(places[name] for name in file.label_names), -1], dtype=np.int32)
            yield table[file.labels]  # a label of -1 picks the last

    content = TokenContent(
        header=header,
        count=count,
        codes=(file.codes(block) for file in opened() for block in blocks(file)),
        conditions={kind: condition(kind) for kind in sorted(header.conditions)},
        names=(stored_text(file.names(block)) for file in opened() for block in blocks(file)),
        name_bytes=name_bytes,
        labels=labels(),
        label_names=label_names,
        skipped=skipped,
        plan_sha256=plan_sha256,
        part=part,
    )
    with refusals(parts.target, parts.temporary(parts.target)):
        write_tokens(parts.temporary(parts.target), content)
        publish(parts.temporary(parts.target), parts.target)
    return Finished(parts.target, count, tuple(skipped))


def _check_range(codes: Codes, codebook_size: int) -> None:
    if codes.size:
        assert 0 <= codes.min() <= codes.max() < codebook_size, (codes.min(), codes.max(), codebook_size)


def _deciding(header: TokenHeader) -> dict[str, Any]:
    """Return what of a header must agree: all but where codecs lay and which program wrote."""
    said = {name: value for name, value in asdict(header).items() if name not in ("codec_path", "created_by")}
    for condition in said["conditions"].values():
        del condition["codec_path"]
    return said


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Name the values in which two JSON objects differ, as 'plan.size: 128 there, 256 here'."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
