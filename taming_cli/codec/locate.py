"""Load codecs, find the codecs that a token file was made with, and read its codes for them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from taming_cli.codec.vqgan import VQGAN, codec_from
from taming_cli.codec.vqvae2 import CodeLevels, join_levels
from taming_cli.data.contents import Content, content_of
from taming_cli.data.tokens.file import Rows, TokenFile
from taming_cli.data.tokens.header import RULE, TokenHeader
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, load_model, read_header
from taming_cli.runtime.model_files import named


def load_codec(path: Path) -> tuple[VQGAN, ModelFile]:
    """The codec in a codec's or a prior's model file, in eval mode on the CPU, and the file."""
    model = load_model(path)
    return codec_from(model, str(path)), model


def picture_codec(path: Path) -> tuple[VQGAN, ModelFile]:
    """As `load_codec`; UsageError for a codec of condition maps."""
    codec, model = load_codec(path)
    if (kind := content_in(model).kind) != "image":
        raise UsageError(f"{path} is a codec of condition maps ({kind}); a codec of pictures is needed here")
    return codec, model


def content_in(model: ModelFile) -> Content:
    """What the codec in a codec's or a prior's model file encodes: pictures, or the maps of a condition."""
    about = model.about if model.format == "taming-codec" else {}
    return content_of(about, int(model.config["codec"]["in_channels"]))


def codecs_in(model: ModelFile) -> list[ModelFile]:
    """A model file, and the codecs of its conditions as files of their own, where it is a prior's."""
    found = [model]
    for kind, config in model.config.get("conditions", {}).items():
        prefix, about = f"condition.{kind}.", model.about.get("conditions", {}).get(kind)
        tensors = {name.removeprefix(prefix): of for name, of in model.tensors.items() if name.startswith(prefix)}
        if tensors and about:
            found.append(ModelFile(format="taming-codec", config={"codec": config}, about=about, tensors=tensors))
    return found


def codec_for(header: TokenHeader, tokens: Path, given: Path | None) -> tuple[VQGAN, ModelFile, Path]:
    """The codec that made `tokens`, its model file, and the path of that file.

    The codec is recognised by its hash. Unless it is `given`, it is searched for at the path that the token file
    records and among the model files in the folder of the token file. Raises UsageError where `given` is another codec,
    BadFileError where none is found.
    """
    if given is not None:
        given = named(given)
        located = _first_with(header.codec_sha256, [given])
        if located is None:
            raise UsageError(
                f"{given} is not the codec that {tokens} was made with; give the one with hash "
                f"{header.codec_sha256[:12]}"
            )
    else:
        located = _search(header.codec_sha256, header.codec_path, tokens)
    if located is None:
        raise BadFileError(
            f"the codec of {tokens} (hash {header.codec_sha256[:12]}) is neither at {header.codec_path} nor in the "
            "folder of the token file; name it with --codec FILE"
        )
    return located


def stored_codes(file: TokenFile, codec: VQGAN, rows: Rows) -> Tensor:
    """The codes of samples of a token file that `codec` made, as of `VQGAN.encode`: (n, V, h, w) int64."""
    codes = torch.from_numpy(file.codes(rows))
    if codec.config.levels == 1:
        return codes
    return join_levels(CodeLevels(codes, torch.from_numpy(file.top(rows))), codec.config.codebook_size)


def condition_codecs(
    header: TokenHeader, tokens: Path, given: Sequence[Path], kinds: Sequence[str] = ()
) -> dict[str, ModelFile]:
    """The codecs that made the conditions of `tokens`, by kind, searched for as by `codec_for`. Conditions that a rule
    computes have no codec.

    `kinds` restricts the kinds; empty means all. UsageError where one of the `given` codecs made none of them,
    BadFileError where a codec is not found.
    """
    given = [named(path) for path in given]
    codecs: dict[str, ModelFile] = {}
    used: set[Path] = set()
    for kind, condition in header.conditions.items():
        if condition.codec_sha256.startswith(RULE) or (kinds and kind not in kinds):
            continue
        located = _first_with(condition.codec_sha256, given)
        if located is not None:
            used.add(located[2])
        else:
            located = _search(condition.codec_sha256, condition.codec_path, tokens)
        if located is None:
            raise BadFileError(
                f"the {kind} codec of {tokens} (hash {condition.codec_sha256[:12]}) is neither at "
                f"{condition.codec_path} nor in the folder of the token file; name it with --cond-ckpt FILE"
            )
        codecs[kind] = located[1]
        if kind == "image" or condition.factor:
            factor = {"factor": condition.factor} if condition.factor else {}
            codecs[kind] = replace(codecs[kind], about={**codecs[kind].about, "content": "image", **factor})
    for path in given:
        if path not in used:
            raise UsageError(f"{path} made no condition of {tokens}; leave it out")
    return codecs


def _search(sha256: str, recorded: str, tokens: Path) -> tuple[VQGAN, ModelFile, Path] | None:
    places = dict.fromkeys((Path(recorded), *sorted(tokens.absolute().parent.glob("*.safetensors"))))
    return _first_with(sha256, [path for path in places if _records(path, sha256)])


def _first_with(sha256: str, paths: Iterable[Path]) -> tuple[VQGAN, ModelFile, Path] | None:
    """The first codec in these model files that has that hash."""
    for path in paths:
        for model in codecs_in(load_model(path)):
            codec = codec_from(model, str(path))
            if codec.sha256() == sha256:
                return codec, model, path
    return None


def _records(path: Path, sha256: str) -> bool:
    """Whether the header of a model file records that hash."""
    try:
        about = read_header(path).about
        return any(each.get("codec_sha256") == sha256 for each in (about, *about.get("conditions", {}).values()))
    except BadFileError:
        return False
