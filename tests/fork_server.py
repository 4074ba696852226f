"""A server that has torch and the package imported, and forks one process per `python -m MODULE`.

A Python process that imports torch takes 3 to 4 seconds of processor time before it does anything; a fork takes
milliseconds. `fork_client.py` stands in for the interpreter: it sends its arguments, environment, working directory and
standard streams, forwards signals, and ends as the forked process ends.

Nothing here may start a thread, because a fork keeps only one.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.distributed.elastic.multiprocessing.errors",
    "torch.distributed.fsdp",
    "torch.distributed.launcher.api",
    "torchvision",
    "lpips",
    "h5py",
    "multiprocessing.spawn",
)
"""Modules that commands import late, beside those of the package."""


def preload() -> None:
    """Import everything that a command may need, and check that no thread has been started."""
    for name in PRELOADED:
        importlib.import_module(name)
    package = importlib.import_module("taming_cli")
    for module in pkgutil.walk_packages(package.__path__, "taming_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert threading.active_count() == 1
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/task").iterdir())) == 1, "an import has started a thread"
    gc.collect()
    gc.freeze()


def become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Run the requested module in this process, as a new interpreter would, and end."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["cwd"])
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        _open_streams(unbuffered=bool(request["environment"].get("PYTHONUNBUFFERED")))
        sys.modules["numpy.random"].seed()
        sys.executable = request["executable"]
        module, *arguments = request["arguments"]
        sys.argv = [module, *arguments]
        sys.path[0] = str(Path.cwd())
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as an interpreter does
        atexit._run_exitfuncs()
        os._exit(code & 0xFF if _flushed() else 120)


def _flushed() -> bool:
    """Flush the output as an interpreter does at its end; if that fails, it prints so, and its exit code is 120."""
    flushed = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if not stream.closed:
                stream.flush()
        except OSError as error:
            flushed = False
            with contextlib.suppress(OSError):
                sys.stderr.write(f"Exception ignored in: {stream.name}\n{type(error).__name__}: {error}\n")
    return flushed


def _open_streams(*, unbuffered: bool) -> None:
    """Open stdin, stdout and stderr on the descriptors 0, 1 and 2."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = io.TextIOWrapper(
            open(number, "wb" if number else "rb", closefd=False),  # noqa: SIM115
            encoding="utf-8",
            errors="backslashreplace" if name == "stderr" else "surrogateescape",
            line_buffering=name == "stderr" or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError
        data += part
    return data


def serve(path: str, parent: int) -> None:
    """Fork a process per connection to the socket at `path`, until the pipe `parent` closes.

    A client receives the process's id, and later its wait status. The process of a client that is gone is killed.
    """
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal reaches the parent, which closes the pipe
    clients: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as ready:
        listener.bind(path)
        listener.listen(64)
        for each in (listener, waking, parent):
            ready.register(each, selectors.EVENT_READ)
        os.close(1)  # tells the parent that the socket is there
        os.dup(2)
        while True:
            for key, _ in ready.select():
                if key.fileobj == parent:
                    for pid in clients:
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    with contextlib.suppress(ConnectionError):
                        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                        request = json.loads(_received(connection, int(_received(connection, 10))))
                        pid = os.fork()
                        if pid == 0:
                            signal.set_wakeup_fd(-1)
                            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                            signal.signal(signal.SIGINT, signal.default_int_handler)
                            for each in (listener, connection, *clients.values()):
                                each.close()
                            ready.close()
                            for descriptor in (waking, woken, parent):
                                os.close(descriptor)
                            become(request, streams)
                        for stream in streams:
                            os.close(stream)
                        clients[pid] = connection
                        connection.sendall(b"%10d" % pid)
                        ready.register(connection, selectors.EVENT_READ, pid)
                elif key.fileobj == waking:
                    os.read(waking, 4096)
                    _report_ended(clients, ready)
                elif clients.get(key.data) is key.fileobj:  # nothing is ever sent on it: the client is gone
                    os.kill(key.data, signal.SIGKILL)
                    ready.unregister(key.fileobj)


def _report_ended(clients: dict[int, socket.socket], ready: selectors.BaseSelector) -> None:
    while clients:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        connection = clients.pop(pid)
        with contextlib.suppress(KeyError):
            ready.unregister(connection)
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"%10d" % status)


if __name__ == "__main__":
    preload()
    serve(sys.argv[1], int(sys.argv[2]))
