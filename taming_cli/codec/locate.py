"""Finding the codec that a token file was made with."""

import os
from pathlib import Path

from taming_cli.codec.vqgan import VQGAN, codec_from
from taming_cli.data.tokens import TokenHeader
from taming_cli.errors import BadFileError, UsageError
from taming_cli.runtime.checkpoint import ModelFile, load_model, read_header


def load_codec(path: Path) -> tuple[VQGAN, ModelFile]:
    """The codec in a codec's or a prior's model file, in eval mode on the CPU, and the file."""
    model = load_model(path)
    return codec_from(model, str(path)), model


def picture_codec(path: Path) -> tuple[VQGAN, ModelFile]:
    """The same, where it is one of pictures. UsageError where it is one of condition maps."""
    codec, model = load_codec(path)
    check_pictures(codec, str(path))
    return codec, model


def check_pictures(codec: VQGAN, where: str) -> None:
    """UsageError where a codec takes something else than pictures in three colours."""
    channels = codec.config.in_channels
    if channels != 3 or codec.config.out_ch != 3:
        raise UsageError(f"{where} is a codec of maps with {channels} channels; one of pictures is needed here")


def codec_for(header: TokenHeader, tokens: Path, given: Path | None) -> tuple[VQGAN, ModelFile, Path]:
    """The codec that made `tokens`, the file it is in, and that file's path.

    Looked for in `given`, the path that the token file records, and the model files in the token file's folder; the
    hash decides. Raises UsageError where `given` is another codec, BadFileError where none is found.
    """
    if given is not None:
        codec, model = load_codec(given)
        if codec.sha256() != header.codec_sha256:
            raise UsageError(
                f"{given} is not the codec that {tokens} was made with; give the one with hash "
                f"{header.codec_sha256[:12]}"
            )
        return codec, model, given
    recorded = Path(header.codec_path)
    for path in dict.fromkeys((recorded, *sorted(tokens.absolute().parent.glob("*.safetensors")))):
        if not _says(path, header.codec_sha256):
            continue
        codec, model = load_codec(path)
        if codec.sha256() == header.codec_sha256:
            return codec, model, path
    raise BadFileError(
        f"the codec of {tokens} (hash {header.codec_sha256[:12]}) is neither at {os.fspath(recorded)} nor beside the "
        "token file; name it with --codec FILE"
    )


def _says(path: Path, sha256: str) -> bool:
    """Whether a model file claims to hold that codec; reads its header only."""
    try:
        return bool(read_header(path).about.get("codec_sha256") == sha256)
    except BadFileError:
        return False
