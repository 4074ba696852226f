"""Examples of pictures, arrays, archives and keypoints."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from material import Material
from PIL import Image, ImageCms

from examples import Example, example
from taming_cli.data.conditions.depth import read_depth
from taming_cli.data.conditions.labels import read_labels
from taming_cli.data.conditions.pairs import each_picture
from taming_cli.data.conditions.pose import read_pose
from taming_cli.data.formats import declared_size
from taming_cli.data.images import png_text, read_image, upright_size
from taming_cli.data.sources import Item, list_items
from taming_cli.errors import BadImageError
from taming_cli.evaluate.image_sets import FeatureStatistics, open_image_set

SIDE = 24


def _pixels(*shape: int) -> npt.NDArray[np.uint8]:
    """Smooth colours with some grain, (*shape)."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 200, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    return np.asarray(slope + rng.integers(0, 50, shape), np.uint8)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures(material: Material, kind: str) -> list[Example]:
    """Pictures of one format, each stored in several ways."""
    folder = material.pictures.with_name(f"damaged-{kind}")
    folder.mkdir()
    suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
    return [Example(folder / f"{number}-N.{suffix}", data, _read) for number, data in enumerate(_stored(kind))]


def _stored(kind: str) -> Iterator[bytes]:
    colour = Image.fromarray(_pixels(SIDE, SIDE, 3))
    grey, clear = colour.convert("L"), Image.fromarray(_pixels(SIDE, SIDE, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(_pixels(SIDE, SIDE).astype(np.uint16) * 257)
    if kind == "PNG":
        yield _encoded(colour, kind, exif=exif, icc_profile=profile)
        yield _encoded(colour.quantize(16), kind, transparency=3)
        yield _encoded(clear, kind)
        yield _encoded(deep, kind)
    elif kind == "JPEG":
        yield _encoded(colour, kind, exif=exif, icc_profile=profile)
        yield _encoded(colour, kind, progressive=True, subsampling=0)
        yield _encoded(grey, kind)
        yield _encoded(colour.convert("CMYK"), kind)
    elif kind == "WEBP":
        yield _encoded(colour, kind, exif=exif, icc_profile=profile)
        yield _encoded(clear, kind, lossless=True)
        yield _encoded(colour, kind, save_all=True, append_images=[colour.rotate(90)])
    else:
        assert kind == "TIFF", kind
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
            yield _encoded(colour, kind, compression=compression)
        yield _encoded(grey.convert("1"), kind, compression="group4")
        yield _encoded(deep, kind, compression="tiff_lzw")
        yield _encoded(grey.convert("F"), kind)


def _read(path: Path) -> Any:
    """Read a picture as a training does, and as a map of labels or of depth where it is one of these."""
    item = Item(path.name, path)
    data = item.read()
    with path.open("rb") as stream:
        declared = declared_size(stream)
    png_text(path, "taming")
    picture, size = read_image(data, item.name), upright_size(data, item.name)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, size.height, size.width)
    maps = []
    for read in (read_labels, read_depth):
        try:
            maps.append(np.asarray(read(data, item.name)))
        except BadImageError as error:
            if not str(error).startswith(item.name):
                raise ValueError(f"the error does not name the map: {error}") from error
    return picture, declared, maps


def arrays(material: Material) -> list[Example]:
    """Pictures and statistics in .npz files."""
    folder = material.pictures.with_name("damaged-npz")
    folder.mkdir()
    values, rng = _pixels(5, 8, 8, 3), np.random.default_rng(0)
    files = {"stored-N.npz": np.savez, "deflated-N.npz": np.savez_compressed}
    for name, save in files.items():
        save(folder / name, values, np.arange(5))
    np.savez(folder / "statistics-N.npz", mu=rng.normal(size=8), sigma=rng.normal(size=(8, 8)))

    def read(path: Path) -> Any:
        opened = open_image_set(path, device=torch.device("cpu"))
        if isinstance(opened, FeatureStatistics):
            return opened.mu, opened.sigma
        form, digest = opened.form, opened.content_sha256()
        batches = opened.batches(lambda image: image, size=None, every=slice(None), batch_size=2, workers=1)
        return form, len(digest), [(batch.prepared, batch.numbers) for batch in batches]

    return [example(path, read, exact=True) for path in sorted(folder.iterdir())]


def archives(material: Material, suffix: str) -> list[Example]:
    """Archives of pictures and labels: in folders that are classes, and in WebDataset's layout."""
    folder = material.pictures.with_name(f"damaged{suffix}")
    folder.mkdir()
    png, jpg = _encoded(Image.fromarray(_pixels(8, 8, 3)), "PNG"), _encoded(Image.fromarray(_pixels(8, 8)), "JPEG")
    by_folder = {"set/cat/a.png": png, "set/dog/b.jpg": jpg, "set/dog/notes.txt": b"text", "set/c.picture": png}
    dataset = {"0001.png": png, "0001.cls": b"cat", "0002.jpg": jpg, "0002.cls": b"dog", "0002.json": b"{}"}
    for name, members in (("folders", by_folder), ("dataset", dataset)):
        path = folder / f"{name}-N{suffix}"
        if suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for member, data in members.items():
                    stored = zipfile.ZIP_STORED if member.endswith("g") else zipfile.ZIP_DEFLATED
                    archive.writestr(member, data, stored)
        else:
            with tarfile.open(path, "w:gz" if suffix == ".tar.gz" else "w") as tar:
                for member, data in members.items():
                    about = tarfile.TarInfo(member)
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))

    contents = {png, jpg}

    def read(path: Path) -> Any:
        """Every picture; with checksums, each has to be one of those that were stored."""
        found = []
        for item in list_items([path]).items:
            try:
                data = item.read()
                assert suffix == ".tar" or not data or data in contents, f"{item.name} is read as another picture"
                found.append((item.name, item.label, read_image(data, item.name)))
            except BadImageError as error:
                if item.name not in str(error):
                    raise ValueError(f"the error does not name the picture: {error}") from error
        return found

    return [example(path, read) for path in sorted(folder.iterdir())]


def keypoints(material: Material) -> list[Example]:
    """Keypoints of one picture and of several, drawn."""
    folder = material.pictures.with_name("damaged-keypoints")
    folder.mkdir()
    joints = [value for n in range(17) for value in (4.0 + n, 30.0 - n, 2.0)]
    person = {"keypoints": joints, "num_keypoints": 17, "category_id": 1, "image_id": 1}
    images = [{"id": n, "file_name": f"a/{n}.jpg", "width": 48, "height": 40} for n in (1, 2)]
    body = {
        "people": [{"pose_keypoints_2d": [*joints, 3.0, 4.0, 0.5]}],
        "canvas_width": 48,
        "canvas_height": 40,
    }
    coco = {"images": images, "annotations": [person, {**person, "image_id": 2}], "categories": []}

    def read(path: Path) -> Any:
        return [(item.name, read_pose(item.read(), item.name)) for item in each_picture([Item(path.name, path)])]

    files = {"coco-N.json": coco, "openpose-N.json": body}
    return [Example(folder / name, json.dumps(value).encode(), read, named=" ") for name, value in files.items()]
