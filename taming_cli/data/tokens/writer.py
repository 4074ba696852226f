"""Writes token files so that a kill at any moment loses no finished work and leaves no broken file at the target.

A job's items are divided into fixed slices. Each becomes a shard, a small token file under `FILE.parts/`, which is
written under a temporary name, flushed to the disk and renamed; at the end the shards are merged in the same way. So
every file under its final name is complete, and a restarted job continues at the next shard. The result does not
depend on how the work was divided or interrupted.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from taming_cli.config.shard import Shard
from taming_cli.data.disk import publish, refusals
from taming_cli.data.tokens.columns import Skipped, TokenContent, sort_labels, stored_text, write_tokens
from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.data.tokens.header import TokenHeader, TokenPart
from taming_cli.data.tokens.merge import Codes, Finished, differences, identity, join
from taming_cli.data.tokens.parts import PartsFolder
from taming_cli.errors import BadFileError, UsageError


@dataclass(frozen=True)
class ShardSlice:
    """Items `start` to `stop` (exclusive) of a job's list, which become its shard number `index`."""

    index: int
    start: int
    stop: int


class TokenJob:
    """A token file that is written by one process at a time, over any number of starts.

    `plan` is a JSON object of everything that determines the content (settings, a digest of the item names in order).
    A restarted job recognises its work by `plan`, `header` (except `codec_path` and `created_by`) and `total`, the
    number of items. `shard_size` is the number of items of a shard. With `part`, this is one machine's part of the job:
    its slices cover its own range of the items, and `merge` joins the results.

        with TokenJob(path, header=header, plan=plan, total=len(items), shard_size=256) as job:
            for shard in job.pending():
                job.write(shard, codes=..., names=..., labels=..., conditions=..., skipped=...)
            finished = job.finish()

    `done` is True if the target already holds this job's result; then nothing is pending, and `finish` returns the same
    as before. Raises `UsageError` if the target, or an unfinished job, exists with other settings, and `TamingError` if
    another process holds the job or the disk refuses a write.
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
            raise UsageError(f"{self.path}: there are no items for it; name at least one")
        content = {"header": identity(header), "plan": dict(plan), "total": total}
        self._plan = json.loads(json.dumps(content | {"shard_size": shard_size}))
        self._plan_sha256 = job_sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self._part, items = None, range(total)
        if part is not None and part.count > 1:
            self._part = TokenPart(index=part.index, count=part.count, total=total, of=job_sha256)
            self._plan |= {"part": str(part)}
            self._plan_sha256 = hashlib.sha256(f"{job_sha256} {part}".encode()).hexdigest()
            items = part.stretch(total)
            if not items:
                raise UsageError(f"{self.path}: part {part} of {total} items is empty; use fewer parts")
        starts = range(items.start, items.stop, shard_size)
        self._slices = [ShardSlice(k, start, min(start + shard_size, items.stop)) for k, start in enumerate(starts)]
        self._parts = PartsFolder(self.path)
        self._complete: set[int] = set()
        self.done = self._target_is_ours()

    def __enter__(self) -> Self:
        if self.done and not self._parts.folder.exists():
            return self
        self._parts.lock()
        try:
            self.done = self._target_is_ours()  # another process may have finished it before this one got the lock
            if not self.done:
                self._resume()
            elif self._parts.read_plan() == self._plan or not self._parts.shards():
                self._parts.remove()
        except BaseException:
            self._parts.unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.unlock()

    def pending(self) -> list[ShardSlice]:
        """Return the slices without a complete shard, in order."""
        return [] if self.done else [shard for shard in self._slices if shard.index not in self._complete]

    def write(
        self,
        shard: ShardSlice,
        *,
        codes: Codes,
        names: Sequence[str],
        labels: Sequence[str | None],
        conditions: Mapping[str, Codes],
        skipped: Sequence[Skipped],
        top: Codes | None = None,
    ) -> None:
        """Write one shard; once this returns, it survives a kill.

        `codes` and each of `conditions` are (n, V, h, w) in [0, codebook_size); `names` and `labels` (None for none)
        are those of the n samples; `skipped` holds the other items of the slice. With two levels of codes, `codes` are
        the bottom level's, and `top` (n, V, h/2, w/2) the top level's.
        """
        assert self._parts.held, "a job writes within its `with` statement"
        assert not self.done, f"{self.path} is done"
        assert len(names) == len(labels) == len(codes), (len(names), len(labels), len(codes))
        assert len(codes) + len(skipped) == shard.stop - shard.start, (shard, len(codes), len(skipped))
        assert set(conditions) == set(self.header.conditions), (set(conditions), set(self.header.conditions))
        _check_range(codes, self.header.codebook_size)
        assert (top is not None) == bool(self.header.top_codebook_size), self.header.top_codebook_size
        if top is not None:
            _check_range(top, self.header.top_codebook_size)
        for kind, values in conditions.items():
            _check_range(values, self.header.conditions[kind].codebook_size)
        label_names = sort_labels(label for label in labels if label is not None)
        numbers: dict[str | None, int] = {name: number for number, name in enumerate(label_names)}
        stored = stored_text(names)
        content = TokenContent(
            header=self.header,
            count=len(names),
            codes=[codes],
            top=[] if top is None else [top],
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
        self._complete.add(shard.index)

    def finish(self) -> Finished:
        """Merge the shards into the target, in order, and remove them; nothing may be pending.

        Raises `TamingError` if every item was skipped.
        """
        if self.done:
            file = TokenFile(self.path)
            return Finished(self.path, len(file), file.skipped)
        assert self._parts.held, "a job finishes within its `with` statement"
        assert not self.pending(), self.pending()
        self._target_is_ours()
        shards = [self._shard_path(shard) for shard in self._slices]
        finished = join(shards, self._parts, self.header, self._plan_sha256, self._part)
        self.done = True
        self._parts.remove()
        return finished

    def _shard_path(self, shard: ShardSlice) -> Path:
        return self._parts.folder / f"shard-{shard.index:05d}.h5"

    def _shard_sha256(self, shard: ShardSlice) -> str:
        return hashlib.sha256(f"{self._plan_sha256} {shard.start} {shard.stop}".encode()).hexdigest()

    def _target_is_ours(self) -> bool:
        """Return whether the target is this job's result. Raises `UsageError` for any other file there."""
        if not self.path.exists():
            return False
        try:
            same = TokenFile(self.path).plan_sha256 == self._plan_sha256
        except BadFileError as error:
            raise UsageError(f"{error}; give another -o or remove it") from error
        if not same:
            raise UsageError(f"{self.path}: exists and was made with other settings; give another -o or remove it")
        return True

    def _resume(self) -> None:
        """Continue an earlier start of this job; incomplete shards count as unwritten."""
        self._parts.clear_temporaries()
        plan = self._parts.read_plan()
        if plan != self._plan:
            if self._parts.shards():
                reason = "; ".join(differences(plan, self._plan)) if plan else "its plan.json is missing or damaged"
                raise UsageError(
                    f"{self._parts.folder}: holds an unfinished job with other settings ({reason}); "
                    "use those again, give another -o, or remove that folder"
                )
            self._parts.write_plan(self._plan)
        self._complete = {shard.index for shard in self._slices if self._is_complete(shard)}

    def _is_complete(self, shard: ShardSlice) -> bool:
        try:
            return verify(self._shard_path(shard)).plan_sha256 == self._shard_sha256(shard)
        except BadFileError:
            return False


def _check_range(codes: Codes, codebook_size: int) -> None:
    if codes.size:
        assert 0 <= codes.min() <= codes.max() < codebook_size, (codes.min(), codes.max(), codebook_size)
