"""A server of one file on this machine, and a machine without weights."""

import contextlib
import dataclasses
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from taming_cli.runtime import weights

CONTENT = b"not really weights" * 1000


@dataclasses.dataclass
class Server:
    url: str
    content: bytes = CONTENT
    announced: int | None = None  # Content-Length, where it is to be a lie
    asked: int = 0
    halfway: Callable[[], None] = lambda: None  # called when half of the content is sent


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(state.announced or len(state.content)))
            self.end_headers()
            half = len(state.content) // 2
            with contextlib.suppress(ConnectionError):  # of a reader that has gone
                self.wfile.write(state.content[:half])
                state.halfway()
                self.wfile.write(state.content[half:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state = Server(f"http://127.0.0.1:{httpd.server_port}/vgg16.pth")
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


def without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no variable that names weights. Returns the cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for variable in (weights.FOLDER_VARIABLE, "TAMING_WEIGHTS", "TAMING_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
