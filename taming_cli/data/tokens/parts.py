"""The folder `FILE.parts/` in which one process at a time writes a large file in shards."""

import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import make_folder, publish, refusals, sync_folder
from taming_cli.data.locks import lock
from taming_cli.errors import TamingError


class PartsFolder:
    """The folder `FILE.parts/`: its lock, plan, shards and temporary files.

    The lock is released when the process ends, regardless of how, and even if forked workers continue (they would
    inherit a `flock`). Two users of the folder within one process do not exclude each other.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.with_name(target.name + ".parts")
        self._lock: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def lock(self) -> None:
        """Create the folder and become its only writer. Raises `TamingError` if another process holds the lock."""
        with refusals(self.folder / "lock"):
            while self._lock is None:
                make_folder(self.folder)
                with suppress(FileNotFoundError):  # the last writer is removing the folder: create it again
                    self._try_lock()
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _try_lock(self) -> None:
        path = self.folder / "lock"
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                lock(opened, path, fcntl.lockf)
            except BlockingIOError:
                holder = os.read(opened, 200).decode(errors="replace") or "another process"
                raise TamingError(f"{self.target}: {holder} is writing it; wait for it or give another -o") from None
            if path.stat().st_ino == os.fstat(opened).st_ino:  # otherwise it was removed before it could be locked
                self._lock = opened
        finally:
            if self._lock is None:
                os.close(opened)

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove_leftovers(self) -> None:
        """Remove what a writer left that was killed after it had finished the target. Shards stay, and so does a folder
        that another process holds."""
        if self.folder.exists():
            with suppress(TamingError):
                self.lock()
                if not self.shards():
                    self.remove()
                self.unlock()

    def shards(self) -> list[Path]:
        """Return the finished shards, in order."""
        return sorted(self.folder.glob("shard-*.h5"))

    def clear_temporaries(self) -> None:
        """Remove the unfinished files of a killed writer."""
        for path in self.folder.glob("*.tmp"):
            path.unlink()

    def temporary(self, target: Path) -> Path:
        """Return the temporary name of `target`, on the same file system."""
        return self.folder / f"{target.name}.tmp"

    def read_plan(self) -> Any:
        """Return the plan, {} if there is none."""
        try:
            return parse_json((self.folder / "plan.json").read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def write_plan(self, plan: Any) -> None:
        """Record the plan of the shards to be written."""
        path = self.folder / "plan.json"
        with refusals(path, self.temporary(path)):
            self.temporary(path).write_text(json.dumps(plan, indent=1), "utf-8")
            publish(self.temporary(path), path)

    def remove(self) -> None:
        """Remove our files, and the folder unless it holds others."""
        for path in [*self.folder.glob("*.tmp"), *self.shards(), self.folder / "plan.json", self.folder / "lock"]:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
            sync_folder(self.target.parent)
