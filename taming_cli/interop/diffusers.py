"""Import and export of diffusers' `VQModel` folders: config.json and weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from taming_cli.config.codec import CodecConfig
from taming_cli.config.fields import from_dict
from taming_cli.config.parsing import parse_json
from taming_cli.data.disk import write_atomically, write_json
from taming_cli.errors import BadFileError, UsageError
from taming_cli.interop.ledger import ImportedModel
from taming_cli.interop.names import DIFFUSERS, OLD_DIFFUSERS, from_published, to_published
from taming_cli.interop.pickles import read
from taming_cli.interop.published import imported_codec, published_codec, with_entries
from taming_cli.interop.wrappers import unwrapped
from taming_cli.runtime.checkpoint import ModelFile, write_safetensors
from taming_cli.runtime.stored import Stored

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PLAIN, ATTENTIVE = ("DownEncoderBlock2D", "UpDecoderBlock2D"), ("AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D")
NEEDED = {"act_fn": "silu", "norm_type": "group", "mid_block_add_attention": True}
"""The settings of a VQModel that is the paper's network."""


def import_folder(folder: Path) -> ImportedModel:
    """Import a codec from a `VQModel` folder, or from the folder of a pipeline that has one in `vqvae/`."""
    if not (folder / "config.json").exists() and (folder / "vqvae" / "config.json").exists():
        folder = folder / "vqvae"
    config = _config(folder / "config.json")
    if config.get("_class_name") != "VQModel":
        raise BadFileError(f"{folder} holds a {config.get('_class_name')}; only VQModel is supported")
    for name, value in NEEDED.items():
        if config.get(name, value) != value:
            raise BadFileError(f"{folder} has {name} {config[name]!r}; only {value!r} is supported")
    path = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if path is None:
        raise BadFileError(f"{folder} holds no weights; one of {', '.join(WEIGHTS)} is needed")
    value = read(path)
    stored = {name: t for name, t in value.items() if isinstance(t, Stored)} if isinstance(value, dict) else {}
    tensors = unwrapped(stored, str(path))
    old = any(name.endswith("attentions.0.proj_attn.weight") for name in tensors)
    names = to_published(tensors, OLD_DIFFUSERS if old else DIFFUSERS, str(path))
    renamed = {names[name]: _as_convolution(names[name], tensor) for name, tensor in tensors.items()}
    known: dict[str, Any] = {"norm_groups": config.get("norm_num_groups", 32)}
    if isinstance(config.get("sample_size"), int):
        known["resolution"] = config["sample_size"]
    return imported_codec(published_codec(renamed, str(path), **known), {"imported_from": folder.name}, {})


def export_folder(model: ModelFile, folder: Path) -> Path:
    """Export a codec as a `VQModel` folder. UsageError if a VQModel cannot represent it."""
    if model.format != "taming-codec":
        raise UsageError("only a codec can be exported as a VQModel; give the file of a codec")
    config = from_dict(CodecConfig, model.config["codec"], str(folder))
    if config.codebook == "gumbel":
        raise UsageError(
            "a VQModel chooses the nearest entry, not the largest of K logits; give the file of such a codec"
        )
    if config.levels > 1:
        raise UsageError("a VQModel has one level of codes; give the file of a VQGAN")
    if config.network == "palette":
        raise UsageError("a VQModel has an encoder and a decoder, not a palette alone; give the file of a VQGAN")
    if config.ch_mult[0] != 1:
        raise UsageError(f"ch_mult starts with {config.ch_mult[0]}; a VQModel requires 1")
    own = {name: tensor for name, tensor in model.tensors.items() if not name.startswith("extra.")}
    tensors = with_entries(config, own)
    attended = [config.attends(level) for level in range(len(config.ch_mult))]
    widths = [config.ch * multiple for multiple in config.ch_mult]
    written = {
        "_class_name": "VQModel",
        "_diffusers_version": "0.30.0",
        **NEEDED,
        "in_channels": config.in_channels,
        "out_channels": config.out_ch,
        "block_out_channels": widths,
        "down_block_types": [(ATTENTIVE if attend else PLAIN)[0] for attend in attended],
        "up_block_types": [(ATTENTIVE if attend else PLAIN)[1] for attend in reversed(attended)],
        "layers_per_block": config.num_res_blocks,
        "latent_channels": config.z_channels,
        "norm_num_groups": config.norm_groups,
        "num_vq_embeddings": config.codebook_size,
        "vq_embed_dim": config.codebook_dim,
        "sample_size": config.resolution,
        "lookup_from_codebook": True,
        "force_upcast": False,
        "scaling_factor": 1.0,
    }
    names = from_published(tensors, DIFFUSERS, "the codec")
    renamed = {names[name]: _as_matrix(name, tensor) for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS[0], lambda path: write_safetensors(path, renamed, {"format": "pt"}))
    write_json(folder / "config.json", written)
    return folder


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadFileError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise BadFileError(f"{path} is not the config of a model")
    return config


def _as_convolution(name: str, tensor: Stored) -> Stored:
    """An attention matrix (C, C) as the 1 x 1 convolution (C, C, 1, 1) of the published layout."""
    if ".attn" not in name or len(tensor.shape) != 2:
        return tensor
    return tensor._replace(shape=(*tensor.shape, 1, 1), load=lambda: tensor.load()[:, :, None, None])


def _as_matrix(name: str, tensor: Tensor) -> Tensor:
    """The inverse of `_as_convolution`."""
    return tensor[:, :, 0, 0] if ".attn" in name and tensor.ndim == 4 else tensor
