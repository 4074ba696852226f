"""`taming` run by several processes at once, as torchrun starts them, on this machine alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def torchrun(*arguments: object, processes: int = 2) -> str:
    """Start `taming` with these arguments in that many processes; what they print on stdout."""
    port = free_port()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", processes]
    command += ["--master-addr", "127.0.0.1", "--master-port", port, "-m", "taming_cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def children(process: int) -> list[int]:
    """The processes that one has started, in that order."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in text.split()]
