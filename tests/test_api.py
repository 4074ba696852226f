"""The five calls that a notebook needs, and a codec as an ordinary module."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import taming_cli
from taming_cli import VQGAN, Pipeline
from taming_cli.codec.vqgan import codec_file
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.resolve import Resolved, suggest
from taming_cli.config.sampling import SampleConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.prior.model import prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import load_model, save_model
from taming_cli.runtime.model_files import named
from taming_cli.sampling.inpainting import read_known
from taming_cli.sampling.request import resolve_request
from tests.test_pipeline import saved
from tests.toys import pictures, toy_codec


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = saved(tmp_path_factory.mktemp("api") / "p.safetensors", classes=True, sampling={"top_k": 3, "seed": 9})
    return Pipeline.load(str(path), device="cpu")


def test_sample_takes_settings_by_name(pipeline: Pipeline) -> None:
    made = pipeline.sample(n=2, seed=7, class_name="dog", size="12x8", top_k=0)
    wanted = pipeline.sample(**vars(SampleConfig(n=2, seed=7, class_name="dog", size=Size(12, 8))))
    assert torch.equal(made.codes, wanted.codes)
    assert (made.images.shape, made.images.dtype) == ((2, 3, 8, 12), torch.uint8)
    with pytest.raises(UsageError, match="top_k"):
        pipeline.sample(topk=3)


def test_what_is_left_out_is_as_the_model_file_suggests(pipeline: Pipeline) -> None:
    assert resolve_request(pipeline, {"n": 4}).config == SampleConfig(n=4, top_k=3, seed=9)
    assert resolve_request(pipeline, {"top_k": 0}).config.top_k == 0
    about = {**pipeline.about, "sampling_with_maps": {"guidance": 2.0, "top_k": 5}}
    defaults, both = Resolved((SampleConfig(),), {}), replace(pipeline, about=about)
    assert suggest(defaults, both.suggested(True)).configs == (SampleConfig(top_k=5, seed=9, guidance=2.0),)
    assert suggest(defaults, both.suggested(False)).configs == (SampleConfig(top_k=3, seed=9),)
    assert torch.equal(pipeline.sample(n=2).codes, pipeline.sample(**vars(SampleConfig(n=2, top_k=3, seed=9))).codes)


def test_encode_and_decode_are_the_codecs(pipeline: Pipeline) -> None:
    images = pictures(12, 16)
    codes = pipeline.encode(images)
    assert (codes.shape, codes.dtype) == ((3, 6, 8), torch.int64)
    assert (codes == pipeline.codec.encode(images / 127.5 - 1)).float().mean() > 0.99  # ties aside
    again = pipeline.decode(codes)
    assert (again.shape, again.dtype) == (images.shape, torch.uint8)
    assert pipeline.encode(images[..., :-1]).shape == codes.shape, "a side that f does not divide is continued"


def test_complete_keeps_what_is_known(pipeline: Pipeline, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.fromarray(pictures(8, 16)[0].permute(1, 2, 0).numpy()).save(picture)
    made = pipeline.complete(picture, "upper-half", n=2, seed=3)
    assert made.codes.shape == (2, 4, 8)
    assert torch.equal(made.codes[0, :2], made.codes[1, :2])
    assert not torch.equal(made.codes[0, 2:], made.codes[1, 2:])
    wider = pipeline.complete(str(picture), size="24x8", at=(8, 0))
    assert wider.codes.shape == (1, 4, 12)
    codes, mask = read_known(pipeline.codec, picture, size=Size(24, 8), at=(8, 0)).cells
    assert mask[:, 4:].all()
    assert torch.equal(wider.codes[0, mask], codes[0, mask])


def test_maps_are_named_by_kind_where_there_are_several(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="this prior takes no map"):
        pipeline.sample(cond="seg.png")
    with pytest.raises(UsageError, match="has no condition 'depth'"):
        pipeline.sample(cond={"depth": "d.png"})


def test_a_map_alone_is_enough_where_the_prior_takes_one_kind(tmp_path: Path) -> None:
    codec = toy_codec()
    specs = (ConditionSpec(kind="lowres", vocabulary=4096, form="grid"),)
    gpt = GPT(
        PriorConfig(
            arch="modern", n_layer=1, n_head=2, n_embd=16, window=Size(4, 4), codebook_size=64, conditions=specs
        )
    )
    save_model(tmp_path / "p.safetensors", prior_file(gpt, codec_file(codec, {}), {"grid": "4x4"}))
    pipeline = Pipeline.load(tmp_path / "p.safetensors", device="cpu")
    picture = tmp_path / "low.png"
    Image.new("RGB", (6, 4), (200, 30, 30)).save(picture)
    assert pipeline.sample(cond=picture).codes.shape == (1, 4, 6)
    assert pipeline.sample(cond={"lowres": str(picture)}, n=2).codes.shape == (2, 4, 6)


def test_a_file_of_half_precision_is_one_of_its_rounded_weights(tmp_path: Path) -> None:
    whole = load_model(saved(tmp_path / "whole.safetensors", classes=True))
    tensors = {name: tensor.half() for name, tensor in whole.tensors.items()}
    save_model(tmp_path / "half.safetensors", whole, tensors)
    save_model(tmp_path / "rounded.safetensors", whole, {name: tensor.float() for name, tensor in tensors.items()})
    half, rounded = (Pipeline.load(tmp_path / f"{name}.safetensors", device="cpu") for name in ("half", "rounded"))
    assert {p.dtype for network in (half.codec, half.gpt) for p in network.parameters()} == {torch.float32}
    assert half.codec.sha256() == rounded.codec.sha256()
    assert torch.equal(half.sample(n=2, seed=1).images, rounded.sample(n=2, seed=1).images)


def test_a_codec_is_an_ordinary_module(tmp_path: Path) -> None:
    path = saved(tmp_path / "prior.safetensors", classes=False)
    codec = VQGAN.load(path)
    assert isinstance(codec, torch.nn.Module)
    assert not codec.training
    x = pictures(8, 8) / 127.5 - 1
    assert codec(x).x_rec.shape == x.shape
    assert torch.equal(codec.encode(x), toy_codec().encode(x))


def test_builtin_names_the_model_of_the_package_unless_there_is_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named(Path("builtin")).name == "landscapes.safetensors"
    assert named(Path("other")) == Path("other")
    Path("builtin").touch()
    assert named(Path("builtin")) == Path("builtin")


def test_the_public_names_import_torch_on_first_use() -> None:
    script = "import sys, taming_cli; assert 'torch' not in sys.modules; taming_cli.Pipeline; taming_cli.VQGAN"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        taming_cli.Nothing  # noqa: B018
