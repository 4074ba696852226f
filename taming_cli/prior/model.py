"""The model file of a prior: network, codecs and labels, so that one file suffices to draw pictures."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorConfig, recorded_prior
from taming_cli.prior.networks.any_order import AnyOrder
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.networks.pixelsnail import PixelSNAIL
from taming_cli.runtime.checkpoint import ModelFile, building, fill
from taming_cli.runtime.finite import MARK, marked

Network = GPT | AnyOrder | PixelSNAIL
"""The network of a prior."""
SUGGESTED = "sampling"
"""The key of a model file's suggested sampling settings."""
RISING = "0.7:1"
"""The temperature that is suggested for a prior for any order. Its first, sparse cells decide what is where, and an
unlikely code among them is never corrected."""


def new_network(config: PriorConfig, *, dropout: float = 0.0) -> Network:
    """A new network of this architecture, with random weights."""
    kinds: dict[str, type[Network]] = {"any-order": AnyOrder, "pixelsnail": PixelSNAIL}
    return kinds.get(config.arch, GPT)(config, dropout=dropout)


def prior_file(
    gpt: Network, codec: ModelFile, about: Mapping[str, Any], conditions: Mapping[str, ModelFile] = MappingProxyType({})
) -> ModelFile:
    """A prior as a model file, with the codec from a codec's or another prior's file, and the codecs of its conditions.

    Tensors: `prior.*`, `codec.*`, `condition.KIND.*` where it is another codec. Config: `prior`, `codec`, `conditions`.
    About: the given values, the codec's hash, and under `conditions` the facts that each condition's codec records
    about its content.
    """
    kinds = {spec.kind for spec in gpt.config.conditions}
    used = {kind: model for kind, model in conditions.items() if kind in kinds}
    config: dict[str, Any] = {"prior": to_dict(gpt.config), "codec": codec.config["codec"]}
    facts: dict[str, Any] = {**about, "codec_sha256": codec.about["codec_sha256"]}
    if used:
        config["conditions"] = {kind: model.config["codec"] for kind, model in used.items()}
        facts["conditions"] = {
            kind: {name: model.about[name] for name in CONTENT if name in model.about} for kind, model in used.items()
        }
    names = _allowed("codec.", codec)
    apart = {kind: of for kind, of in used.items() if of.about.get("codec_sha256") != facts["codec_sha256"]}
    for kind, model in apart.items():
        names += _allowed(f"condition.{kind}.", model)
    if names:
        facts[MARK] = names
    parts = {"prior": gpt.state_dict(), "codec": _codec_tensors(codec)}
    parts |= {f"condition.{kind}": _codec_tensors(model) for kind, model in apart.items()}
    return ModelFile(
        format="taming-prior",
        config=config,
        about=facts,
        tensors={f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()},
    )


CONTENT = (
    "content",
    "unlabelled",
    "colours",
    "label_values",
    "missing",
    "depth_range",
    "factor",
    "encoder_only",
    "codec_sha256",
)
"""The facts about a condition's codec that the file of a prior repeats."""


def prior_from(model: ModelFile, where: str, *, dropout: float = 0.0) -> Network:
    """The network of a prior's model file, frozen and in eval mode on the CPU. BadFileError names `where`."""
    with building(where):
        gpt = new_network(recorded_prior(model.config["prior"], where), dropout=dropout)
    fill(gpt, model, "prior.", where, "prior")
    if isinstance(gpt, GPT | PixelSNAIL):
        gpt.build_tables()
    return gpt


def _allowed(prefix: str, codec: ModelFile) -> list[str]:
    """The tensors of a codec whose import was allowed although they are not finite, by name."""
    own = "" if codec.format == "taming-codec" else "codec."
    names = [name.removeprefix(own) for name in marked(codec.about) if name.startswith(own)]
    return [f"{prefix}{name}" for name in names if not name.startswith("extra.")]


def _codec_tensors(codec: ModelFile) -> Mapping[str, Tensor]:
    if codec.format == "taming-codec":
        return {name: tensor for name, tensor in codec.tensors.items() if not name.startswith("extra.")}
    return {name.removeprefix("codec."): t for name, t in codec.tensors.items() if name.startswith("codec.")}
