"""Keypoints as data sets and programs write them: each layout is the same skeleton, and finds its picture."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.codec.setup import set_up
from taming_cli.codec.vqgan import codec_file
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.size import Frame, Size
from taming_cli.data.conditions.keypoints import sheets
from taming_cli.data.conditions.pose import read_pose
from taming_cli.data.conditions.skeletons import paint_skeletons
from taming_cli.data.images import read_image
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import BadImageError, TamingError, UsageError
from taming_cli.runtime.checkpoint import save_model
from taming_cli.sampling.conditions import encode_maps, map_paths
from tests.toys import toy_codec

PLACES: dict[str, tuple[float, float]] = {
    "nose": (50, 20), "left_eye": (53, 17), "right_eye": (47, 17), "left_ear": (57, 19), "right_ear": (43, 19),
    "left_shoulder": (62, 35), "right_shoulder": (38, 35), "left_elbow": (68, 52), "right_elbow": (32, 52),
    "left_wrist": (70, 68), "right_wrist": (30, 68), "left_hip": (58, 70), "right_hip": (42, 70),
    "left_knee": (58, 92), "right_knee": (42, 92), "left_ankle": (58, 115), "right_ankle": (42, 115), "neck": (50, 35),
}  # fmt: skip
JOINTS = tuple(PLACES)[:17]
OPEN_POSE = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip
OCHUMAN = (
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist", "right_hip",
    "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "head", "neck", "right_ear", "left_ear", "nose",
    "right_eye", "left_eye",
)  # fmt: skip
TITLES = [name.replace("_", " ").title() for name in OCHUMAN]
SIZE = Size(100, 128)


def numbers(names: Sequence[str], seen: float = 2, dx: float = 0) -> list[float]:
    """x, y and visibility of each joint; 0 where there is none of that name."""
    return [
        number
        for name in names
        for number in ((PLACES[name][0] + dx, PLACES[name][1], seen) if name in PLACES else (0, 0, 0))
    ]


def drawn(dx: float = 0, size: Size = SIZE, names: Sequence[str] = JOINTS) -> np.ndarray:
    flat = numbers(JOINTS, dx=dx)
    figure = [(flat[3 * n], flat[3 * n + 1], 2.0 if joint in names else 0.0) for n, joint in enumerate(JOINTS)]
    return paint_skeletons([figure], size.width, size.height)


def read(content: Any, size: Size | None = SIZE) -> np.ndarray:
    return np.asarray(read_pose(json.dumps(content).encode(), "p.json", size=size))


COCO = numbers(JOINTS)
FEET_FACE_HANDS = [7.0, 7.0, 1.0] * 116
NESTED = [COCO[start : start + 3] for start in range(0, 51, 3)]


@pytest.mark.parametrize(
    "content",
    [
        [{"people": [{"pose_keypoints_2d": numbers(OPEN_POSE, 0.7)}]}],
        [{"people": [{"pose_keypoints_2d": numbers(OPEN_POSE)}], "canvas_width": 100, "canvas_height": 128}],
        {"people": [None, {"pose_keypoints_2d": None}, {"pose_keypoints_2d": COCO}]},
        {"people": [{"pose_keypoints_2d": COCO + FEET_FACE_HANDS}]},
        {"annotations": [{"keypoints": NESTED}]},
        {"annotations": [{"keypoints": [NESTED]}]},
        {"annotations": [{"keypoints": COCO + FEET_FACE_HANDS}]},
        {"annotations": [None, {"keypoints": None}, {"keypoints": []}, {"keypoints": COCO}]},
        [{"keypoints": [each[:2] for each in NESTED], "keypoint_scores": [0.5] * 17, "bbox": [[1, 2, 3, 4]]}],
        {"instance_info": [{"frame_id": 0, "instances": [{"keypoints": NESTED, "keypoint_scores": [0.5] * 17}]}]},
        {"annotations": [{"keypoints": [value for each in NESTED for value in each[:2]]}]},
        {
            "keypoint_names": list(OCHUMAN),
            "images": [
                {"image_id": "1", "file_name": "1.jpg", "width": 100, "height": 128, "annotations": [
                    {"keypoints": None, "bbox": [1, 2, 3, 4]}, {"keypoints": numbers(OCHUMAN, 3)},
                ]}
            ],
        },
        {
            "categories": [{"id": 4, "name": "person", "keypoints": TITLES}],
            "annotations": [{"category_id": 4, "keypoints": numbers(OCHUMAN)}],
        },
        {"bodies": [{"joints": numbers(OPEN_POSE)}]},
        {"width": 100.0, "height": 128.0, "keypoints": COCO},
    ],
)  # fmt: skip
def test_each_layout_is_the_same_skeleton(content: Any) -> None:
    assert np.array_equal(read(content), drawn())


def test_mpi_has_no_face_and_its_head_is_not_drawn() -> None:
    mpi = ("head", *OPEN_POSE[1:14], "chest")
    found = numbers(mpi)
    found[:3], found[-3:] = [50, 5, 0.9], [50, 55, 0.9]
    assert np.array_equal(read({"people": [{"pose_keypoints_2d": found}]}), drawn(names=mpi))


@pytest.mark.parametrize("scale", [(100, 128), (100.0 * 1.3, 128.0)])
def test_shares_of_the_picture_become_pixels(scale: tuple[float, float]) -> None:
    shares = [value / (*scale, 1)[place % 3] for place, value in enumerate(COCO)]
    for content in ([{"people": [{"pose_keypoints_2d": shares}]}], {"width": 200, "height": 256, "keypoints": shares}):
        size = Size(200, 256) if isinstance(content, Mapping) else SIZE
        wanted = [(x * size.width, y * size.height, 2.0) for x, y in zip(shares[::3], shares[1::3], strict=True)]
        assert np.array_equal(read(content), paint_skeletons([wanted], size.width, size.height))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"keypoints": numbers(JOINTS[:12])}, "36 numbers, which are neither COCO's 17 joints"),
        ({"keypoints": [{"x": 1, "y": 2}] * 17}, "17 objects as its keypoints instead of numbers"),
        ({"people": [{"pose_keypoints_2d": [1, 2, 1] * 21}]}, "63 numbers, which are neither OpenPose's 18 joints"),
        ([{"people": []}, {"people": []}], "keypoints of 2 pictures"),
        ({"people": [{"pose_keypoints_2d": [9 * value for value in COCO]}]}, "most joints lie outside of 100x128"),
        ({"instance_info": [3]}, "not a list of `instances`"),
    ],
)  # fmt: skip
def test_what_is_in_no_known_layout_reports_what_was_found(content: Any, words: str) -> None:
    with pytest.raises(BadImageError) as caught:
        read(content)
    assert str(caught.value).startswith("p.json: ")
    assert words in str(caught.value)


def test_the_error_about_a_size_that_keypoints_lack_names_the_flags() -> None:
    with pytest.raises(BadImageError, match=r"without the size of their picture; .*--pictures.*--size"):
        read({"people": [{"pose_keypoints_2d": COCO}]}, None)


# --- from files to pictures -------------------------------------------------------------------------------------------

ROTATED = 6  # EXIF: turned by 90 degrees


def picture(path: Path, width: int, height: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(width)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, **options)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    return exif


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def maps_of(inputs: Path, **settings: Any) -> dict[str, Any]:
    """What a training on keypoints is given: by name the drawing, or why there is none."""
    train = CodecTrainConfig(
        **{"kind": "pose", "perceptual": "none", "disc_weight": 0.0, "size": Size(32, 32), "held": 0.5} | settings
    )
    found = set_up([inputs], CodecConfig(), DiscriminatorConfig(), train)
    maps: dict[str, Any] = {}
    for item in pickle.loads(pickle.dumps((*found.pictures.train, *found.pictures.held))):  # as workers get them
        try:
            maps[item.name] = np.asarray(found.content.load(item))
        except BadImageError as error:
            maps[item.name] = str(error)
    return dict(sorted(maps.items()))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    picture(folder / "a.jpg", 100, 128)
    picture(folder / "b.jpg", 128, 110, exif=turned())  # upright 110 x 128
    picture(folder / "sub/c.png", 120, 128)
    picture(folder / "d.tif", 128, 130, exif=turned())
    picture(folder / "without.jpg", 100, 128)
    return folder


def test_open_pose_files_are_drawn_at_the_size_of_the_pictures_named_for_them(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "keypoints"
    for dx, name in enumerate(("a", "b", "sub/c", "d", "lost")):
        write(folder / f"{name}_keypoints.json", {"people": [{"pose_keypoints_2d": numbers(OPEN_POSE, dx=dx)}]})
    maps = maps_of(folder, pictures=str(photos))
    sizes = {"a": Size(100, 128), "b": Size(110, 128), "d": Size(130, 128), "sub/c": Size(120, 128)}
    shifts = {"a": 0, "b": 1, "sub/c": 2, "d": 3}
    for name, size in sizes.items():
        assert np.array_equal(maps[f"{name}_keypoints.json"], drawn(shifts[name], size)), name
    assert "without the size of their picture" in maps["lost_keypoints.json"]
    with pytest.raises(UsageError, match="give maps the relative paths of their pictures"):
        maps_of(folder, pictures=str(photos / "sub"))
    with pytest.raises(UsageError, match="pictures is for keypoints"):
        CodecTrainConfig(kind="depth", perceptual="none", disc_weight=0.0, pictures=str(photos))


def annotations(**more: Any) -> dict[str, Any]:
    images = [
        {"id": 397133, "file_name": "a.jpg", "width": 100, "height": 128},
        {"id": 2, "file_name": "c.png", "width": 120, "height": 128},
        {"id": 3, "file_name": "nobody.jpg", "width": 100, "height": 128},
        {"id": 4, "file_name": "./b.jpg", "width": 110, "height": 128},
    ]
    people = [
        {"image_id": 2, "keypoints": numbers(JOINTS, dx=2), "segmentation": [[1.0] * 99]},
        {"image_id": 397133, "category_id": 1, "keypoints": COCO},
        {"image_id": 4, "keypoints": numbers(JOINTS, dx=1), "num_keypoints": 17},
        {"image_id": 2, "bbox": [1, 2, 3, 4]},
    ]
    return {"info": {"year": 2017}, "images": images, "annotations": people} | more


def test_one_file_of_many_pictures_is_a_map_for_each(tmp_path: Path, photos: Path) -> None:
    file = write(tmp_path / "person_keypoints.json", annotations())
    maps = maps_of(file)
    assert list(maps) == ["a.jpg", "b.jpg", "c.png", "nobody.jpg"]
    assert np.array_equal(maps["a.jpg"], drawn())
    assert np.array_equal(maps["b.jpg"], drawn(1, Size(110, 128)))
    assert np.array_equal(maps["c.png"], drawn(2, Size(120, 128)))
    assert not maps["nobody.jpg"].any()
    assert list(maps_of(file, pictures=str(photos))) == ["a.jpg", "b.jpg", "c.png"]  # c.png is in a folder below
    # Results have neither sizes nor a list of pictures; COCO's numbers are its pictures' names.
    people = [{"image_id": 397133, "keypoints": COCO}, {"image_id": 2, "keypoints": numbers(JOINTS, dx=2)}]
    results = write(tmp_path / "results/results.json", people)
    picture(photos / "000000397133.jpg", 100, 128)
    picture(photos / "2.png", 104, 128)
    maps = maps_of(results.parent, pictures=str(photos))
    assert np.array_equal(maps["000000397133"], drawn())
    assert np.array_equal(maps["000000000002"], drawn(2, Size(104, 128)))


def test_two_files_that_tell_of_one_picture_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "k" / f"{name}.json", annotations())
    with pytest.raises(UsageError, match=r"keypoints of a\.jpg are in .*one\.json and .*two\.json"):
        maps_of(tmp_path / "k")


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codecs")
    save_model(folder / "image.safetensors", codec_file(toy_codec(), {"content": "image"}))
    save_model(folder / "pose.safetensors", codec_file(toy_codec(), {"content": "pose"}))
    return folder


def test_tokens_get_the_keypoints_of_one_file_by_their_pictures_names(
    tmp_path: Path, photos: Path, codecs: Path
) -> None:
    file = write(tmp_path / "all.json", annotations())
    apart = tmp_path / "apart"
    for name, dx in (("a", 0), ("b", 1), ("sub/c", 2)):
        write(apart / f"{name}_keypoints.json", {"people": [{"pose_keypoints_2d": numbers(OPEN_POSE, dx=dx)}]})
    codes = {}
    for maps in (file, apart):
        out = tmp_path / f"{maps.name}.h5"
        line = [
            *("tokenize", str(photos), "--ckpt", str(codecs / "image.safetensors"), "--size", "64x64", "-q"),
            *("--cond", f"pose={maps}", "--cond-ckpt", str(codecs / "pose.safetensors"), "-o", str(out)),
        ]
        assert main(line) == 3  # two pictures have no map
        with TokenFile(out) as tokens:
            assert list(tokens.names()) == ["a.jpg", "b.jpg", "sub/c.png"]
            codes[maps] = tokens.condition("pose", slice(0, 3))
    assert np.array_equal(codes[file], codes[apart])
    assert len(np.unique(codes[file])) > 3


def test_one_of_many_keypoint_pictures_is_selected_by_name(tmp_path: Path, codecs: Path) -> None:
    from taming_cli.codec.condition import MapCodec
    from taming_cli.data.contents import Poses

    encoders = {"pose": MapCodec("pose", Poses(), toy_codec())}
    file = write(tmp_path / "all.json", annotations())

    def asked(path: str, size: Size | None = None) -> torch.Tensor:
        frame = None if size is None else Frame(size, 2)
        return encode_maps(encoders, {"pose": Path(path)}, 2, frame, Size(8, 8)).codes["pose"]

    image = tmp_path / "c.png"
    Image.fromarray(drawn(2, Size(120, 128))).save(image)
    for path in (f"{file}:c.png", f"{file}:c"):
        assert torch.equal(asked(path), asked(str(image)))
        assert map_paths(["pose"], [path]) == map_paths(["pose", "depth"], [f"pose={path}"]) == {"pose": Path(path)}
    with pytest.raises(UsageError, match=r"holds keypoints of 4 pictures; name one: .*all\.json:a\.jpg"):
        asked(str(file))
    with pytest.raises(UsageError, match=r"no keypoints of a picture 'd\.png'; did you mean 'c\.png'"):
        asked(f"{file}:d.png")
    with pytest.raises(TamingError, match=r"missing\.json: No such file"):
        asked(str(tmp_path / "missing.json"))
    # Without a size of its own a map has that of the picture to be drawn.
    plain = write(tmp_path / "plain.json", {"people": [{"pose_keypoints_2d": numbers(OPEN_POSE, dx=2)}]})
    assert torch.equal(asked(str(plain), Size(120, 128)), asked(str(image)))
    with pytest.raises(BadImageError, match="give the size"):
        asked(str(plain))


def test_the_shared_keypoints_train_a_codec(shared: Path, tmp_path: Path) -> None:
    cases = shared / "cases"
    tiny = (
        "--kind pose --ch 8 --ch-mult 1 --num-res-blocks 1 --norm-groups 2 --z-channels 4 --codebook-size 16 "
        "--size 32x32 --batch-size 2 --steps 1 --minutes 0 --device cpu --precision fp32"
    )
    for name in ("openpose-keypoints", "coco-one-file/person_keypoints_val.json"):
        run = tmp_path / Path(name).name
        line = ["train-vqgan", str(cases / name), *tiny.split(), "--out", str(run)]
        assert main([*line, "--pictures", str(cases / "pose-pictures")]) == 0
        line = ["reconstruct", str(cases / name), str(run / "out"), "--ckpt", str(run / "checkpoints/last.safetensors")]
        assert main([*line, "--pictures", str(cases / "pose-pictures")]) == 0
        made = [read_image(path.read_bytes(), path.name) for path in (run / "out").glob("*.png")]
        assert [tuple(each.shape) for each in made] == [(3, 128, 100)] * 4
    whole = maps_of(cases / "coco-one-file/person_keypoints_val.json", pictures=str(cases / "pose-pictures"))
    maps = maps_of(cases / "openpose-keypoints", pictures=str(cases / "pose-pictures"))
    assert len(whole) == 4
    for one, other in zip(whole.values(), maps.values(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "content",
    [
        '{"people": [], "width": NaN, "height": 3}',
        '{"people": [], "width": Infinity, "height": 3}',
        '{"images": [{"id": 1, "annotations": 5}]}',
        '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": [1]}], "categories": [{"id": [1]}]}',
        '{"images": [{"id": 1, "file_name": "\\ud800.jpg"}], "annotations": [{"image_id": 1, "keypoints": [1, 2, 2]}]}',
        '{"images": [{"id": 1, "file_name": "a\\u0000.jpg"}], "annotations": [{"image_id": 1, "keypoints": [1, 2]}]}',
    ],
)
def test_json_that_is_odd_inside_is_one_line_and_no_traceback(content: str) -> None:
    with pytest.raises(BadImageError):
        sheets(content.encode())


def test_a_file_without_frames_holds_nobody() -> None:
    (sheet,) = sheets(b'{"instance_info": [], "width": 8, "height": 8}')
    assert (sheet.people, sheet.size) == ((), Size(8, 8))


def test_maps_beside_their_pictures_are_no_folder_of_maps(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.pose.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    train = CodecTrainConfig(kind="pose", perceptual="none", disc_weight=0.0, size=Size(32, 32))
    with pytest.raises(UsageError, match=r"\.pose\.png\) lie beside their pictures.*a folder of their own"):
        set_up([tmp_path], CodecConfig(), DiscriminatorConfig(), train)
