"""The system calls by which a command changes files below a folder, in order, as strace records them."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forked import start

_CALLS = (
    "open,openat,creat,close,dup,dup2,dup3,fcntl,write,pwrite64,writev,pwritev,lseek,ftruncate,truncate,fsync,fdatasync,"
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,copy_file_range,sendfile,fallocate,"
    "sync,syncfs,mmap,read,pread64,readv,clone,clone3"
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += +(-?\d+|0x[0-9a-f]+).*")
_SHARED_WRITE = re.compile(r"PROT_WRITE.*MAP_SHARED\b")
_DATA = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_UNKNOWN = {"writev", "pwritev", "copy_file_range", "sendfile", "fallocate", "syncfs", "sync"}


@dataclass(frozen=True)
class Call:
    """One change: `kind` is create, write, cut, sync, syncdir, rename, link, unlink, mkdir or rmdir; paths are relative
    to the folder, "." is the folder itself. Of a file that is open, `file` is the number of its opening."""

    kind: str
    path: str = ""
    target: str = ""
    file: int = -1
    offset: int = 0
    data: bytes = b""


def cannot_record() -> str:
    """Why system calls cannot be recorded here; empty if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace cannot trace: {done.stderr.strip()}"


def record(line: Sequence[str], folder: Path, log: Path) -> list[Call]:
    """Run a command to its end, and return its calls."""
    process = start(line, folder, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        pass
    options = ["-f", "-xx", "-s", str(2**24), "-o", str(log), "-e", f"trace={_CALLS}", "-p", str(process.pid)]
    with subprocess.Popen(["strace", *options], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        os.kill(process.pid, signal.SIGCONT)
        ended = process.wait()
        tracer.communicate()
    assert ended.code == 0, ended
    return list(_Reader(str(process.pid), folder).calls(log))


def _ended(log: Path) -> Iterator[re.Match[str]]:
    """The calls that have ended well, in the order in which they ended."""
    begun: dict[str, str] = {}
    with log.open() as lines:
        for each in lines:
            text, thread = each, each.partition(" ")[0]
            if text.rstrip().endswith("<unfinished ...>"):
                begun[thread] = text.rstrip().removesuffix("<unfinished ...>").rstrip()
                continue
            if " resumed>" in text:
                text = begun.pop(thread, "") + text.partition(" resumed>")[2]
            if (match := _LINE.match(text)) and not match[4].startswith("-"):
                yield match


@dataclass
class _Open:
    number: int
    path: str
    position: int = 0
    append: bool = False


@dataclass
class _Reader:
    process: str
    folder: Path
    opened: dict[int, _Open] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)

    def calls(self, log: Path) -> Iterator[Call]:
        """The calls of the command's process, whose threads share its files; not those of processes that it starts."""
        ended = list(_ended(log))
        threads = {self.process}
        started = [call for call in ended if call[2].startswith("clone") and "CLONE_THREAD" in call[3]]
        while new := {call[4] for call in started if call[1] in threads} - threads:
            threads |= new
        for call in ended:
            if call[1] in threads and not call[2].startswith("clone"):
                yield from self._call(call[2], call[3], int(call[4], 0))

    def _call(self, name: str, arguments: str, result: int) -> Iterator[Call]:
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _DATA.findall(arguments)]
        words = _DATA.sub("", arguments).split(", ")
        if name in ("open", "openat", "creat"):
            yield from self._open(os.fsdecode(texts[0]), arguments, result)
        elif name == "mmap":
            number = int(words[4]) if words[4].lstrip("-").isdecimal() else -1
            assert not (_SHARED_WRITE.search(arguments) and number in self.opened), arguments
        elif name in ("rename", "renameat", "renameat2", "link", "linkat"):
            source, target = (self._relative(os.fsdecode(text)) for text in texts)
            if source or target:
                assert source, arguments
                assert target, arguments
                yield Call(name[:6] if name.startswith("rename") else "link", source, target)
        elif name in ("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "truncate"):
            if path := self._relative(os.fsdecode(texts[0])):
                assert name != "truncate" or result, arguments
                kind = "rmdir" if "AT_REMOVEDIR" in arguments else name.removesuffix("at")
                yield Call(kind, path)
        elif words[0].isdecimal() and (file := self.opened.get(int(words[0]))):
            yield from self._of_open(name, file, words, texts, result)

    def _open(self, name: str, arguments: str, number: int) -> Iterator[Call]:
        self.opened.pop(number, None)
        if not (path := self._relative(name)):
            return
        file = _Open(len(self.sizes), path, append="O_APPEND" in arguments)
        self.sizes[file.number] = 0
        self.opened[number] = file
        if "O_TRUNC" in arguments or "O_CREAT" in arguments:
            yield Call("truncating" if "O_TRUNC" in arguments else "create", path, file=file.number)
        else:
            yield Call("open", path, file=file.number)

    def _of_open(
        self, name: str, file: _Open, words: Sequence[str], texts: Sequence[bytes], result: int
    ) -> Iterator[Call]:
        assert name not in _UNKNOWN, f"{name} on {file.path} is not modelled"
        if name == "close":
            del self.opened[int(words[0])]
        elif name in ("dup", "dup2", "dup3") or (name == "fcntl" and "F_DUPFD" in words[1]):
            self.opened[result] = file
        elif name in ("fsync", "fdatasync"):
            yield Call("sync", file.path, file=file.number)
        elif name == "ftruncate":
            yield Call("cut", file.path, file=file.number, offset=int(words[1]))
        elif name == "lseek":
            file.position = result
        elif name in ("read", "readv"):
            file.position += result
        elif name == "write":
            at = -1 if file.append else file.position
            yield Call("write", file.path, file=file.number, offset=at, data=texts[0][:result])
            file.position += result
        elif name == "pwrite64":
            yield Call("write", file.path, file=file.number, offset=int(words[-1]), data=texts[0][:result])

    def _relative(self, path: str) -> str:
        """A path relative to the folder; empty for one elsewhere."""
        whole = Path(os.path.normpath(self.folder / path))
        return str(whole.relative_to(self.folder)) if whole.is_relative_to(self.folder) else ""
