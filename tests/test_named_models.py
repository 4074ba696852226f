"""Which file is meant where a model is named: run folders, foreign checkpoints, wrapped names and foreign configs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.prior import PriorConfig
from taming_cli.config.size import Size
from taming_cli.errors import BadFileError
from taming_cli.interop.load import import_file
from taming_cli.prior.model import prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import load_model, save_model
from taming_cli.runtime.model_files import named
from taming_cli.sampling.pipeline import Pipeline
from tests.toys import toy_codec

GOLDEN = Path(__file__).parent / "golden"


# --- names that training left in a checkpoint -------------------------------------------------------------------------


def inside(name: str, wrapper: str) -> str:
    """`encoder.conv_in.weight` -> `encoder.WRAPPER.conv_in.weight`."""
    first, _, rest = name.partition(".")
    return f"{first}.{wrapper}.{rest}"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: inside(name, "_orig_mod"),
        lambda name: inside(name, "_fsdp_wrapped_module"),
        lambda name: f"model.{name}",
        lambda name: f"model._orig_mod.{name}",
        lambda name: f"module.vqgan.{name}",
    ],
)
def test_a_wrapped_codec_is_the_codec(wrapped: Callable[[str], str], tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "vqgan.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "plain.ckpt")
    torch.save({"state_dict": {wrapped(name): tensor for name, tensor in tensors.items()}}, tmp_path / "wrapped.ckpt")
    plain, found = (import_file(tmp_path / f"{name}.ckpt", GOLDEN / "vqgan.yaml") for name in ("plain", "wrapped"))
    assert found.tensors.keys() == plain.tensors.keys()
    assert found.model.config == plain.model.config
    assert found.model.about["codec_sha256"] == plain.model.about["codec_sha256"]
    assert found.dropped == plain.dropped


def test_a_wrapped_prior_is_the_prior(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "class_prior.safetensors")
    names = {
        name: inside(name, "_orig_mod") if name.startswith("first_stage") else f"module.{name}" for name in tensors
    }
    torch.save({"model": {"module": {names[name]: tensor for name, tensor in tensors.items()}}}, tmp_path / "p.ckpt")
    torch.save({"state_dict": tensors}, tmp_path / "plain.ckpt")
    plain, found = (import_file(tmp_path / name, GOLDEN / "class_prior.yaml") for name in ("plain.ckpt", "p.ckpt"))
    assert found.tensors.keys() == plain.tensors.keys()
    assert found.model.about["codec_sha256"] == plain.model.about["codec_sha256"]


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / "vqgan.safetensors")
    name = "encoder.conv_in.bias"
    torch.save({"state_dict": {**tensors, f"module.{name}": tensors[name] + 1}}, tmp_path / "twice.ckpt")
    with pytest.raises(BadFileError, match=f"has both {name} and module.{name}"):
        import_file(tmp_path / "twice.ckpt")


# --- a config that belongs to another checkpoint ----------------------------------------------------------------------


def changed(name: str, folder: Path, change: Callable[[Any], Any]) -> Path:
    config = yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())
    change(config["model"]["params"])
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "vqgan",
            lambda p: p.update(n_embed=1024),
            "specifies n_embed 1024, but quantize.embedding.weight of {} has 128",
        ),
        (
            "vqgan",
            lambda p: p.update(embed_dim=256),
            "specifies embed_dim 256, but quantize.embedding.weight of {} has 16",
        ),
        ("vqgan", lambda p: p["ddconfig"].update(ch=128), "specifies ch 128, but encoder.conv_in.weight of {} has 32"),
        ("vqgan", lambda p: p["ddconfig"].update(ch_mult=[1, 1, 2, 4]), "specifies ch_mult 1,1,2,4, but encoder.down."),
        (
            "vqgan",
            lambda p: p["ddconfig"].update(num_res_blocks=2),
            "specifies num_res_blocks 2, but encoder.down.0.block",
        ),
        (
            "vqgan",
            lambda p: p["ddconfig"].update(z_channels=256),
            "specifies z_channels 256, but encoder.conv_out.weight of",
        ),
        (
            "vqgan",
            lambda p: p["ddconfig"].update(in_channels=1),
            "specifies in_channels 1, but encoder.conv_in.weight of {} ",
        ),
        (
            "vqgan",
            lambda p: p["ddconfig"].update(attn_resolutions=[]),
            "specifies resolution 64 with attn_resolutions none, but",
        ),
        (
            "vqgan",
            lambda p: p["ddconfig"].update(resolution=256),
            "specifies resolution 256 with attn_resolutions none, but",
        ),
        ("vqgan", lambda p: p["ddconfig"].update(resolution="256"), "specifies resolution '256', where whole numbers"),
        (
            "vqgan",
            lambda p: p["ddconfig"].update(dropout=7.0),
            "does not belong to this checkpoint: {} describes an invalid",
        ),
        ("vqgan", lambda p: p.update(transformer_config={}), "is the config of a prior"),
        ("vqgan", lambda p: p.clear(), "has no model.params"),
        (
            "class_prior",
            lambda p: p["first_stage_config"]["params"].update(n_embed=64),
            "specifies n_embed 64, but quantize.",
        ),
        (
            "class_prior",
            lambda p: p["transformer_config"]["params"].update(n_layer=24),
            "specifies n_layer 24, but transf",
        ),
        (
            "class_prior",
            lambda p: p["transformer_config"]["params"].update(vocab_size=9),
            "specifies vocab_size 9, but trans",
        ),
        (
            "class_prior",
            lambda p: p["transformer_config"]["params"].update(block_size=1),
            "specifies block_size 1, but trans",
        ),
        (
            "class_prior",
            lambda p: p["transformer_config"]["params"].update(n_head=7),
            "specifies n_head 7, which does not",
        ),
        (
            "class_prior",
            lambda p: p.pop("transformer_config"),
            "is not the config of a prior (it has no transformer_config)",
        ),
        (
            "class_prior",
            lambda p: p["cond_stage_config"].update(target="taming.models.vqgan.VQModel"),
            "has the cond_stage_config VQModel, but {} has no cond_stage_model.encoder",
        ),
    ],
)
def test_a_wrong_config_is_blamed_and_not_the_checkpoint(
    name: str, change: Callable[[Any], Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = GOLDEN / f"{name}.safetensors", changed(name, tmp_path, change)
    assert main(["import", str(path), "--config", str(config), "-o", str(tmp_path / "ours.safetensors")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    shown = line.replace(f"the first_stage_model of {path}", "{}").replace(str(path), "{}")
    assert shown.startswith(f"taming: {config} {words}")
    assert shown.endswith("give the config that came with the checkpoint")


# --- a model that is named by something else than its file ------------------------------------------------------------


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_run(path: str, *names: str) -> Path:
    """A run's folder with a toy codec under these names, each of another step."""
    run = Path(path)
    (run / "checkpoints").mkdir(parents=True)
    (run / "env.json").write_text("{}")
    for step, name in enumerate(names):
        save_model(run / "checkpoints" / name, codec_file(toy_codec(), {"step": step}))
    return run


def a_prior_run(path: str) -> Path:
    gpt = GPT(PriorConfig(arch="modern", n_layer=1, n_head=1, n_embd=8, window=Size(2, 2), codebook_size=64))
    run = a_run(path)
    about = {"step": 1, "label_names": [], "grid": "16x16", "downsample_factor": 2, "condition_dropout": 0.0}
    save_model(run / "checkpoints" / "best.safetensors", prior_file(gpt, codec_file(toy_codec(), {}), about))
    return run


def a_picture() -> str:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("a.png")
    return "a.png"


def test_a_run_folder_is_its_best_model_else_its_last() -> None:
    run = a_run("run", "last.safetensors", "best.safetensors")
    assert named(run) == named(run / "checkpoints") == run / "checkpoints" / "best.safetensors"
    assert load_model(run).about["step"] == 1
    (run / "checkpoints" / "best.safetensors").unlink()
    assert named(run) == run / "checkpoints" / "last.safetensors"
    assert VQGAN.load("run").config == toy_codec().config


def test_a_run_folder_is_taken_wherever_a_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    a_run("run", "best.safetensors")
    picture, cpu = a_picture(), ["--device", "cpu"]
    best = Path("run") / "checkpoints" / "best.safetensors"
    for line in (
        ["tokenize", picture, "--ckpt", "run", "-o", "t.h5", *cpu],
        ["reconstruct", picture, "again", "--ckpt", "run/checkpoints", *cpu],
        ["decode", "t.h5", "out", "--codec", "run", *cpu],
        ["eval", "recon", "run", picture, "--perceptual", "none", *cpu],
        ["eval", "codebook", "run", "t.h5", *cpu],
        ["info", "run"],
        ["export", "run", "--to", "diffusers", "-o", "vqmodel"],
        ["train-vqgan", picture, "--init", "run", "--dry-run", "--perceptual", "none", "--size", "32x32", *cpu],
    ):
        assert main(line) == 0, line
        assert f"{best}\n" in capsys.readouterr().err.replace("/checkpoints is a run", " is a run"), line
    assert main(["info", "t.h5", "--json"]) == 0
    assert str(best.resolve()) in capsys.readouterr().out  # what is recorded is the file


def test_a_pipeline_loads_a_run_folder() -> None:
    a_prior_run("prior")
    assert Pipeline.load("prior", device="cpu", precision="fp32").gpt.config.n_layer == 1
    a_run("codec", "best.safetensors")
    assert Pipeline.load("prior", codec="codec", device="cpu", precision="fp32").codec.config == toy_codec().config


@pytest.mark.parametrize("named_as", ["empty", "empty/checkpoints"])
def test_a_run_without_a_model_gives_one_line(named_as: str, capsys: pytest.CaptureFixture[str]) -> None:
    a_run("empty")
    assert main(["reconstruct", a_picture(), "out", "--ckpt", named_as, "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is the folder of a run that has not saved a model yet" in line


def foreign(kind: str) -> tuple[str, str]:
    """A file that is not one of our model files, and the expected message."""
    tensors: dict[str, Tensor] = load_file(GOLDEN / "vqgan.safetensors")
    if kind in ("x.ckpt", "x.pt", "x.pth", "x"):
        torch.save({"state_dict": tensors}, kind)
        return kind, f"(a pickle); import it first: taming import {kind} -o x.safetensors"
    if kind == "old.ckpt":
        torch.save({"state_dict": tensors}, kind, _use_new_zipfile_serialization=False)
        return kind, "import it first: taming import old.ckpt -o old.safetensors"
    if kind == "theirs.safetensors":
        save_file(tensors, kind)
        return kind, "import it first: taming import theirs.safetensors -o theirs.taming.safetensors"
    if kind == "vqmodel":
        Path(kind).mkdir()
        Path(kind, "config.json").write_text('{"_class_name": "VQModel"}')
        return kind, "import it first: taming import vqmodel -o vqmodel.safetensors"
    if kind == "pictures":
        Path(kind).mkdir()
        return kind, "is a folder without a model; name a model file, or the folder of a run"
    if kind == "run/trainer.pt":
        torch.save({"step": 1}, a_run("run") / "trainer.pt")
        return kind, "is the trainer file of a run; name a model of the run, such as run/checkpoints"
    import h5py

    h5py.File(kind, "w").close()
    return kind, "is an HDF5 file"


KINDS = [
    "x.ckpt",
    "x.pt",
    "x.pth",
    "x",
    "old.ckpt",
    "theirs.safetensors",
    "vqmodel",
    "pictures",
    "run/trainer.pt",
    "t.h5",
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_for_what_is_no_model_file_names_the_remedy(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, words = foreign(kind)
    for line in (
        ["reconstruct", a_picture(), "out", "--ckpt", path, "--device", "cpu"],
        ["sample", "--ckpt", path, "-n", "1", "-o", "out", "--device", "cpu"],
        ["eval", "recon", path, "a.png", "--perceptual", "none", "--device", "cpu"],
        ["train-vqgan", "a.png", "--init", path, "--out", "out", "--device", "cpu"],
    ):
        assert main(line) == 1, line
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"taming: {path} ") or line[0] == "train-vqgan"
        assert words in said
    assert not Path("out").exists()
