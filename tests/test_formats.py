"""Files of the field's cameras: HEIF, JPEG 2000, suffixes that say nothing or something else; and large pictures."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, features
from PIL.Image import Transpose

from taming_cli.config.size import Size
from taming_cli.data import sources
from taming_cli.data.conditions.depth import read_depth
from taming_cli.data.conditions.labels import read_labels
from taming_cli.data.images import read_rgb, save_png
from taming_cli.data.sources import list_items
from taming_cli.errors import BadImageError, UsageError

pillow_heif = pytest.importorskip("pillow_heif")

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)


def encoded(picture: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def heic(picture: Image.Image, **options: object) -> bytes:
    """Without loss, but for the rounding of its colour space."""
    stream = io.BytesIO()
    pillow_heif.from_pillow(picture).save(stream, quality=-1, chroma=444, **options)
    return stream.getvalue()


def read(data: bytes, **options: object) -> np.ndarray:
    return np.asarray(read_rgb(data, "x", **options)).astype(int)


def apart(found: np.ndarray, wanted: np.ndarray) -> int:
    assert found.shape == wanted.shape
    return int(np.abs(found - wanted.astype(int)).max())


# --- HEIF --------------------------------------------------------------------------------------------------------


def test_heic_is_read_and_pillow_learns_nothing_of_it():
    script = (
        "import sys\nfrom PIL import Image\nfrom taming_cli.data.images import read_rgb\n"
        "print(read_rgb(sys.stdin.buffer.read(), 'x').size, 'HEIF' in Image.OPEN, '.heic' in Image.EXTENSION)\n"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, input=heic(PICTURE), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "(40, 24) False False"
    assert apart(read(heic(PICTURE)), PIXELS) <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_upright_once(orientation: int):
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF 2.32, tag 0x0112 -> Pillow's transpositions
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = turns[orientation]
    wanted = PICTURE if turn is None else PICTURE.transpose(Transpose(turn))
    assert apart(read(heic(PICTURE, exif=exif.tobytes())), np.asarray(wanted)) <= 2


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_heic_in_grey_and_with_alpha(mode: str):
    picture = PICTURE.convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(PIXELS[..., 0]))
    assert apart(read(heic(picture)), read(encoded(picture, "PNG"))) <= 2


def test_heic_of_more_bits_is_scaled():
    deep = pillow_heif.from_bytes(mode="RGB;16", size=PICTURE.size, data=(PIXELS.astype("<u2") * 257).tobytes())
    stream = io.BytesIO()
    deep.save(stream, quality=-1, chroma=444)
    assert apart(read(stream.getvalue()), PIXELS) <= 2


def test_the_profile_of_heic_is_converted():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB", -1)).tobytes()
    wide = bytearray(lab)
    at = wide.index(b"rXYZ", 128)
    offset = struct.unpack(">I", wide[at + 4 : at + 8])[0]
    red = np.array(struct.unpack(">3i", wide[offset + 8 : offset + 20])) * 1.2  # a stronger red than sRGB's
    wide[offset + 8 : offset + 20] = struct.pack(">3i", *map(int, red))
    plain = PICTURE.resize((8, 8))
    profiled = plain.copy()
    profiled.info["icc_profile"] = bytes(wide)
    wanted = read(encoded(plain, "PNG", icc_profile=bytes(wide)))
    assert apart(wanted, np.asarray(plain)) > 10
    assert apart(read(heic(profiled)), wanted) <= 4


def test_of_several_pictures_in_heic_the_primary_is_read_and_never_a_thumbnail():
    several = pillow_heif.from_pillow(Image.new("RGB", (40, 24), "red"))
    several.add_from_pillow(PICTURE)
    stream = io.BytesIO()
    several.save(stream, quality=-1, chroma=444, primary_index=1)
    assert apart(read(stream.getvalue()), PIXELS) <= 2
    large = PICTURE.resize((320, 192))
    small = heic(large, thumbnails=[64])
    assert read_rgb(small, "x", min_size=Size(16, 16)).size == (320, 192)


@pytest.mark.parametrize("encode", [heic, lambda picture: encoded(picture, "JPEG2000")])
def test_damaged_files_of_the_new_kinds_give_a_picture_or_one_line(encode):
    data = encode(PICTURE)
    for cut in (20, 60, len(data) // 2):
        with pytest.raises(BadImageError, match=r"^x: .*[^\n]$"):
            read_rgb(data[:cut], "x")
    rng = np.random.default_rng(1)
    for _ in range(40):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 4)] = rng.integers(0, 256, 4)
        try:
            read_rgb(damaged.tobytes(), "x")
        except BadImageError as error:
            assert "\n" not in str(error)  # noqa: PT017 - or there is no error


def test_where_a_decoder_is_missing_it_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    from taming_cli.doctor import installation

    data = {"a.heic": heic(PICTURE), "a.jp2": encoded(PICTURE, "JPEG2000")}
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(features, "check", lambda name: name != "jpg_2000")
    remedies = {"a.heic": r"HEIF, .*`pip install pillow-heif`", "a.jp2": r"JPEG2000, .*`pip install .* pillow`"}
    for name, remedy in remedies.items():
        with pytest.raises(BadImageError, match=rf"^{name}: {remedy}$"):
            read_rgb(data[name], name)
    ok, *notes = installation.pictures()
    assert "JPEG, PNG" in ok.message
    assert [note.mark for note in notes] == ["note", "note"]


def test_lossy_kinds_are_no_label_maps():
    for data in (heic(PICTURE.convert("L")), encoded(PICTURE.convert("L"), "JPEG2000", irreversible=True)):
        with pytest.raises(BadImageError, match="label maps are read from PNG, TIFF, BMP"):
            read_labels(data, "x")


# --- JPEG 2000 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "bare"), [("RGB", False), ("L", False), ("RGBA", False), ("LA", False), ("CMYK", False), ("RGB", True)]
)
def test_jpeg_2000_is_read_in_every_mode(mode: str, bare: bool):
    picture = PICTURE.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(PIXELS[..., 0]))
    wanted = read(encoded(picture, "TIFF" if mode == "CMYK" else "PNG"))
    assert apart(read(encoded(picture, "JPEG2000", no_jp2=bare)), wanted) == 0


def test_jpeg_2000_in_ycc_is_converted():
    assert apart(read(encoded(PICTURE.convert("YCbCr"), "JPEG2000")), PIXELS) <= 4


def test_16_bit_jpeg_2000_is_scaled_and_is_a_depth_map():
    grey = (np.arange(960).reshape(24, 40) * 68).astype(np.uint16)
    data = encoded(Image.fromarray(grey), "JPEG2000")
    assert apart(read(data)[..., 0], (grey / 257).round()) <= 1
    depth = np.asarray(read_depth(data, "x"))
    assert np.allclose(depth, grey / grey.max() * 2 - 1, atol=1e-4)
    large = np.broadcast_to(np.arange(160, dtype=np.uint8)[:, None] + np.array([0, 40, 90], np.uint8), (128, 160, 3))
    done, deep = cv2.imencode(".jp2", large[..., ::-1].astype(np.uint16) * 257)
    assert done
    assert apart(read(deep.tobytes()), large) <= 3


# --- what a folder holds -----------------------------------------------------------------------------------------


def fill(root: Path) -> dict[str, bytes]:
    """Pictures under right, wrong and no suffixes, and other files."""
    files = {
        "a.HEIC": heic(PICTURE),
        "b.heic": encoded(PICTURE, "JPEG"),
        "c.jp2": encoded(PICTURE, "JPEG2000"),
        "d": encoded(PICTURE, "PNG"),
        "e.dat": encoded(PICTURE, "WEBP"),
        "f.0001": heic(PICTURE),
        "g.jpg": heic(PICTURE),
        "h": b"\xff\x0a" + bytes(30),
        "i.mov": encoded(PICTURE, "PNG"),
        "j.psd": b"8BPS",
        "k": b"BM, we said, is no bitmap: prose",
        "l.NEF": encoded(PICTURE, "TIFF"),
        "m.json": b"{}",
    }
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return files


def test_pictures_are_found_by_their_bytes_where_the_suffix_does_not_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    files = fill(tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for place in ("x", "x.zip"):
        caplog.clear()
        listing = list_items([tmp_path / place])
        assert [item.name for item in listing.items] == [
            "a.HEIC",
            "b.heic",
            "c.jp2",
            "d",
            "e.dat",
            "f.0001",
            "g.jpg",
            "h",
        ]
        assert listing.ignored == 5
        (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert told.endswith("4 files ignored: 1 without a suffix, 1 .mov, 1 .nef, 1 .psd")
        for item in listing.items[:-1]:
            assert read_rgb(item.read(), item.name).size == (40, 24)
        with pytest.raises(BadImageError, match="h: JPEG XL, which cannot be read"):
            read_rgb(listing.items[-1].read(), "h")


def test_a_file_is_opened_only_where_its_suffix_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path / "x")
    opened = []
    monkeypatch.setattr(sources, "holds_picture", lambda path: opened.append(Path(path).name))
    list_items([tmp_path / "x"])
    assert opened == ["d", "e.dat", "f.0001", "h", "k"]


def test_a_raw_file_that_is_named_is_refused_by_name(tmp_path: Path):
    with pytest.raises(BadImageError, match=r"^l\.NEF: a camera raw file"):
        read_rgb(encoded(PICTURE, "TIFF"), "l.NEF")


# --- large pictures ----------------------------------------------------------------------------------------------

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF"]


def as_format(file_format: str) -> bytes:
    return heic(PICTURE) if file_format == "HEIF" else encoded(PICTURE, file_format)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_picture_of_too_many_pixels_is_refused_with_the_setting_its_value_and_the_size(
    file_format: str, monkeypatch: pytest.MonkeyPatch
):
    data = as_format(file_format)
    monkeypatch.setenv("TAMING_MAX_PIXELS", "959")
    with pytest.raises(BadImageError) as caught:
        read_rgb(data, "a.x")
    for word in ("a.x: ", "40 x 24", "960 pixels", "--max-pixels", "TAMING_MAX_PIXELS", "959"):
        assert word in str(caught.value)
    monkeypatch.setenv("TAMING_MAX_PIXELS", "960")
    assert read_rgb(data, "a.x").size == (40, 24)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_setting_allows_what_pillow_would_refuse(file_format: str, monkeypatch: pytest.MonkeyPatch):
    data = as_format(file_format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadImageError, match=r"--max-pixels .*200;"):
        read_rgb(data, "x")
    monkeypatch.setenv("TAMING_MAX_PIXELS", "1000")
    assert read_rgb(data, "x").size == (40, 24)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_maps_obey_the_same_setting(monkeypatch: pytest.MonkeyPatch):
    grey = encoded(PICTURE.convert("L"), "PNG")
    monkeypatch.setenv("TAMING_MAX_PIXELS", "959")
    for read_map in (read_labels, read_depth):
        with pytest.raises(BadImageError, match="--max-pixels"):
            read_map(grey, "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setenv("TAMING_MAX_PIXELS", "960")
    for read_map in (read_labels, read_depth):
        assert read_map(grey, "x").size == (40, 24)


def test_an_animation_larger_than_webp_allows_is_refused():
    stream = io.BytesIO()
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(stream.getvalue())
    data[29] |= 0x40  # 24 x 4,194,328 pixels, fewer than the limit
    with pytest.raises(BadImageError, match=r"x\.webp: damaged: it declares 24 x 4194328 pixels"):
        read_rgb(bytes(data), "x.webp")


@pytest.mark.parametrize("said", ["0", "-5", "many", "1e9"])
def test_a_faulty_limit_is_refused_by_its_name(said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAMING_MAX_PIXELS", said)
    with pytest.raises(UsageError, match=f"TAMING_MAX_PIXELS is '{said}'; give a whole number"):
        read_rgb(encoded(PICTURE, "PNG"), "x")


def test_text_that_unpacks_to_too_much_stays_refused(monkeypatch: pytest.MonkeyPatch):
    from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngInfo

    bomb = PngInfo()
    bomb.add_text("x", "0" * (MAX_TEXT_CHUNK + 1), zip=True)
    data = encoded(PICTURE, "PNG", pnginfo=bomb)
    monkeypatch.setenv("TAMING_MAX_PIXELS", str(10**12))
    with pytest.raises(BadImageError, match="Decompressed data too large"):
        read_rgb(data, "x")


def test_what_a_large_picture_of_ours_records_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from taming_cli.data.images import png_settings

    save_png(tmp_path / "a.png", PICTURE, {"taming": "{}"})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert png_settings(tmp_path / "a.png") == "{}"
    assert png_settings(tmp_path / "gone.png") is None
    (tmp_path / "b.png").write_bytes(os.urandom(64))
    assert png_settings(tmp_path / "b.png") is None


def test_one_member_of_a_zip_that_cannot_be_unpacked_leaves_the_others(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("notes", b"some text")
        archive.writestr("a.png", made(tmp_path))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 9  # the first member's method: deflate64, which Python lacks
    (tmp_path / "x.zip").write_bytes(data)
    assert [item.name for item in list_items([tmp_path / "x.zip"]).items] == ["a.png"]


def made(folder: Path) -> bytes:
    Image.new("RGB", (4, 4)).save(folder / "made.png")
    return (folder / "made.png").read_bytes()


def test_an_array_obeys_the_limit_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    np.save(stream, np.arange(2500, dtype=np.float32).reshape(1, 50, 50))
    assert read_depth(stream.getvalue(), "a.npy").size == (50, 50)
    monkeypatch.setenv("TAMING_MAX_PIXELS", "100")
    with pytest.raises(BadImageError, match="2500 pixels"):
        read_depth(stream.getvalue(), "a.npy")
