"""`taming eval nll`: the golden nats/token through the command, by class and by position, and what it refuses."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from taming_cli.cli.app import main
from taming_cli.data.images import read_image
from taming_cli.data.tokens.header import ConditionHeader, TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.runtime.checkpoint import load_model, read_header, save_model
from tests.test_interop import GOLDEN, checkpoint

Capture = pytest.CaptureFixture[str]


def prior(folder: Path, name: str, source: Path) -> Path:
    """A golden prior as a model file of ours."""
    checkpoint(folder / f"{name}.ckpt", load_file(source / f"{name}.safetensors"))
    path = folder / f"{name}.safetensors"
    arguments = ["import", str(folder / f"{name}.ckpt"), "--config", str(source / f"{name}.yaml"), "-o", str(path)]
    assert main(arguments) == 0
    return path


def tokens(path: Path, of: Path, codes: Any, labels: list[str | None], **conditions: Any) -> Path:
    """A token file of the codec in a prior's file: codes (n, h, w), and conditions likewise."""
    header = TokenHeader(
        codec_sha256=read_header(of).about["codec_sha256"],
        codec_path=str(of),
        codebook_size=128,
        downsample_factor=4,
        preprocess={},
        created_by="test",
        views=1,
        height=codes.shape[1],
        width=codes.shape[2],
        conditions={kind: ConditionHeader(codec_sha256="x", codebook_size=64) for kind in conditions},
    )
    with TokenJob(path, header=header, plan={}, total=len(codes), shard_size=99) as job:
        (shard,) = job.pending()
        job.write(
            shard,
            codes=codes[:, None],
            names=[f"{number}.png" for number in range(len(codes))],
            labels=labels,
            conditions={kind: values[:, None] for kind, values in conditions.items()},
            skipped=[],
        )
        job.finish()
    return path


def measured(capsys: Capture, *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", "nll", *map(str, arguments), "--device", "cpu", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_golden_segmentation_prior_has_its_golden_nats(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    path = prior(tmp_path, "segmentation_prior", shared / "golden")
    with np.load(shared / "golden" / "segmentation_prior_io.npz") as io:
        codes, maps, expected = io["z"].reshape(1, 16, 16), io["cond_indices"][:, :16, :16], float(io["nll"])
    file = tokens(tmp_path / "t.h5", path, codes, [None], segmentation=maps)
    found = measured(capsys, path, file)
    assert found["value"] == pytest.approx(expected, abs=1e-4)
    assert found["bits/dim"] == pytest.approx(expected * 256 / (math.log(2) * 3 * 64 * 64), abs=1e-6)


def test_the_golden_class_prior_has_the_nats_of_its_golden_logits_by_class_and_by_position(
    tmp_path: Path, capsys: Capture
) -> None:
    path = prior(tmp_path, "class_prior", GOLDEN)
    with np.load(GOLDEN / "class_prior_io.npz") as io:
        codes, classes, logits = io["greedy"], io["classes"].flatten().tolist(), torch.from_numpy(io["logits"])
    cells = F.cross_entropy(logits.transpose(1, 2), torch.from_numpy(codes), reduction="none")  # (2, 256)
    file = tokens(tmp_path / "t.h5", path, codes.reshape(2, 16, 16), [str(name) for name in classes])
    found = measured(capsys, path, file, "-o", tmp_path / "out", "--batch-size", 1)
    assert found["value"] == pytest.approx(float(cells.mean()), abs=1e-4)
    by_class = {str(name): float(nats) for name, nats in zip(classes, cells.mean(1), strict=True)}
    assert found["details"]["by_class"] == pytest.approx(by_class, abs=1e-4)
    assert np.allclose(found["details"]["by_position"], cells.mean(0).view(16, 16).numpy(), atol=1e-4)
    assert json.loads((tmp_path / "out" / "nats-per-token.json").read_text()) == found
    drawn = read_image((tmp_path / "out" / "by_position.png").read_bytes(), "map")
    assert len(drawn.flatten(1).unique(dim=1)[0]) > 100


def test_maps_of_another_codec_are_refused(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    path = prior(tmp_path, "segmentation_prior", shared / "golden")
    model = load_model(path)
    about = {**model.about, "conditions": {"segmentation": {"content": "segmentation", "codec_sha256": "y"}}}
    save_model(path, replace(model, about=about))
    codes = np.zeros((1, 16, 16), dtype=np.int64)
    file = tokens(tmp_path / "t.h5", path, codes, [None], segmentation=codes)
    capsys.readouterr()
    assert main(["eval", "nll", str(path), str(file), "--device", "cpu"]) == 2
    assert "segmentation codes of another codec" in capsys.readouterr().err


def test_tokens_that_do_not_fit_the_prior_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    path = prior(tmp_path, "class_prior", GOLDEN)
    codes = np.zeros((1, 16, 16), dtype=np.int64)
    for label, message in ((None, "has no classes"), ("dog", "class 'dog'")):
        file = tokens(tmp_path / f"{label}.h5", path, codes, [label])
        capsys.readouterr()
        assert main(["eval", "nll", str(path), str(file), "--device", "cpu"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert message in said.err
