"""Rejection sampling: of what is drawn, those are kept that the classifier is surest of, also after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.data.images import read_image
from taming_cli.errors import UsageError
from taming_cli.sampling import files
from taming_cli.sampling.draw import draw
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.rejection import SCORES, Scorer, accepted, best_of_classes
from taming_cli.sampling.request import resolve_request
from tests.test_pipeline import saved


class Brightness:
    """Finds a picture to be of class 0 as far as it is bright, of class 1 as far as it is dark, never of class 2."""

    def __init__(self) -> None:
        self.stamp = {"name": "brightness"}
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        light = images.float().mean((1, 2, 3)) / 255
        return torch.stack((light, 1 - light, torch.zeros_like(light)), dim=1).clamp(1e-6).log()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.load(saved(tmp_path_factory.mktemp("p") / "prior.safetensors", classes=True), device="cpu")


ORDER = torch.tensor([0, 1, 2])


def test_the_best_of_their_class_are_kept_in_their_order(pipeline: Pipeline, tmp_path: Path) -> None:
    request = resolve_request(pipeline, {"n": 3, "seed": 4, "class_name": "cat", "accept_rate": 0.25}, first=5)
    scorer = Scorer(Brightness(), ORDER)
    kept = accepted(request, tmp_path, scorer)
    assert scorer.classifier.seen == 12
    every = draw(request, range(5, 17)).images.float().mean((1, 2, 3))
    best = every.argsort(descending=True, stable=True)[:3].sort().values
    assert kept == [5 + index for index in best.tolist()]
    dark = Scorer(Brightness(), torch.tensor([1, 0, 2]))
    with pytest.raises(UsageError, match="other settings"):
        accepted(resolve_request(pipeline, {"n": 3, "seed": 5, "accept_rate": 0.25}), tmp_path, dark)


def test_a_killed_job_continues_with_what_it_has_read(pipeline: Pipeline, tmp_path: Path) -> None:
    request = resolve_request(pipeline, {"n": 2, "seed": 4, "class_name": "cat", "accept_rate": 0.2})
    whole = accepted(request, tmp_path / "a", Scorer(Brightness(), ORDER))
    lines = (tmp_path / "a" / SCORES).read_text().splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / SCORES).write_text("".join(lines[:5]) + lines[5][:4])
    scorer = Scorer(Brightness(), ORDER)
    assert accepted(request, tmp_path / "b", scorer) == whole
    assert scorer.classifier.seen == 10 - 4
    again = Scorer(Brightness(), ORDER)
    assert accepted(request, tmp_path / "b", again) == whole
    assert again.classifier.seen == 0


def test_classes_compete_within_themselves() -> None:
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert best_of_classes(scores, classes, 2).tolist() == [0, 7]
    assert best_of_classes(scores, classes, 4).tolist() == [0, 1, 6, 7]
    assert best_of_classes(scores, torch.zeros(8, dtype=torch.int64), 3).tolist() == [0, 1, 2]
    assert best_of_classes(torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64), 2).tolist() == [0, 1]


def test_a_prior_without_classes_is_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    plain = Pipeline.load(saved(tmp_path / "plain.safetensors", classes=False), device="cpu")
    with pytest.raises(UsageError, match="no classes to score by"):
        plain.sample_to(tmp_path, accept_rate=0.5)
    with pytest.raises(UsageError, match="sample_to alone"):
        pipeline.sample(accept_rate=0.5)


def test_an_accepted_sample_is_the_sample_of_its_number(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "load_scorer", lambda *given: Scorer(Brightness(), ORDER))
    monkeypatch.setattr(files, "accepted", lambda *given: [3, 6])
    made = pipeline.sample_to(tmp_path, n=2, seed=4, class_name="dog", accept_rate=0.25).files
    assert [each.path.name for each in made] == ["000003.png", "000006.png"]
    alone = pipeline.sample(seed=4, class_name="dog", first=6).images[0]
    assert (read_image(made[1].path.read_bytes(), "it").int() - alone.int()).abs().max() <= 1


def test_the_command_scores_without_a_download(tmp_path: Path, capsys: Any) -> None:
    prior = saved(tmp_path / "prior.safetensors", classes=True)
    (tmp_path / "map.json").write_text(json.dumps({"cat": "tabby", "dog": "golden retriever", "7": 7}))
    line = ["sample", "--ckpt", str(prior), "--class", "dog", "-n", "2", "--accept-rate", "0.5", "--device", "cpu"]
    mapped = [*line, "--class-map", str(tmp_path / "map.json"), "--json", "-o", str(tmp_path / "out")]
    assert main(mapped) == 0
    said = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert len(said) == 2
    assert all(each["class"] == "dog" and Path(each["path"]).exists() for each in said)
    assert len((tmp_path / "out" / SCORES).read_text().splitlines()) == 5
    assert main([*line, "--class", "7", "-o", str(tmp_path / "x")]) == 2
    assert "--class-map" in capsys.readouterr().err
    assert main([*line, "--classifier", "resnet5", "-o", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
