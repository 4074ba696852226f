"""A stand-in for the interpreter: `-m MODULE ARGUMENT...` runs in a fork of `fork_server.py`, anything else in Python.

Started by `python -I -S`; its first arguments are the server's socket and the path that stands for the interpreter.
"""

import json
import os
import signal
import socket
import sys

FORKED = ("taming_cli", "torch.distributed.run", "tests.exchanged", "tests.killed")
"""The modules that the server runs."""


def received(connection: socket.socket) -> int:
    data = b""
    while len(data) < 10:
        part = connection.recv(10 - len(data))
        if not part:
            sys.exit("the fork server has ended")
        data += part
    return int(data)


def main(path: str, executable: str, arguments: list[str]) -> None:
    if arguments[:1] != ["-m"] or arguments[1] not in FORKED:
        os.execv(sys.executable, [sys.executable, *arguments])
    early: list[int] = []
    pid = 0

    def forward(number: int, _: object) -> None:
        if pid:
            os.kill(pid, number)
        else:
            early.append(number)

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, forward)
    umask = os.umask(0)
    request = {
        "arguments": arguments[1:],
        "cwd": os.getcwd(),  # noqa: PTH109  # pathlib takes as long to import as all else here
        "environment": dict(os.environ),
        "executable": executable,
        "umask": umask,
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [b"."], [0, 1, 2])
        data = json.dumps(request).encode()
        connection.sendall(b"%10d" % len(data) + data)
        pid = received(connection)
        for number in early:
            os.kill(pid, number)
        status = received(connection)
        pid = 0
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
