"""What every test may use."""

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.processes import stop_server

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Ctrl-C is tested too, and whoever starts the tests in the background may have it ignored."""


LONGEST = (
    "test_own_pictures",  # makes what other guides begin with
    "test_distributed",
    "test_evaluate",
    "test_codec_train",
    "test_kill",
    "test_cli",
    "test_condition",
    "test_evaluate_all",
    "test_features",
    "test_conditions",
    "test_model_files",
)
"""Files that take longest. They are begun first, so that none is left to one process while the others have ended."""


SLOW = {
    *LONGEST,
    "test_annotate",
    "test_annotators",
    "test_any_size",
    "test_batches",
    "test_classifiers",
    "test_cli_weights",
    "test_command_line",
    "test_completion",
    "test_disk",
    "test_doctor",
    "test_evaluate_codecs",
    "test_evaluation",
    "test_finite",
    "test_generate",
    "test_interop",
    "test_library",
    "test_lists",
    "test_named_models",
    "test_oversized",
    "test_paper",
    "test_perceptual",
    "test_pipeline",
    "test_prior_train",
    "test_published_models",
    "test_recipes",
    "test_reconstruct",
    "test_resume",
    "test_scenes",
    "test_settings",
    "test_several_gpus",
    "test_tensorboard",
    "test_tiling",
    "test_tiling_encoding",
    "test_token_merge",
    "test_token_writer",
    "test_tokenize",
    "test_troubleshooting",
    "test_unpickler",
}
"""Files that `--quick` leaves out: those that train, start processes, or run large networks. README's commands stay."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="leave out the files that take long")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--quick") and collection_path.stem in SLOW else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> Iterator[None]:
    """It starts when a test needs it, and ends with the run."""
    yield
    stop_server()


@pytest.fixture(scope="module")
def each_distance_once() -> Iterator[None]:
    """Compute the Frechet distance of the same four arrays once: it takes seconds, whatever the number of pictures."""
    from taming_cli.evaluate import codecs, distance
    from taming_cli.metrics import frechet_distance

    values: dict[bytes, float] = {}

    def once(*arrays: np.ndarray[Any, Any]) -> float:
        key = hashlib.sha256()
        for array in arrays:
            key.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        if key.digest() not in values:
            values[key.digest()] = frechet_distance(*arrays)
        return values[key.digest()]

    with pytest.MonkeyPatch.context() as patch:
        for module in (codecs, distance):
            patch.setattr(module, "frechet_distance", once)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pictures and golden models that lies beside a developer's checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("the folder ../shared with real pictures and golden models is not here")
    return folder
