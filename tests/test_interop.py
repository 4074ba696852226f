"""Import and export of published checkpoints: golden files, accounting for tensors, and other layouts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from taming_cli.cli.app import main
from taming_cli.codec.vqgan import VQGAN, codec_file, codec_from
from taming_cli.config.codec import CodecConfig
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.size import Size
from taming_cli.data.images import read_image
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadFileError, UsageError
from taming_cli.interop.compvis_export import export_checkpoint
from taming_cli.interop.diffusers import export_folder
from taming_cli.interop.load import describe, import_file, read_yaml
from taming_cli.interop.names import DIFFUSERS, LLAMAGEN, OLD_DIFFUSERS, from_published, to_published
from taming_cli.prior.model import prior_file, prior_from
from taming_cli.prior.networks.gpt import GPT
from taming_cli.runtime.checkpoint import ModelFile, load_model, save_model
from tests.toys import toy_codec

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = CodecConfig(
    ch=32,
    ch_mult=(1, 2),
    num_res_blocks=1,
    norm_groups=32,
    attn_resolutions=(128,),
    z_channels=8,
    resolution=256,
    codebook_size=64,
    codebook_dim=8,
)
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def checkpoint(path: Path, tensors: Mapping[str, Tensor], **more: Any) -> Path:
    torch.save({"state_dict": dict(tensors), "global_step": 1234, "epoch": 3, **more}, path)
    return path


def golden(name: str, folder: Path) -> Path:
    """A golden model as the pickle that it was published as."""
    return checkpoint(folder / f"{name}.ckpt", load_file(GOLDEN / f"{name}.safetensors"))


def imported(path: Path, config: Path | None = None) -> ModelFile:
    """The model file that an import makes of `path`, read back."""
    found = import_file(path, config)
    target = path.with_name(path.stem + ".ours.safetensors")
    save_model(target, found.model, found.tensors)
    return load_model(target)


def same(model: ModelFile, codec: VQGAN) -> None:
    """An imported codec does what `codec` does."""
    ours = codec_from(model, "import")
    codes = codec.encode(X)
    assert torch.equal(ours.encode(X), codes)
    torch.testing.assert_close(ours.decode(codes), codec.decode(codes), rtol=0, atol=1e-5)
    assert len(codes.unique()) > 8
    assert model.about["codec_sha256"] == ours.sha256()


# --- the authors' files, through the commands -------------------------------------------------------------------------


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "repeats itself"),
        (LAUGHS + "model: {params: {ddconfig: {ch_mult: *a39}}}", "repeats itself"),
        ("model: &a [*a]", "repeats itself"),
        ("[" * 30_000, "recursion"),
        ("model: 2001-99-99", "month"),
        ("model: " + "9" * 5000, "4300 digits"),
        ("a: [" + "x, " * 50_000 + "]", "longer than any config"),
        ("", "is empty"),
        ("!!python/object/apply:os.system ['false']", "constructor"),
    ],
)
def test_a_config_that_repeats_or_nests_without_end_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(BadFileError, match=rf"c\.yaml.*{reason}"):
        read_yaml(path)
    path.write_text("base: &a {x: 1}\nmodel: {<<: *a, y: [*a, *a]}")
    assert read_yaml(path)["model"] == {"x": 1, "y": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize(
    "name", ["encoder.down.0.block.99999999.conv1.weight", f"encoder.down.{'9' * 5000}.block.0.conv1.weight"]
)
def test_names_that_claim_many_layers_build_none(name: str, tmp_path: Path) -> None:
    tensors = dict(load_file(GOLDEN / "vqgan.safetensors"))
    torch.save({"state_dict": {**tensors, name: torch.zeros(32, 32, 3, 3)}}, tmp_path / "c.ckpt")
    with pytest.raises(BadFileError, match=r"c\.ckpt"):
        import_file(tmp_path / "c.ckpt")


def test_a_published_codec_makes_the_golden_codes_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    golden("vqgan", tmp_path)
    with np.load(GOLDEN / "vqgan_io.npz") as io:
        x, codes, x_rec = io["x"], io["indices"], io["x_rec"]
    Path("in").mkdir()
    for number, picture in enumerate(x):
        Image.fromarray(((picture + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)).save(f"in/{number}.png")
    assert main(["import", "vqgan.ckpt", "--config", str(GOLDEN / "vqgan.yaml"), "-o", "vq.safetensors"]) == 0
    assert "183 tensors imported, 22 kept for an export" in capsys.readouterr().out
    assert main(["tokenize", "--ckpt", "vq.safetensors", "in", "-o", "t.h5", "--device", "cpu"]) == 0
    with TokenFile(Path("t.h5")) as tokens:
        assert np.array_equal(tokens.codes(slice(None))[:, 0], codes)
    assert main(["decode", "t.h5", "out", "--device", "cpu"]) == 0
    for number, picture in enumerate(x_rec):
        made = read_image(Path(f"out/{number}.png").read_bytes(), "out").numpy()
        assert np.abs(made - np.clip((picture + 1) * 127.5, 0, 255)).max() < 1


@pytest.mark.parametrize("speculate", ["off", "auto", "16"])
def test_a_published_prior_samples_the_golden_tokens(
    speculate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    golden("class_prior", tmp_path)
    config = str(GOLDEN / "class_prior.yaml")
    assert main(["import", "class_prior.ckpt", "--config", config, "-o", "class.safetensors"]) == 0
    line = "sample --ckpt class.safetensors --class 3 --greedy --tokens s.h5 -o out --device cpu --speculate"
    assert main([*line.split(), speculate]) == 0
    with np.load(GOLDEN / "class_prior_io.npz") as io, TokenFile(Path("s.h5")) as tokens:
        assert np.array_equal(tokens.codes(slice(None))[0, 0].flatten(), io["greedy"][io["classes"].flatten() == 3][0])


@pytest.mark.parametrize("name", ["vqgan", "class_prior", "segmentation_prior"])
def test_an_imported_model_is_exported_unchanged(name: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden"
    found = imported_in(tmp_path, folder / f"{name}.ckpt", folder / f"{name}.yaml")
    written = export_checkpoint(found, tmp_path / "out.ckpt")
    state = torch.load(tmp_path / "out.ckpt", weights_only=True)["state_dict"]
    original = load_file(folder / f"{name}.safetensors")
    assert state.keys() == original.keys()
    for key, tensor in original.items():
        assert state[key].dtype == tensor.dtype, key
        assert torch.equal(state[key], tensor), key
    again = imported_in(tmp_path, tmp_path / "out.ckpt", written)
    assert again.config == found.config
    assert again.about["codec_sha256"] == found.about["codec_sha256"]


def imported_in(folder: Path, path: Path, config: Path) -> ModelFile:
    found = import_file(path, config)
    save_model(folder / "ours.safetensors", found.model, found.tensors)
    return load_model(folder / "ours.safetensors")


def test_the_architecture_is_read_from_the_weights(tmp_path: Path) -> None:
    without, given = (import_file(golden("vqgan", tmp_path), config) for config in (None, GOLDEN / "vqgan.yaml"))
    one, other = without.model.config["codec"], given.model.config["codec"]
    assert {name for name in one if one[name] != other[name]} == {"resolution", "attn_resolutions"}
    assert (one["resolution"], one["attn_resolutions"]) == (256, [64])  # the same level
    assert without.model.about["step"] == 1234


# --- kinds of codec ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "image"),
        ({"codebook": "gumbel"}, "image"),
        ({"in_channels": 1, "out_ch": 1}, "depth"),
        ({"in_channels": 9, "out_ch": 9}, "segmentation"),
        ({"ch_mult": (1, 1, 2), "num_res_blocks": 2, "attn_resolutions": ()}, "image"),
    ],
)
def test_every_kind_of_codec_is_recognised(changes: dict[str, Any], kind: str, tmp_path: Path) -> None:
    codec = toy_codec(replace(PUBLISHED, **changes))
    model = imported(checkpoint(tmp_path / "c.ckpt", codec.state_dict()))
    assert model.config == codec_file(codec, {}).config
    assert model.about["content"] == kind
    if kind == "image":
        same(model, codec)


def test_half_precision_weights_become_fp32(tmp_path: Path) -> None:
    codec = toy_codec(PUBLISHED).half()
    model = imported(checkpoint(tmp_path / "c.ckpt", codec.state_dict()))
    assert {tensor.dtype for tensor in model.tensors.values()} == {torch.float32}
    same(model, codec.float())


def test_the_first_stage_of_a_diffusion_model_is_taken_out(tmp_path: Path) -> None:
    codec = toy_codec(PUBLISHED)
    state = {f"first_stage_model.{name}": tensor for name, tensor in codec.state_dict().items()}
    others = {name: torch.zeros(2) for name in ("model.diffusion_model.out.weight", "betas", "model_ema.decay")}
    found = import_file(checkpoint(tmp_path / "ldm.ckpt", state | others))
    assert found.dropped == {"the diffusion model around it": 3}
    same(imported(tmp_path / "ldm.ckpt"), codec)


@pytest.mark.parametrize("codebook", ["nearest", "gumbel"])
def test_a_remapped_codebook_keeps_the_codes_of_its_prior(codebook: Any, tmp_path: Path) -> None:
    whole = toy_codec(replace(PUBLISHED, codebook=codebook))
    used = torch.tensor([3, 60, 7, 12, 20, 31, 44, 1, *range(32, 44)])
    model = imported(checkpoint(tmp_path / "c.ckpt", {**whole.state_dict(), "quantize.used": used}))
    ours = codec_from(model, "import")
    codes, before = ours.encode(X), whole.encode(X)
    in_use = torch.isin(before, used)
    assert in_use.any()
    assert torch.equal(used[codes[in_use]], before[in_use])
    torch.testing.assert_close(ours.decode(codes), whole.decode(used[codes]), rtol=0, atol=1e-5)
    written = export_checkpoint(model, tmp_path / "out.ckpt")
    params = yaml.safe_load(written.read_text())["model"]["params"]
    assert params["n_embed"] == 64
    assert np.array_equal(np.load(params["remap"]), used.numpy())
    state = torch.load(tmp_path / "out.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["quantize.used"], used)
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("codebook", ["nearest", "gumbel"])
def test_an_imported_codec_may_be_trained_further(
    codebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = toy_codec(replace(PUBLISHED, codebook=codebook))
    before = imported(checkpoint(tmp_path / "c.ckpt", codec.state_dict()))
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(f"{number}.png")
    line = "train-vqgan 0.png 1.png 2.png --init c.ours.safetensors --out run --steps 4 --size 32x32 --batch-size 2 "
    line += "--perceptual none --disc-weight 0 --device cpu --precision fp32 --warmup 0"
    assert main(line.split()) == 0
    after = load_model(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert after.config["codec"] == before.config["codec"]
    weight = "quantize.proj.weight" if codebook == "gumbel" else "quantize.embedding.weight"
    assert not torch.equal(after.tensors[weight], before.tensors[weight])
    assert not torch.equal(after.tensors["encoder.conv_in.weight"], before.tensors["encoder.conv_in.weight"])


def test_a_codec_of_maps_is_not_mistaken_for_one_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("a.png")
    imported(checkpoint(tmp_path / "c.ckpt", toy_codec(replace(PUBLISHED, in_channels=9, out_ch=9)).state_dict()))
    for line, word in (
        ("tokenize a.png --ckpt c.ours.safetensors", "is a codec of condition maps (segmentation)"),
        ("train-vqgan a.png --init c.ours.safetensors --steps 1 --size 32x32 --device cpu", "use --kind segmentation"),
    ):
        assert main(line.split()) == 2
        assert word in capsys.readouterr().err
    Image.new("L", (32, 32), 4).save("labels.png")
    assert main(["reconstruct", "labels.png", "out", "--ckpt", "c.ours.safetensors", "--device", "cpu"]) == 0
    assert "of the pixels keep their label" in capsys.readouterr().out


# --- kinds of prior ---------------------------------------------------------------------------------------------------


def prior_checkpoint(path: Path, condition: Any, **params: Any) -> tuple[Path, Path]:
    """A prior of 16 cells, and its yaml with that condition."""
    codec = toy_codec(PUBLISHED)
    gpt = GPT(
        PriorConfig(
            arch="published",
            n_layer=1,
            n_head=2,
            n_embd=16,
            window=Size(4, 4),
            codebook_size=64,
            vocabulary="shared",
            vocab_size=70,
            block_size=params.pop("block_size", 16),
        )
    )
    state = {f"transformer.{name}": tensor for name, tensor in gpt.state_dict().items()}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in codec.state_dict().items()}
    if condition == "__is_first_stage__":
        state |= {f"cond_stage_model.{name}": tensor for name, tensor in codec.state_dict().items()}
    rows = gpt.config.block_size
    state["transformer.blocks.0.attn.mask"] = torch.ones(1, 1, rows, rows).tril()
    network = {"target": "taming.modules.transformer.mingpt.GPT", "params": {"n_head": 2}}
    settings = {"cond_stage_config": condition, "transformer_config": network, **params}
    config = path.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"model": {"target": "Net2NetTransformer", "params": settings}}))
    return checkpoint(path, state), config


def target(name: str, **params: Any) -> dict[str, Any]:
    return {"target": f"taming.modules.{name}", "params": params}


@pytest.mark.parametrize(
    ("permuter", "order"),
    [
        ("Identity", "raster"),
        ("ZCurve", "z-curve"),
        ("SpiralOut", "spiral-out"),
        ("SpiralIn", "spiral-in"),
        ("AlternateParsing", "alternating"),
    ],
)
def test_the_order_of_a_prior_is_kept(permuter: str, order: str, tmp_path: Path) -> None:
    permuter_config = target(f"transformer.permuter.{permuter}", H=4, W=4)
    path, config = prior_checkpoint(tmp_path / "p.ckpt", None, unconditional=True, permuter_config=permuter_config)
    model = imported(path, config)
    assert model.config["prior"]["order"] == order
    written = export_checkpoint(model, tmp_path / "out.ckpt")
    state = torch.load(tmp_path / "out.ckpt", weights_only=True)["state_dict"]
    assert ("permuter.forward_shuffle_idx" in state) == (order != "raster")
    assert imported_in(tmp_path, tmp_path / "out.ckpt", written).config == model.config
    if order != "raster":
        state["permuter.forward_shuffle_idx"] = state["permuter.forward_shuffle_idx"].flip(0)
        with pytest.raises(BadFileError, match=f"not the order '{order}'"):
            import_file(checkpoint(tmp_path / "wrong.ckpt", state), written)


@pytest.mark.parametrize(
    ("condition", "params", "specs", "sos"),
    [
        (target("util.Labelator", n_classes=5), {}, (ConditionSpec(kind="class", vocabulary=5),), 0),
        (target("util.SOSProvider", sos_token=9), {}, (), 9),
        ("__is_unconditional__", {"sos_token": 3}, (), 3),
        (None, {"unconditional": True}, (), 0),
        (
            target("misc.coord.CoordStage", n_embed=50, down_factor=2),
            {"block_size": 32},
            (ConditionSpec(kind="coords", vocabulary=51, form="grid"),),
            0,
        ),
        (
            "__is_first_stage__",
            {"block_size": 32, "cond_stage_key": "lowres"},
            (ConditionSpec(kind="lowres", vocabulary=64, form="grid"),),
            0,
        ),
    ],
)
def test_every_condition_of_a_prior_is_recognised(
    condition: Any, params: dict[str, Any], specs: tuple[ConditionSpec, ...], sos: int, tmp_path: Path
) -> None:
    path, config = prior_checkpoint(tmp_path / "p.ckpt", condition, **params)
    model = imported(path, config)
    prior = prior_from(model, "import").config
    assert (prior.conditions, prior.sos_token, prior.window) == (specs, sos, Size(4, 4))
    assert len(model.about["label_names"]) == prior.num_classes
    written = export_checkpoint(model, tmp_path / "out.ckpt")
    assert imported_in(tmp_path, tmp_path / "out.ckpt", written).config == model.config
    state, original = (torch.load(p, weights_only=True)["state_dict"] for p in (tmp_path / "out.ckpt", path))
    assert state.keys() == original.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())


def test_a_mask_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    path, config = prior_checkpoint(tmp_path / "p.ckpt", None, unconditional=True)
    state = torch.load(path, weights_only=True)["state_dict"]
    state["transformer.blocks.0.attn.mask"][:, :, :4, :4] = 1
    with pytest.raises(BadFileError, match=r"blocks\.0\.attn\.mask that is not causal"):
        import_file(checkpoint(path, state), config)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state | {"stranger.weight": torch.zeros(1)}, r"belong to no supported model: stranger\.weight"),
        (lambda state: {k: v for k, v in state.items() if k != "decoder.mid.attn_1.q.bias"}, r"attn_1\.q\.bias"),
        (
            lambda state: state | {"quant_conv.bias": torch.zeros(9)},
            r"quant_conv\.bias of shape \(9,\) instead of \(8,\)",
        ),
        (lambda state: state | {"encoder.down.0.attn.7.q.bias": torch.zeros(9)}, r"attn\.7"),
        (lambda state: state | {"encoder.conv_out.weight": torch.zeros(16, 64, 3, 3)}, "continuous"),
        (lambda state: {"a": torch.zeros(1)}, "is not a supported model"),
        (lambda state: {}, "no weights"),
    ],
)
def test_a_tensor_that_is_not_accounted_for_is_refused(change: Callable[[Any], Any], word: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "c.ckpt", change(dict(toy_codec(PUBLISHED).state_dict())))
    with pytest.raises(BadFileError, match=word) as caught:
        import_file(path)
    assert "\n" not in str(caught.value)


def test_a_prior_needs_its_yaml_and_unsupported_settings_are_named(tmp_path: Path) -> None:
    path, config = prior_checkpoint(tmp_path / "p.ckpt", target("util.Labelator", n_classes=5))
    with pytest.raises(BadFileError, match="its weights do not determine n_head and the condition: give --config FILE"):
        import_file(path)
    assert describe(path)["block_size"] == 16
    path, config = prior_checkpoint(tmp_path / "p.ckpt", target("util.Clip"))
    with pytest.raises(BadFileError, match="condition 'Clip', which is not supported"):
        import_file(path, config)
    path, config = prior_checkpoint(
        tmp_path / "p.ckpt", None, unconditional=True, permuter_config=target("transformer.permuter.Random", H=4, W=4)
    )
    with pytest.raises(BadFileError, match="orders its tokens by Random"):
        import_file(path, config)
    path, config = prior_checkpoint(tmp_path / "p.ckpt", target("util.Labelator", n_classes=5), downsample_cond_size=64)
    with pytest.raises(BadFileError, match="downsample_cond_size"):
        import_file(path, config)


def test_a_yaml_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"model": {"params": {"n_embed": 1024, "ddconfig": {}}}}))
    with pytest.raises(
        BadFileError, match=r"c\.yaml specifies n_embed 1024, but quantize\.embedding\.weight of .*c\.ckpt has 64"
    ):
        import_file(checkpoint(tmp_path / "c.ckpt", toy_codec(PUBLISHED).state_dict()), config)
    config.write_text("]")
    with pytest.raises(BadFileError, match=r"c\.yaml cannot be read"):
        import_file(tmp_path / "c.ckpt", config)


def test_a_model_that_the_authors_code_cannot_represent_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="norm_groups 8; the authors' code supports only 32"):
        export_checkpoint(codec_file(toy_codec(), {}), tmp_path / "c.ckpt")
    modern = GPT(PriorConfig(arch="modern", n_layer=1, n_head=2, n_embd=16, window=Size(4, 4), codebook_size=64))
    with pytest.raises(UsageError, match="arch 'published'"):
        export_checkpoint(prior_file(modern, codec_file(toy_codec(PUBLISHED), {}), {}), tmp_path / "p.ckpt")
    assert not list(tmp_path.iterdir())


# --- the same network under other names -------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [DIFFUSERS, OLD_DIFFUSERS, LLAMAGEN])
def test_translated_names_round_trip(rules: Any) -> None:
    names = list(VQGAN(replace(PUBLISHED, ch_mult=(1, 1, 2), attn_resolutions=(64,))).state_dict())
    there = from_published(names, rules, "x")
    assert len(set(there.values())) == len(names)
    assert to_published(there.values(), rules, "x") == {new: old for old, new in there.items()}


def test_llamagens_codec_is_ours_with_normalised_entries(tmp_path: Path) -> None:
    codec = toy_codec(replace(PUBLISHED, normalize=True, ch_mult=(1, 1, 2), attn_resolutions=(64,)))
    names = from_published(codec.state_dict(), LLAMAGEN, "x")
    state = {names[name]: tensor for name, tensor in codec.state_dict().items()}
    assert state.keys() >= {"encoder.conv_blocks.2.attn.0.q.weight", "decoder.conv_blocks.0.upsample.conv.weight"}
    torch.save({"model": state | {"quantize.codebook_used": torch.zeros(65536)}, "steps": 5}, tmp_path / "vq.pt")
    model = imported(tmp_path / "vq.pt")
    same(model, codec)
    assert model.about["step"] == 5


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (replace(PUBLISHED, decoder_ch=64), "ch is 32 and decoder_ch 64"),
        (replace(PUBLISHED, patch_size=2), "patch_size is 2"),
        (replace(PUBLISHED, shortcut=True), "shortcut is True"),
    ],
)
def test_a_codec_that_other_code_lacks_is_not_exported(config: CodecConfig, given: str, tmp_path: Path) -> None:
    file = codec_file(toy_codec(config), {})
    for export in (export_checkpoint, export_folder):
        with pytest.raises(UsageError, match=rf"{given}; .* cannot be exported"):
            export(file, tmp_path / "out.ckpt")
    assert not list(tmp_path.iterdir())


def test_diffusers_and_we_agree_on_exported_and_imported_codecs(tmp_path: Path) -> None:
    import diffusers

    codec = toy_codec(replace(PUBLISHED, ch_mult=(1, 2), norm_groups=8, normalize=True))
    export_folder(codec_file(codec, {}), tmp_path / "vqvae")
    theirs = diffusers.VQModel.from_pretrained(tmp_path / "vqvae", low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        z = theirs.encode(X).latents
        rec = theirs.decode(z).sample
        codes = theirs.quantize(z)[2][2].view(2, 16, 16)
    assert torch.equal(codec.encode(X), codes)
    torch.testing.assert_close(codec.decode(codes), rec, rtol=0, atol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    found = import_file(tmp_path / "again")
    save_model(tmp_path / "ours.safetensors", found.model, found.tensors)
    ours = codec_from(load_model(tmp_path / "ours.safetensors"), "import")
    assert torch.equal(ours.encode(X), codes)
    torch.testing.assert_close(ours.decode(codes), rec, rtol=0, atol=1e-5)
