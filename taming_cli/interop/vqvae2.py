"""A VQ-VAE-2 of two levels, in the layout of the well-known PyTorch port."""

import re
from collections import Counter
from collections.abc import Mapping
from statistics import mode
from typing import Any

import torch

from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig
from taming_cli.errors import BadFileError
from taming_cli.interop.ledger import ImportedModel, Ledger
from taming_cli.interop.published import CodecParts, as_float, build_config, check_shapes, imported_codec
from taming_cli.runtime.stored import Stored

MARKS = ("enc_b.blocks.0.weight", "quantize_b.embed", "quantize_t.embed")
"""Tensors by any of which such a file is recognised."""
_PREFIXES = {
    "encoder.": "enc_b.",
    "quantize.encoder.": "enc_t.",
    "quantize.conv_top.": "quantize_conv_t.",
    "quantize.top.embedding.weight": "quantize_t.embed",
    "quantize.decoder.": "dec_t.",
    "quantize.conv_bottom.": "quantize_conv_b.",
    "quantize.bottom.embedding.weight": "quantize_b.embed",
    "decoder.upsample.": "upsample_t.",
    "decoder.blocks.": "dec.blocks.",
}
"""The port's prefixes by ours."""
_BLOCK = re.compile(r"(enc_b|enc_t|dec_t|dec)\.blocks\.\d+\.conv\.1\.weight")


def import_codec(tensors: Mapping[str, Stored], where: str, about: Mapping[str, Any]) -> ImportedModel:
    """Import a model of the port, whose codebooks are (D, K). Its file also has the moving averages of its training,
    which are dropped."""
    ledger = Ledger(where, dict(tensors))
    ledger.drop(r"quantize_[tb]\.(cluster_size|embed_avg)", "moving averages of the training")
    given = {name: as_float(tensor) for name, tensor in ledger.tensors.items()}
    config = _config(given, where)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in VQGAN(config).state_dict().items()}
    shapes = {_published(name): shape[::-1] if _is_codebook(name) else shape for name, shape in expected.items()}
    check_shapes(shapes, given, where)
    weights = {name: _entries(given[_published(name)], name) for name in expected}
    return imported_codec(CodecParts(config, weights), about, ledger.dropped)


def _published(name: str) -> str:
    """The port's name of one of our tensors."""
    prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[prefix] + name.removeprefix(prefix)


def _is_codebook(name: str) -> bool:
    return name.endswith("embedding.weight")


def _entries(tensor: Stored, name: str) -> Stored:
    """The tensor by our `name`, of a codebook (K, D) instead of (D, K)."""
    if not _is_codebook(name):
        return tensor
    return tensor._replace(shape=tensor.shape[::-1], load=lambda: tensor.load().t().contiguous())


def _config(given: Mapping[str, Stored], where: str) -> CodecConfig:
    """The architecture, from the shapes of some of the port's tensors."""

    def side(name: str, dimension: int) -> int:
        if name not in given or dimension >= len(given[name].shape):
            raise BadFileError(f"{where} is not a supported VQ-VAE-2: it has no {name}")
        return given[name].shape[dimension]

    found = Counter(match[1] for name in given if (match := _BLOCK.fullmatch(name)))
    blocks = mode(found.values() or [0])  # all four networks have the same number, unless a tensor is missing
    out = f"dec.blocks.{1 + blocks + 3}.weight"  # after a convolution, the blocks, a ReLU, a convolution and a ReLU
    return build_config(
        CodecConfig,
        where,
        network="vq-vae-2",
        ch=side("quantize_conv_t.weight", 1),
        num_res_blocks=blocks,
        n_res_channel=side("enc_b.blocks.5.conv.1.weight", 0),
        resolution=256,  # the published one, since weights do not determine it
        in_channels=side("enc_b.blocks.0.weight", 1),
        out_ch=side(out, 1),
        codebook_size=side("quantize_b.embed", 1),
        codebook_dim=side("quantize_b.embed", 0),
    )
