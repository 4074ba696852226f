"""A sampling request: checked before anything is drawn, and the same from Python as from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import resolve_request
from tests.test_pipeline import saved


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("prior") / "prior.safetensors", classes=True, sampling={"top_k": 40})


@pytest.fixture(scope="module")
def pipeline(ckpt: Path) -> Pipeline:
    return Pipeline.load(ckpt, device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("completes", [False, True])
def test_one_call_writes_the_files_of_one_command(
    completes: bool, pipeline: Pipeline, ckpt: Path, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    class_map = tmp_path / "map.json"
    class_map.write_text(json.dumps({"cat": "tabby", "dog": "golden retriever", "7": 7}))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    settings: dict[str, Any] = {"n": 2, "seed": 3, "class_name": "dog", "accept_rate": 0.5, "first": 4}
    line = ["--ckpt", str(ckpt), "-n", "2", "--seed", "3", "--class", "dog", "--accept-rate", "0.5", "--first", "4"]
    if completes:
        settings |= {"complete": photo, "mask": "upper-half", "candidates": 2}
        line += ["--complete", str(photo), "--mask", "upper-half", "--candidates", "2"]
    written = pipeline.sample_to(
        ours / "out", tokens=ours / "t.h5", npz=ours / "all.npz", class_map=class_map, **settings
    )
    line += ["--class-map", str(class_map), "--tokens", str(theirs / "t.h5"), "--npz", str(theirs / "all.npz")]
    assert main(["sample", *line, "-o", str(theirs / "out"), "--device", "cpu", "--json"]) == 0
    lines = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert [Path(each["path"]).name for each in lines] == [file.path.name for file in written.files]
    assert [file.to_json(seed=3, precision="fp32") for file in written.files] == [
        {**each, "path": each["path"].replace(str(theirs), str(ours))} for each in lines
    ]
    expected = contents(theirs)
    assert {"out/candidates.jsonl", "out/grid.png", "all.npz", "t.h5"} < set(expected)
    assert contents(ours) == expected


def test_settings_come_from_the_call_then_the_model_file_then_the_defaults(pipeline: Pipeline) -> None:
    request = resolve_request(pipeline, {"n": 3, "temperature": 0.5})
    assert (request.config.temperature, request.config.top_k, request.config.top_p) == (0.5, 40, 1.0)
    assert (request.frame.size, request.grid, request.stride) == (Size(8, 8), Size(4, 4), 2)
    assert request.numbers == request.samples == range(3)
    accepting = resolve_request(pipeline, {"n": 3, "accept_rate": 0.4}, first=10)
    assert (accepting.numbers, accepting.samples) == (range(10, 18), range(10, 13))


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"class_name": "cow"}, {}, "class 'cow' is unknown"),
        ({"top": 1}, {}, "unknown key 'top'"),
        ({"stride": 3}, {}, "stride is 3"),
        ({}, {"mask": "upper-half"}, "name it with --complete"),
        ({}, {"at": (0, 0)}, "name it with --complete"),
        ({}, {"cond": {"depth": "d.png"}}, "has no condition 'depth'"),
        ({}, {"cond": ["depth=d.png"]}, "has no condition 'depth'"),
        ({}, {"cond": "d.png"}, "this prior takes no map"),
        ({}, {"shard": Shard(1, 2)}, "named with -o"),
        ({}, {"shard": Shard(1, 2), "folder": Path("x"), "npz": Path("x.npz")}, "without --shard"),
        ({"accept_rate": 0.5}, {"shard": Shard(1, 2), "folder": Path("x")}, "without --shard"),
    ],
)
def test_what_does_not_fit_is_refused(
    settings: dict[str, Any], arguments: dict[str, Any], message: str, pipeline: Pipeline
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_request(pipeline, settings, **arguments)
