"""LlamaGen's image codec: the same network with other names, and a normalised codebook."""

from collections.abc import Mapping
from typing import Any

from taming_cli.interop.ledger import ImportedModel, Ledger
from taming_cli.interop.names import LLAMAGEN, to_published
from taming_cli.interop.published import imported_codec, published_codec
from taming_cli.runtime.stored import Stored


def import_codec(tensors: Mapping[str, Stored], where: str, about: Mapping[str, Any]) -> ImportedModel:
    """Import LlamaGen's `VQModel` (Sun et al. 2024): codebook entries of norm 1, attention at the lowest level."""
    ledger = Ledger(where, dict(tensors))
    ledger.drop(r"quantize\.codebook_used", "a record of the codes used in training")
    names = to_published(ledger.tensors, LLAMAGEN, where)
    renamed = {names[name]: tensor for name, tensor in ledger.tensors.items()}
    return imported_codec(published_codec(renamed, where, normalize=True), about, ledger.dropped)
