"""Joins token files into one: the shards of a job, its parts from several machines, or files of the same kind."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taming_cli.data.disk import publish, refusals
from taming_cli.data.tokens.columns import Skipped, TokenContent, sort_labels, stored_text, write_tokens
from taming_cli.data.tokens.file import TokenFile, blocks
from taming_cli.data.tokens.header import TokenHeader, TokenPart
from taming_cli.data.tokens.parts import PartsFolder
from taming_cli.errors import BadFileError, TamingError, UsageError

Codes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Finished:
    """A complete token file, its number of samples, and the skipped items."""

    path: Path
    count: int
    skipped: tuple[Skipped, ...]


def merge(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Finished:
    """Join token files of one codec, latent size and preprocessing into `out`, in the given order.

    Parts of one job are joined in the order of their numbers, and the result equals that of the undivided job. Raises
    `UsageError` if `out` exists or no file is given, `BadFileError` for a file that is damaged, differs from the first,
    repeats a name of an earlier one, or belongs to another job, and for a missing part.
    """
    sources, target = [Path(path) for path in paths], Path(out)
    if not sources:
        raise UsageError("no token files to merge; name at least one")
    if target.exists():
        PartsFolder(target).remove_leftovers()
        raise UsageError(f"{target}: exists; give another -o or remove it")
    first = TokenFile(sources[0]).header
    holder: dict[str, int] = {}
    for number, source in enumerate(sources):
        with TokenFile(source) as file:
            if different := "; ".join(differences(identity(file.header), identity(first))):
                raise BadFileError(f"{source}: does not fit {sources[0]} ({different}); merge files of one kind")
            for name in file.names() if file.part is None else ():  # a job may repeat names, and so may its parts
                if (earlier := holder.setdefault(name, number)) != number:
                    raise BadFileError(f"{source}: holds {name!r}, as does {sources[earlier]}; leave one of them out")
    job_sha256 = next((part.of for part in (TokenFile(source).part for source in sources) if part is not None), None)
    if job_sha256 is not None:
        sources = _in_order(sources)
    parts = PartsFolder(target)
    parts.lock()
    try:
        if target.exists() or parts.shards():
            raise UsageError(f"{target}: exists, or a job is writing it in {parts.folder}; give another -o")
        try:
            parts.clear_temporaries()
            return join(sources, parts, first, job_sha256)
        finally:
            parts.remove()
    finally:
        parts.unlock()


def _in_order(paths: Sequence[Path]) -> list[Path]:
    """Sort the parts of a job by their numbers. Raises BadFileError for other files, and for repeated, incomplete or
    missing parts."""
    parts = [(path, TokenFile(path).part) for path in paths]
    first, known = next((path, part) for path, part in parts if part is not None)
    by_number: dict[int, Path] = {}
    for path, part in parts:
        if part is None:
            raise BadFileError(f"{path}: is not a part of a job, unlike {first}; merge parts by themselves")
        if part.of != known.of or part.count != known.count:
            raise BadFileError(f"{path}: is part {part} of another job than {first}, part {known}; leave it out")
        if part.index in by_number:
            raise BadFileError(f"{path}: is part {part}, as is {by_number[part.index]}; leave one of them out")
        with TokenFile(path) as file:
            if len(file) + len(file.skipped) != part.items:
                raise BadFileError(
                    f"{path}: holds {len(file)} of the {part.items} items of part {part}; write it again"
                )
        by_number[part.index] = path
    if missing := sorted(set(range(1, known.count + 1)) - by_number.keys()):
        raise BadFileError(
            f"part {missing[0]}/{known.count} is missing; write it with --shard {missing[0]}/{known.count}, and name it"
        )
    return [by_number[index] for index in sorted(by_number)]


def join(
    paths: Sequence[Path],
    parts: PartsFolder,
    header: TokenHeader,
    plan_sha256: str | None,
    part: TokenPart | None = None,
) -> Finished:
    """Write the samples of the token files at `paths`, in order, to the target, one block in memory at a time."""
    # Files are open only while they are read: a job may have more shards than a process may open.
    count, name_bytes, used, skipped = 0, 1, set[str](), list[Skipped]()
    for file in map(TokenFile, paths):
        count += len(file)
        name_bytes = max(name_bytes, file.name_bytes)
        used |= set(file.label_names)
        skipped += file.skipped
    if not count and part is None:
        parts.remove()
        first = f"; the first is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise TamingError(f"{parts.target}: not written, because all {len(skipped)} items were skipped{first}")
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
        top=(file.top(block) for file in opened() for block in blocks(file)),
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


def identity(header: TokenHeader) -> dict[str, Any]:
    """Return the values that identify a header's content: all but the paths of codecs and the program's version."""
    values = {name: value for name, value in header.to_values().items() if name not in ("codec_path", "created_by")}
    for condition in values["conditions"].values():
        del condition["codec_path"]
    return values


def differences(theirs: Any, ours: Any, name: str = "") -> Iterator[str]:
    """Yield the values in which two JSON objects differ, as 'plan.size: 128 there, 256 here'."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys()):
            yield from differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
    elif theirs != ours:
        yield f"{name}: {_short(theirs)} there, {_short(ours)} here"


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
