"""Processes of `taming`: forked from a server that has torch loaded, alone or several of one command."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taming_cli.runtime.processes import LAUNCH_ID

HERE = Path(__file__).parent
_server = contextlib.ExitStack()
_interpreter: list[str] = []


def python() -> str:
    """A stand-in for `sys.executable` whose `-m taming_cli` and `-m torch.distributed.run` start within milliseconds.

    They run in forks of `fork_server.py`, which starts at the first call and ends with this process. Tests of how an
    interpreter itself starts or ends use `sys.executable`.
    """
    if not _interpreter:
        _interpreter.append(_server.enter_context(_serving()))
    return _interpreter[0]


def stop_server() -> None:
    """End the server, if there is one."""
    _interpreter.clear()
    _server.close()


@contextlib.contextmanager
def _serving() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="taming-fork-"))
    reading, writing = os.pipe()
    command = [sys.executable, str(HERE / "fork_server.py"), str(folder / "socket"), str(reading)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAMING_")}
    environment["OMP_NUM_THREADS"] = "1"  # the server must not start threads
    server = subprocess.Popen(command, pass_fds=[reading], stdout=subprocess.PIPE, env=environment, cwd=folder)
    os.close(reading)
    assert server.stdout is not None
    with server.stdout as stdout:
        stdout.read()  # until it listens
    assert server.poll() is None, "the fork server has not started"
    interpreter = folder / "python"
    words = [sys.executable, "-I", "-S", HERE / "fork_client.py", folder / "socket", interpreter]
    interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    interpreter.chmod(0o755)
    try:
        yield str(interpreter)
    finally:
        os.close(writing)
        server.wait()
        shutil.rmtree(folder)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ranks(
    *arguments: object, processes: int = 2, module: str = "taming_cli", cwd: Path | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Run a module in several processes, with these arguments and the variables that torchrun sets; wait for all."""
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    if "--nproc" in arguments:
        shared["TORCHELASTIC_RUN_ID"] = f"{LAUNCH_ID}test"
    command = [python(), "-m", module, *map(str, arguments)]
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    ended = []
    for process in started:
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            for each in started:
                each.kill()
            pytest.fail("the processes never ended")
        ended.append(subprocess.CompletedProcess(command, process.returncode, out, err))
    return ended


def together(*arguments: object, processes: int = 2) -> str:
    """Run `taming` with these arguments in several processes, which all have to succeed; what they print on stdout."""
    ended = ranks(*arguments, processes=processes)
    assert [process.returncode for process in ended] == [0] * processes, "".join(process.stderr for process in ended)
    return "".join(process.stdout for process in ended)


def torchrun(*arguments: object, processes: int = 2) -> str:
    """Start `taming` with these arguments by torchrun in several processes; what they print on stdout."""
    port = free_port()
    command = [python(), "-m", "torch.distributed.run", "--nproc-per-node", processes]
    command += ["--master-addr", "127.0.0.1", "--master-port", port, "-m", "taming_cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def children(process: int) -> list[int]:
    """The processes that one has started, in that order."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]
