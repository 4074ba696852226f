"""What a power cut leaves of a folder: a pessimistic model of a file system that forgets what was not synced.

- Data of a file survive once the file was synced. Data written since may be absent, zero, cut short, or there in some
  pages and zero in others.
- A name that was created, renamed or removed survives once its folder was synced. Until then each change may be there
  or not, independently of others; a rename within a folder is one change, one between two folders is two.
- A new folder is a name in its parent. Without it, all that is in it is gone, synced or not.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from recorded import Call

PAGE = 4096
STATES = ("nothing unsynced", "names only", "names and zeros", "names and half of the data", "a random part", "all")
"""The states that are built of each moment."""


@dataclass
class _File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""

    def survives(self, state: str, rng: random.Random) -> bytes:
        if self.data == self.synced or state == "all":
            return bytes(self.data)
        kind = rng.choice(STATES[:5]) if state == "a random part" else state
        since = bytes(self.data[len(self.synced) :]) if self.data.startswith(self.synced) else bytes(self.data)
        before = self.synced if self.data.startswith(self.synced) else b""
        if kind == "names and zeros":
            return before + bytes(len(since))
        if kind == "names and half of the data":
            return before + since[: len(since) // 2]
        if kind == "a random part":
            pages = [since[at : at + PAGE] for at in range(0, len(since), PAGE)]
            return before + b"".join(page if rng.random() < 0.5 else bytes(len(page)) for page in pages)
        return self.synced


@dataclass
class _Folder:
    names: "dict[str, _File | _Folder]" = field(default_factory=dict)
    synced: "dict[str, _File | _Folder]" = field(default_factory=dict)
    changes: "list[Mapping[str, _File | _Folder | None]]" = field(default_factory=list)

    def change(self, new: "Mapping[str, _File | _Folder | None]") -> None:
        self.changes.append(new)
        _apply(self.names, new)

    def sync(self) -> None:
        self.synced, self.changes = dict(self.names), []

    def survives(self, state: str, rng: random.Random) -> "dict[str, _File | _Folder]":
        names = dict(self.synced)
        for change in self.changes if state != "nothing unsynced" else ():
            if state != "a random part" or rng.random() < 0.5:
                _apply(names, change)
        return names


def _apply(names: "dict[str, _File | _Folder]", change: "Mapping[str, _File | _Folder | None]") -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """A folder as its calls change it. It begins as `folder` is, all of it synced."""

    def __init__(self, folder: Path) -> None:
        self._root = self._read(folder)
        self._opened: dict[int, _File | _Folder] = {}

    def _read(self, path: Path) -> _Folder:
        folder = _Folder()
        for each in path.iterdir():
            content = None if each.is_dir() else each.read_bytes()
            folder.names[each.name] = self._read(each) if content is None else _File(bytearray(content), content)
        folder.sync()
        return folder

    def apply(self, call: Call) -> None:
        """Change the folder by one call."""
        if call.kind in ("open", "create", "truncating"):
            parent, name = self._place(call.path)
            node = self._root if call.path == "." else parent.names.get(name)
            if node is None:
                node = _File()
                parent.change({name: node})
            elif call.kind == "truncating" and isinstance(node, _File):
                node.data.clear()
            self._opened[call.file] = node
        elif call.kind in ("write", "cut"):
            file = self._opened[call.file]
            assert isinstance(file, _File)
            if call.kind == "cut":
                file.data[:] = file.data[: call.offset].ljust(call.offset, b"\0")
                return
            at = len(file.data) if call.offset < 0 else call.offset
            file.data.extend(bytes(max(0, at - len(file.data))))
            file.data[at : at + len(call.data)] = call.data
        elif call.kind == "sync":
            node = self._opened[call.file]
            if isinstance(node, _File):
                node.synced = bytes(node.data)
            else:
                node.sync()
        else:
            self._rename(call)

    def _rename(self, call: Call) -> None:
        parent, name = self._place(call.path)
        if call.kind == "mkdir":
            parent.change({name: _Folder()})
        elif call.kind in ("unlink", "rmdir"):
            parent.change({name: None})
        else:
            target, new = self._place(call.target)
            node = parent.names[name]
            gone: Mapping[str, None] = {} if call.kind == "link" else {name: None}
            if target is parent:
                parent.change({**gone, new: node})
            else:
                target.change({new: node})
                parent.change(gone)

    def _place(self, path: str) -> tuple[_Folder, str]:
        *folders, name = PurePosixPath(path).parts or (".",)
        node = self._root
        for each in folders:
            below = node.names[each]
            assert isinstance(below, _Folder)
            node = below
        return node, name

    def left(self, state: str, rng: random.Random) -> dict[str, bytes | None]:
        """One of STATES after a power cut now: the content of each file by name; None for a folder."""
        return dict(self._walk(self._root, "", state, rng))

    def _walk(self, folder: _Folder, prefix: str, state: str, rng: random.Random) -> Iterator[tuple[str, bytes | None]]:
        for name, node in sorted(folder.survives(state, rng).items()):
            if isinstance(node, _File):
                yield prefix + name, node.survives(state, rng)
            else:
                yield prefix + name, None
                yield from self._walk(node, f"{prefix}{name}/", state, rng)


def write(left: Mapping[str, bytes | None], folder: Path) -> None:
    """Write what a power cut has left to a new folder."""
    folder.mkdir()
    for name, content in left.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
