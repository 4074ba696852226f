"""A prior's model file: network, codec and labels in one, so that one file makes pictures."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taming_cli.config.fields import from_dict, to_dict
from taming_cli.config.prior import PriorConfig
from taming_cli.errors import BadFileError
from taming_cli.prior.gpt import GPT
from taming_cli.runtime.checkpoint import ModelFile


def prior_file(gpt: GPT, codec: ModelFile, about: Mapping[str, Any]) -> ModelFile:
    """A prior as a model file, with the codec out of a codec's (or another prior's) file.

    Tensors: `prior.*` and `codec.*`; config: `prior` and `codec`; about: what is given, and the codec's hash.
    """
    return ModelFile(
        format="taming-prior",
        config={"prior": to_dict(gpt.config), "codec": codec.config["codec"]},
        about={**about, "codec_sha256": codec.about["codec_sha256"]},
        tensors={
            **{f"prior.{name}": tensor for name, tensor in gpt.state_dict().items()},
            **{f"codec.{name}": tensor for name, tensor in _codec_tensors(codec).items()},
        },
    )


def prior_from(model: ModelFile, where: str, *, dropout: float = 0.0) -> GPT:
    """The network of a prior's model file, in eval mode on the CPU. BadFileError names `where`."""
    with torch.device("meta"):
        gpt = GPT(from_dict(PriorConfig, model.config["prior"], where), dropout=dropout)
    tensors = {name.removeprefix("prior."): t for name, t in model.tensors.items() if name.startswith("prior.")}
    try:
        gpt.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise BadFileError(f"{where} does not hold the prior that its config describes: {reason}") from None
    if gpt.config.arch == "modern":
        gpt.build_tables()
    return gpt.eval().requires_grad_(False)


def _codec_tensors(codec: ModelFile) -> Mapping[str, Tensor]:
    if codec.format == "taming-codec":
        return codec.tensors
    return {name.removeprefix("codec."): t for name, t in codec.tensors.items() if name.startswith("codec.")}
