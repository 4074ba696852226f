"""Labels are counted before a codec is made for them, and what is stored otherwise than it seems is said first."""

import json
import logging
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.codec.setup import set_up
from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.size import Size
from taming_cli.errors import UsageError
from taming_cli.runtime.checkpoint import read_header

TINY = shlex.split(
    "--kind segmentation --ch 8 --ch-mult 1 --num-res-blocks 1 --norm-groups 2 --z-channels 4 --codebook-size 16 "
    "--size 16x16 --batch-size 2 --steps 1 --minutes 0 --device cpu --precision fp32"
)


def maps(folder: Path, *values: Any, name: str = "{}.png") -> Path:
    """A map of 24 x 16 pixels for each list of values, in which each of these occurs."""
    for number, each in enumerate(values):
        path = folder / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.resize(np.array(each), (16, 24)).astype(np.uint16 if np.max(each) > 255 else np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def settle(folder: Path, **settings: Any) -> Any:
    train = CodecTrainConfig(
        **{"kind": "segmentation", "perceptual": "none", "disc_weight": 0.0, "size": Size(16, 16)} | settings
    )
    return set_up([folder], CodecConfig(), DiscriminatorConfig(), train)


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, "taming_cli"):
        yield lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 255], ("256 labels, of which 2 occur: 0, 255.", "--label-values 0,255 ", "--labels 256 ")),
        ([255, 255], ("256 labels, of which 1 occurs: 255.", "--label-values 0,255 ")),
        ([0, 1, 2, 3, 4, 255], ("256 labels, of which 6 occur: 0 to 4, 255.", "255 marks unlabelled pixels: --unl")),
        ([1, 2, 255], ("256 labels, of which 3 occur: 1, 2, 255.", "255 marks unlabelled pixels: --unlabelled ")),
        ([0, 128, 255], ("256 labels, of which 3 occur: 0, 128, 255.", "--label-values 0,128,255 makes 3 labels")),
        ([0] * 600 + [255] * 600 + list(range(256)), ("256 labels, of which 256 occur: 0 to 255.", "smoothed")),
    ],
)
def test_maps_whose_255_is_no_label_are_refused_with_what_to_give(tmp_path: Path, values: Any, words: Any) -> None:
    pixels = np.resize(np.array(values), (40, 40)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    with pytest.raises(UsageError) as caught:
        settle(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert settle(tmp_path, labels=256).codec.in_channels == 256


def test_masks_are_trained_as_two_labels_once_their_values_are_listed(tmp_path: Path, capsys: Any) -> None:
    folder = maps(tmp_path / "masks", *[[0, 255, 0, 0]] * 4)
    assert main(["train-vqgan", str(folder), *TINY, "--out", str(tmp_path / "no")]) == 2
    refused = capsys.readouterr()
    assert refused.err.startswith("taming: 256 labels, of which 2 occur: 0, 255.")
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "no").exists()
    run = tmp_path / "run"
    assert main(["train-vqgan", str(folder), *TINY, "--label-values", "0,255", "--out", str(run), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "2 labels, of which 2 occur: 0, 1"
    header = read_header(run / "checkpoints/last.safetensors")
    assert header.config["codec"]["in_channels"] == 2
    assert header.about["labels"] == "2 labels, of which 2 occur: 0, 1"
    assert "2 labels, of which 2 occur: 0, 1" in (run / "report.html").read_text()
    assert main(["info", str(run / "checkpoints/last.safetensors")]) == 0
    assert "2 labels, of which 2 occur: 0, 1" in capsys.readouterr().out
    # The codec's file says how maps are read, so that nothing is asked for again.
    assert settle(folder, init=str(run / "checkpoints/last.safetensors")).content.about()["label_values"] == [0, 255]
    out = tmp_path / "out"
    ckpt = str(run / "checkpoints/last.safetensors")
    assert main(["reconstruct", str(folder), str(out), "--ckpt", ckpt, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 4


@pytest.mark.parametrize(
    ("values", "settings", "line"),
    [
        ([0, 1, 2, 255], {"unlabelled": True}, "4 labels, of which 4 occur: 0 to 3"),
        ([0, 1, 2, 255], {"label_values": (255, 0, 1, 2)}, "4 labels, of which 4 occur: 0 to 3"),
        ([0, 2, 3], {}, "4 labels, of which 3 occur: 0, 2, 3"),
        ([0, 1, 3, 4, 5, 9], {"labels": 151}, "151 labels, of which 6 occur: 0, 1, 3 to 5, 9"),
        ([0, 1000, 2000], {}, "2,001 labels, of which 3 occur: 0, 1000, 2000"),
    ],
)
def test_labels_and_those_that_occur_are_always_reported(
    tmp_path: Path, heard: Any, values: Any, settings: Any, line: str
):
    settle(maps(tmp_path, values), **settings)
    assert heard()[0] == line


def test_few_of_many_labels_are_a_warning_that_lists_them(tmp_path: Path, heard: Any) -> None:
    settle(maps(tmp_path, [0, 1000, 4000]), batch_size=1)
    assert heard()[1:] == [
        "warning: few of the 4,001 labels occur, and a codec has a channel for each: --label-values 0,1000,4000 makes "
        "3 labels of them"
    ]


@pytest.mark.parametrize(("value", "settings"), [(3, {}), (255, {"unlabelled": True}), (0, {})])
def test_one_label_alone_is_reported_to_teach_nothing(tmp_path: Path, heard: Any, value: int, settings: Any) -> None:
    settle(maps(tmp_path, [value]), **settings)
    assert ", of which 1 occurs: " in heard()[0]
    assert "nothing to learn" in heard()[1]


def test_where_no_map_can_be_read_the_first_reason_is_reported(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.random.default_rng(0).integers(0, 9, (8, 8, 3), np.uint8)).save(tmp_path / f"{number}.png")
    with pytest.raises(UsageError, match=r"none of the 3 .*: 0\.png: a picture in colour; .*--colours FILE"):
        settle(tmp_path)


def test_maps_that_cannot_be_used_are_reported_before_the_training(tmp_path: Path, heard: Any) -> None:
    maps(tmp_path, [0, 1], [0, 7], [1, 1])
    (tmp_path / "x.png").write_bytes(b"no picture")
    settle(tmp_path, labels=2)
    unread, beyond = heard()[1:]
    assert unread.startswith("warning: 1 of 4 maps cannot be read; the first: x.png: ")
    assert beyond == "warning: 1 of 3 maps will be skipped: 1.png holds label 7, but the labels are 0 to 1"
    with pytest.raises(UsageError, match=r"no map can be used: .* holds label 255, .* give --unlabelled"):
        settle(maps(tmp_path / "void", [0, 255], [1, 255]), labels=2)


def test_more_labels_than_memory_holds_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = maps(tmp_path, [0, 7, 33_000])
    with pytest.raises(UsageError) as caught:
        settle(folder, size=Size(1024, 1024))
    assert str(caught.value).startswith("33,001 labels, of which 3 occur: 0, 7, 33000.")
    assert all(word in str(caught.value) for word in ("GiB of memory", "instances", "--label-values", "--batch-size"))
    with pytest.raises(UsageError, match="GiB of memory"):
        settle(folder, size=Size(1024, 1024), labels=40_000)
    assert settle(folder, size=Size(1024, 1024), label_values=(0, 7, 33_000)).codec.in_channels == 3


@pytest.mark.parametrize(
    ("labels", "instances"), [("a_{}_labelIds.png", "a_{}_instanceIds.png"), ("labels/{}.png", "instances/{}.png")]
)
def test_instance_maps_among_label_maps_are_explained(tmp_path: Path, labels: str, instances: str) -> None:
    maps(tmp_path, [0, 7, 33], [0, 7, 21], name=labels)
    maps(tmp_path, [0, 7, 24_001], [0, 26_002], name=instances)
    with pytest.raises(UsageError) as caught:
        settle(tmp_path)
    assert instances.format(0) + " holds numbers up to 24001" in str(caught.value)
    assert labels.format(0) + " none above 33" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"label_values": (0, 0)}, "two or more different"),
        ({"label_values": (5,)}, "two or more different"),
        ({"label_values": (0, 5), "unlabelled": True}, "unlabelled"),
        ({"label_values": (0, 5), "labels": 3}, "labels is 3"),
        ({"label_values": (0, 5), "kind": "depth"}, "segmentation"),
    ],
)
def test_values_that_do_not_fit_the_other_settings_are_refused(settings: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        CodecTrainConfig(**{"kind": "segmentation", "perceptual": "none", "disc_weight": 0.0} | settings)


def test_the_shared_masks_are_named_for_what_they_are(shared: Path, heard: Any) -> None:
    cases = shared / "cases"
    for name, words in (
        ("masks-0-and-255", "256 labels, of which 2 occur: 0, 255. .*--label-values 0,255"),
        ("masks-void-255", "256 labels, of which 6 occur: 0 to 4, 255. .*--unlabelled"),
        ("masks-true-colour", "0.png: a picture in colour; give a table of the labels' colours"),
    ):
        with pytest.raises(UsageError, match=words):
            settle(cases / name)
    assert settle(cases / "masks-16-bit").train.labels == 4001
    assert heard()[0] == "4,001 labels, of which 5 occur: 0, 1000, 2000, 3000, 4000"
    assert settle(shared / "data/landscapes/segmentation", unlabelled=True).train.labels > 150
    assert settle(shared / "data/ade20k/segmentation").train.labels > 100
