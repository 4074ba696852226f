"""Rejection sampling: of what is drawn, those are kept that the classifier is surest of, also after a kill."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.config.sampling import SampleConfig
from taming_cli.data.images import read_image
from taming_cli.errors import UsageError
from taming_cli.sampling.files import sample_to
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.rejection import SEEN, Scorer, accepted, keep
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
    config = SampleConfig(n=3, seed=4, class_name="cat", accept_rate=0.25)
    scorer = Scorer(Brightness(), ORDER)
    kept = accepted(pipeline, config, tmp_path, scorer, asked=pipeline.ask(config), first=5)
    assert scorer.classifier.seen == 12
    every = pipeline.draw(config, numbers=range(5, 17)).images.float().mean((1, 2, 3))
    best = every.argsort(descending=True, stable=True)[:3].sort().values
    assert kept == [5 + index for index in best.tolist()]
    dark = Scorer(Brightness(), torch.tensor([1, 0, 2]))
    with pytest.raises(UsageError, match="other settings"):
        accepted(pipeline, SampleConfig(n=3, seed=5, accept_rate=0.25), tmp_path, dark, asked=pipeline.ask(config))


def test_a_killed_job_goes_on_with_what_it_has_seen(pipeline: Pipeline, tmp_path: Path) -> None:
    config = SampleConfig(n=2, seed=4, class_name="cat", accept_rate=0.2)
    asked = pipeline.ask(config)
    whole = accepted(pipeline, config, tmp_path / "a", Scorer(Brightness(), ORDER), asked=asked)
    lines = (tmp_path / "a" / SEEN).read_text().splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / SEEN).write_text("".join(lines[:5]) + lines[5][:4])
    scorer = Scorer(Brightness(), ORDER)
    assert accepted(pipeline, config, tmp_path / "b", scorer, asked=asked) == whole
    assert scorer.classifier.seen == 10 - 4
    again = Scorer(Brightness(), ORDER)
    assert accepted(pipeline, config, tmp_path / "b", again, asked=asked) == whole
    assert again.classifier.seen == 0


def test_classes_compete_within_themselves() -> None:
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert keep(scores, classes, 2).tolist() == [0, 7]
    assert keep(scores, classes, 4).tolist() == [0, 1, 6, 7]
    assert keep(scores, torch.zeros(8, dtype=torch.int64), 3).tolist() == [0, 1, 2]
    assert keep(torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64), 2).tolist() == [0, 1]


def test_a_prior_without_classes_is_refused(tmp_path: Path) -> None:
    plain = Pipeline.load(saved(tmp_path / "plain.safetensors", classes=False), device="cpu")
    config = SampleConfig(n=1, accept_rate=0.5)
    with pytest.raises(UsageError, match="no classes to score by"):
        accepted(plain, config, tmp_path, Scorer(Brightness(), ORDER), asked=plain.ask(config))


def test_what_is_kept_is_the_very_sample_of_its_number(pipeline: Pipeline, tmp_path: Path) -> None:
    config = SampleConfig(n=2, seed=4, class_name="dog", accept_rate=0.25)
    made = list(sample_to(pipeline, config, tmp_path, numbers=[3, 6]))
    assert [each.path.name for each in made] == ["000003.png", "000006.png"]
    alone = pipeline.draw(config, numbers=[6]).images[0]
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
    assert len((tmp_path / "out" / SEEN).read_text().splitlines()) == 5
    assert main([*line, "--class", "7", "-o", str(tmp_path / "x")]) == 2
    assert "--class-map" in capsys.readouterr().err
    assert main([*line, "--classifier", "resnet5", "-o", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
