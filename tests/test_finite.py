"""Weights that are NaN or infinite are refused wherever a file brings them in, and the tensor is named."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from taming_cli.cli.app import main
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError
from taming_cli.evaluate import extraction
from taming_cli.metrics import Moments
from taming_cli.pretrained import efficientnet
from taming_cli.pretrained.perceptual import LPIPS
from taming_cli.prior.model import prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import load_model, load_trainer, save_model, save_trainer
from taming_cli.runtime.weights import LocalWeights
from tests.toys import toy_codec

GOLDEN = Path(__file__).parent / "golden"
ENTRIES = "quantize.embedding.weight"
NAN, INFINITE = float("nan"), float("inf")


def spoiled(tensors: Mapping[str, Tensor], name: str, value: float = NAN) -> dict[str, Tensor]:
    """The same tensors, with one value at the end of one of them."""
    changed = {key: tensor.clone() for key, tensor in tensors.items()}
    changed[name].view(-1)[-1] = value
    return changed


def published(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    torch.save({"state_dict": dict(tensors)}, path)
    return path


def model_file(path: Path, name: str = ENTRIES, value: float = NAN) -> Path:
    model = codec_file(toy_codec(), {})
    save_model(path, model, spoiled(model.tensors, name, value))
    return path


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize("name", [ENTRIES, "decoder.conv_out.bias", "loss.discriminator.main.0.weight"])
def test_an_import_refuses_them_by_name(
    name: str, value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(tmp_path / "codec.ckpt", spoiled(load_file(GOLDEN / "vqgan.safetensors"), name, value))
    assert main(["import", str(path), "-o", str(tmp_path / "ours.safetensors")]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{name} holds values that are not finite (NaN or infinite); " in said
    assert "--allow-non-finite" in said
    assert [file.name for file in tmp_path.iterdir()] == ["codec.ckpt"]


def test_an_import_reports_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(GOLDEN / "class_prior.safetensors")
    for name in (
        "transformer.ln_f.weight",
        "transformer.tok_emb.weight",
        "first_stage_model.quantize.embedding.weight",
    ):
        tensors = spoiled(tensors, name)
    path = published(tmp_path / "prior.ckpt", tensors)
    line = ["import", str(path), "--config", str(GOLDEN / "class_prior.yaml"), "-o", str(tmp_path / "p.safetensors")]
    assert main(line) == 1
    assert "as do 2 others" in capsys.readouterr().err


def test_numbers_that_become_infinite_in_fp32_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {name: tensor.double() for name, tensor in load_file(GOLDEN / "vqgan.safetensors").items()}
    path = published(tmp_path / "wide.ckpt", spoiled(tensors, ENTRIES, 1e300))
    assert main(["import", str(path), "-o", str(tmp_path / "ours.safetensors")]) == 1
    assert f"{ENTRIES} holds values that are not finite" in capsys.readouterr().err


def test_what_is_left_out_may_be_infinite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(GOLDEN / "vqgan.safetensors")
    tensors["model_ema.decay"] = torch.tensor(INFINITE)
    tensors["loss.perceptual_loss.net.slice1.0.weight"] = torch.full((4,), -INFINITE)
    tensors["loss.discriminator.main.3.num_batches_tracked"] = torch.tensor(2**62)
    path = published(tmp_path / "codec.ckpt", tensors)
    assert main(["import", str(path), "-o", str(tmp_path / "ours.safetensors"), "--debug"]) == 0
    assert capsys.readouterr().err == ""


def test_with_the_flag_the_file_records_it_and_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("a.png")
    published(Path("codec.ckpt"), spoiled(load_file(GOLDEN / "vqgan.safetensors"), "decoder.conv_out.bias"))
    assert main(["import", "codec.ckpt", "-o", "ours.safetensors", "--allow-non-finite"]) == 0
    assert "1 tensors are not finite: decoder.conv_out.bias" in capsys.readouterr().err
    assert main(["tokenize", "a.png", "--ckpt", "ours.safetensors", "-o", "t.h5", "--device", "cpu"]) == 0
    assert "decoder.conv_out.bias; its import allowed that" in capsys.readouterr().err
    assert main(["info", "ours.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["non_finite"] == ["decoder.conv_out.bias"]
    # A prior on such a codec is no worse than the codec.
    codec = load_model(Path("ours.safetensors"))
    gpt = GPT(
        PriorConfig(
            arch="modern",
            n_layer=1,
            n_head=1,
            n_embd=8,
            window=Size(2, 2),
            codebook_size=codec.config["codec"]["codebook_size"],
        )
    )
    for number, carrier in enumerate((codec, prior_file(gpt, codec, {}))):
        save_model(Path(f"{number}.safetensors"), prior_file(gpt, carrier, {}))
        assert load_model(Path(f"{number}.safetensors")).about["non_finite"] == ["codec.decoder.conv_out.bias"]


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_our_own_files_are_refused_wherever_one_is_read(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("a.png")
    model_file(Path("bad.safetensors"), value=value)
    for line in (
        ["tokenize", "a.png", "--ckpt", "bad.safetensors", "-o", "t.h5", "--device", "cpu"],
        ["reconstruct", "a.png", "out", "--ckpt", "bad.safetensors", "--device", "cpu"],
        ["eval", "recon", "bad.safetensors", "a.png", "--perceptual", "none", "--device", "cpu"],
        ["export", "bad.safetensors", "-o", "x.ckpt"],
        ["info", "bad.safetensors"],
    ):
        assert main(line) == 1, line
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"taming: bad.safetensors: tensor {ENTRIES} holds values that are not finite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "bad.safetensors"]


def test_a_condition_codec_inside_a_prior_is_looked_at_too(tmp_path: Path) -> None:
    codec = codec_file(toy_codec(), {"content": "segmentation"})
    spec = ConditionSpec(kind="segmentation", vocabulary=64, form="grid")
    config = PriorConfig(
        arch="modern", n_layer=1, n_head=1, n_embd=8, window=Size(2, 2), codebook_size=64, conditions=(spec,)
    )
    other = replace(codec, about={**codec.about, "codec_sha256": "e" * 64})
    model = prior_file(GPT(config), codec, {}, {"segmentation": other})
    name = f"condition.segmentation.{ENTRIES}"
    save_model(tmp_path / "prior.safetensors", model, spoiled(model.tensors, name))
    with pytest.raises(BadFileError, match=f"tensor {name} holds values that are not finite"):
        load_model(tmp_path / "prior.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_type_of_number_is_looked_at(dtype: torch.dtype, tmp_path: Path) -> None:
    model = codec_file(toy_codec(), {})
    tensors = {name: tensor.to(dtype) for name, tensor in model.tensors.items()}
    tensors |= {"extra.count": torch.tensor(7), "extra.used": torch.tensor([True]), "extra.none": torch.empty(0)}
    save_model(tmp_path / "fine.safetensors", model, tensors)
    VQGAN.load(tmp_path / "fine.safetensors")
    save_model(tmp_path / "bad.safetensors", model, spoiled(tensors, "encoder.conv_in.weight"))
    with pytest.raises(BadFileError, match=r"encoder\.conv_in\.weight"):
        VQGAN.load(tmp_path / "bad.safetensors")


def test_a_trainer_file_is_refused(tmp_path: Path) -> None:
    state = {
        "step": 3,
        "best": -INFINITE,
        "codec": {"w": torch.zeros(2)},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}},
    }
    save_trainer(tmp_path / "trainer.pt", state)
    assert load_trainer(tmp_path / "trainer.pt")["step"] == 3
    state["optimizer"]["state"][0]["exp_avg"][1] = NAN  # type: ignore[index]
    torch.save(state, tmp_path / "trainer.pt")  # as an earlier version did
    with pytest.raises(BadFileError, match=r"tensor optimizer\.state\.0\.exp_avg holds values that are not finite"):
        load_trainer(tmp_path / "trainer.pt")


def test_weights_of_pretrained_networks_are_refused(tmp_path: Path) -> None:
    import timm
    from torchvision import models

    made: dict[str, nn.Module] = {
        "efficientnet-lite0": timm.create_model("tf_efficientnet_lite0", pretrained=False),
        "alexnet": models.alexnet(weights=None),
    }
    for name, network in made.items():
        tensors = network.state_dict()
        first = next(iter(tensors))
        torch.save(spoiled(tensors, first), tmp_path / f"{name}.pth")
        file = LocalWeights(name, tmp_path / f"{name}.pth", "0" * 64, False, "given")
        with pytest.raises(BadFileError, match=f"tensor {first} holds values that are not finite"):
            efficientnet.EfficientNetLite0(file) if name != "alexnet" else LPIPS("lpips-alex", file)


def test_cached_statistics_that_are_not_finite_are_taken_again(tmp_path: Path) -> None:
    cached = extraction.Extraction(4, Size(8, 8), Size(8, 8), Moments(4, np.zeros(2), np.zeros((2, 2))))
    extraction._write(tmp_path / "kept.npz", cached)
    assert extraction._read(tmp_path / "kept.npz") is not None
    cached.moments.mean[1] = NAN  # type: ignore[union-attr]
    extraction._write(tmp_path / "kept.npz", cached)
    assert extraction._read(tmp_path / "kept.npz") is None
