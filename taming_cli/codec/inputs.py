"""What a codec's run records of the pictures that it is trained on."""

from collections.abc import Iterable, Mapping, Sequence

from taming_cli.config.codec import CodecTrainConfig
from taming_cli.config.fields import to_dict
from taming_cli.data.contents import Content
from taming_cli.data.sources import Item
from taming_cli.data.split import Split, digest
from taming_cli.errors import BadImageError
from taming_cli.runtime.run.data import Data, Listing, content_hashes, name_hashes

LISTED_BY = ("kind", "held", "val_images")
"""Settings that decide what is listed, and how it is counted in the model file."""


def data_of(
    pictures: Split,
    keys: Mapping[str, int | None],
    train: CodecTrainConfig,
    content: Content,
    inputs: Sequence[str],
) -> Data:
    """The record of a training's pictures; `keys` are their content keys by name, which `--val` leaves unknown.

    Where they are known, the same contents under other names are the same pictures. Where they are not, a picture is
    its name and its size: to read the start of each would be reading that nothing else needs.
    """
    if train.val is None:
        listings = {"inputs": _listing([*pictures.train, *pictures.held], keys)}
    else:
        listings = {"inputs": _listing(pictures.train, keys), "val": _listing(pictures.held, keys)}
    if train.pictures is not None:  # of which the maps' sizes are taken
        of_maps = [item.picture for item in (*pictures.train, *pictures.held) if item.picture is not None]
        listings["pictures"] = _listing(of_maps, {})
    said = to_dict(train)
    tables = {"colour table": repr(content.about()["colours"])} if train.colours else {}
    return Data(
        what="pictures",
        listings=listings,
        places={
            "inputs": " ".join(inputs),
            "val": f"--val {train.val}",
            "pictures": f"--pictures {train.pictures}",
            "colour table": f"--colours {train.colours}",
        },
        about={"data": counts(pictures, train), **content.about()},
        by={name: said[name] for name in LISTED_BY},
        named=not keys,
        hashes=tables,
        init=train.init,
    )


def counts(pictures: Split, train: CodecTrainConfig) -> dict[str, object]:
    """What the model file says of the pictures."""
    return {
        "train": len(pictures.train),
        "held": len(pictures.held),
        "sha256": digest(pictures.train),
        "held_sha256": digest(pictures.held[: train.val_images]),
    }


def _listing(items: Sequence[Item], keys: Mapping[str, int | None]) -> Listing:
    contents: Iterable[bytes] = (b"%d" % (keys[item.name] or 0) if keys else _size(item) for item in items)
    return Listing(name_hashes(item.name for item in items), content_hashes(contents))


def _size(item: Item) -> bytes:
    try:
        return b"%d" % item.size()
    except BadImageError:
        return b"-1"
