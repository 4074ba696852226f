"""Files of earlier versions, with the names of those: run folders, trainer files, logs and config files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from taming_cli.cli.app import main
from taming_cli.codec import train as codec_training
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config import former
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import from_dict, to_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.config.resolve import from_file, resolve
from taming_cli.errors import UsageError
from taming_cli.prior import train as prior_training
from taming_cli.prior.initial import saved_prior
from taming_cli.prior.model import prior_from
from taming_cli.runtime.checkpoint import load_model, read_header
from taming_cli.runtime.run.folder import Place, read_settings
from taming_cli.runtime.run.metrics import METRICS, read_metrics
from taming_cli.runtime.run.resume import read_trainer

FORMER = Path(__file__).parent / "golden" / "former-run"
"""Runs of a codec and a prior by an earlier version, stopped after step 4 of 6, and the logs of uninterrupted ones."""

LATER = {"train_nats_per_token"}
"""Figures that the earlier version did not log."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both run folders, and of their pictures and token file."""
    monkeypatch.setattr("taming_cli.runtime.pacing.LOG_EVERY", 2)
    shutil.copytree(FORMER, tmp_path / "former")
    return tmp_path / "former"


def settings(folder: Path, **classes: type[Any]) -> dict[str, Any]:
    """The configs in a run's config.json, by group."""
    groups = read_settings(folder)["config"]
    return {name: from_dict(config, groups[name], "config.json") for name, config in classes.items()}


def codec_settings(folder: Path) -> dict[str, Any]:
    return settings(folder, codec=CodecConfig, discriminator=DiscriminatorConfig, train=CodecTrainConfig)


def assert_same_log(folder: Path, expected: Path) -> None:
    """The figures of all steps and validations are those of the uninterrupted run, but for their times."""
    lines = [former.renamed(json.loads(line), former.METRICS) for line in expected.read_text().splitlines()]
    read = read_metrics(folder / METRICS).lines
    assert [[name for name in line if name not in LATER] for line in read] == [list(line) for line in lines]
    for line, other in zip(read, lines, strict=True):
        for name in other.keys() - {"kind", "seconds", "images_per_second", "waiting_seconds"}:
            assert line[name] == pytest.approx(other[name], rel=1e-3), (line["step"], name)


def test_a_run_of_an_earlier_version_reads_with_the_names_of_today(run: Path) -> None:
    assert "critic" in json.loads((run / "codec" / "config.json").read_text())["config"]
    read = codec_settings(run / "codec")
    assert read["discriminator"] == DiscriminatorConfig(disc_ndf=2, disc_num_layers=1)
    assert (read["train"].disc_learning_rate, read["train"].disc_train_start) == (1e-3, 0.1)
    origins = read_settings(run / "codec")["origins"]
    assert not any("critic" in name for name in origins)
    state = read_trainer(run / "codec" / "trainer.pt", ("discriminator", "discriminator_optimizer"))
    assert not any("critic" in name for name in state)
    first, *_ = read_metrics(run / "codec" / METRICS).lines
    assert first["discriminator"] == pytest.approx(0.998, abs=0.001)
    assert "critic" not in first


def test_a_codecs_run_of_an_earlier_version_is_resumed_exactly(run: Path) -> None:
    place = Place(out=run / "codec")
    done = codec_training.fit([run / "pictures"], **codec_settings(run / "codec"), place=place)
    assert done.step == 6
    assert_same_log(done.run, FORMER / "codec-uninterrupted.jsonl")
    assert "critic" not in (done.run / "config.json").read_text()


def test_a_priors_run_of_an_earlier_version_is_resumed_exactly(run: Path) -> None:
    codec = load_model(run / "codec" / "checkpoints" / "last.safetensors")
    read = settings(run / "prior", prior=PriorConfig, train=PriorTrainConfig)
    done = prior_training.fit([run / "t.h5"], **read, codec=codec, place=Place(out=run / "prior"))
    assert done.step == 6
    assert_same_log(done.run, FORMER / "prior-uninterrupted.jsonl")


def test_a_run_under_former_names_is_still_compared_with_the_settings(run: Path) -> None:
    read = codec_settings(run / "codec")
    read["train"] = replace(read["train"], disc_learning_rate=2e-3)
    with pytest.raises(UsageError, match=r"has disc_learning_rate 0.001, not 0.002"):
        codec_training.fit([run / "pictures"], **read, place=Place(out=run / "codec"))


def test_models_of_an_earlier_version_load() -> None:
    codec = VQGAN.load(FORMER / "codec" / "checkpoints" / "last.safetensors")
    codes = codec.encode(torch.zeros(1, 3, 16, 16))
    assert codec.decode(codes).shape == (1, 3, 16, 16)
    gpt = prior_from(load_model(FORMER / "prior" / "checkpoints" / "last.safetensors", "taming-prior"), "it")
    assert gpt.config.n_embd == 8


def test_a_prior_older_than_a_setting_has_its_former_value() -> None:
    values = to_dict(PriorConfig())
    del values["neighbour_features"]
    network = saved_prior({"prior": values}, PriorTrainConfig(), "it")
    assert network.config.neighbour_features == 0
    assert "neighbours.far" not in network.state_dict()


def test_a_run_of_a_prior_older_than_a_setting_is_resumed_with_its_former_value(run: Path) -> None:
    assert "neighbour_features" not in json.loads((run / "prior" / "config.json").read_text())["config"]["prior"]
    assert settings(run / "prior", prior=PriorConfig)["prior"].neighbour_features == 0


@pytest.mark.usefixtures("run")
def test_a_codec_older_than_a_setting_is_trained_further_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    model = FORMER / "codec" / "checkpoints" / "last.safetensors"
    assert "patch_size" not in read_header(model).config["codec"]
    line = ["train-vqgan", FORMER / "pictures", "--init", model, "--size", "16x16", "--device", "cpu", "--dry-run"]
    assert main([*map(str, line), "--perceptual", "none", "--disc-num-layers", "1"]) == 0
    assert "become 8x8 codes of 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "critic_learning_rate = 0.01\ncritic_start = 0.2\ndisc_ndf = 6",
        "[train]\ncritic_learning_rate = 0.01\ncritic_start = 0.2\n[critic]\ndisc_ndf = 6",
    ],
)
def test_config_files_may_use_former_names(text: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(text)
    layer = from_file(tmp_path / "settings.toml")
    discriminator, train = resolve([DiscriminatorConfig, CodecTrainConfig], [layer]).configs
    assert discriminator.disc_ndf == 6
    assert (train.disc_learning_rate, train.disc_train_start) == (0.01, 0.2)


def test_a_config_json_of_an_earlier_version_is_a_config_file(run: Path) -> None:
    layer = from_file(run / "codec" / "config.json")
    assert layer.values["disc_learning_rate"] == 1e-3
    assert not any("critic" in name for name in layer.values)
