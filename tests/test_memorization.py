"""`taming eval memorization`: finds copies of training pictures, by features and by codes, and no other pictures."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.config.size import Frame, Size
from taming_cli.data.images import write_png
from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.header import TokenHeader
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.metrics import nearest, nearness
from taming_cli.prior.memorization import expected, found
from taming_cli.runtime.run.metrics import read_metrics
from taming_cli.sampling.own_codes import CHUNK, OwnCodes, codes_text
from tests.pretrained_files import folder_of_pictures
from tests.test_cli import CODEC, PRIOR

pytestmark = pytest.mark.usefixtures("each_distance_once")

LITE = ["--features", "efficientnet-lite0", "--device", "cpu"]
Capture = pytest.CaptureFixture[str]


def measured(capsys: Capture, *line: object, code: int = 0) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["eval", "memorization", *map(str, line), *LITE, "--json"]) == code
    output = capsys.readouterr()
    return json.loads(output.out or "{}"), output.err


def test_the_nearest_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator), torch.randn(5, 3, generator=generator)
    found = nearest(x, y)
    for row, distance, number in zip(x.double(), *found, strict=True):
        every = [float((row - other).norm()) for other in y.double()]
        assert int(number) == int(np.argmin(every))
        assert float(distance) == pytest.approx(min(every))


def test_nearness_counts_pairs() -> None:
    near, far = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 3.0, 4.0, 6.0])
    pairs = [(a < b) + 0.5 * (a == b) for a in near.tolist() for b in far.tolist()]
    found = nearness(near, far)
    assert found.nearer == pytest.approx(sum(pairs) / len(pairs))
    assert found.copied == pytest.approx(1 / 3)  # nearer than 2
    assert 0.05 < found.p_value < 0.95


def test_nearness_of_copies_and_of_equals() -> None:
    generator = torch.Generator().manual_seed(1)
    held, same = torch.rand(200, generator=generator) + 1, torch.rand(200, generator=generator) + 1
    copies = nearness(same - 1, held)
    assert (copies.nearer, copies.copied) == (1, 1)
    assert copies.p_value < 1e-9
    equals = nearness(same, held)
    assert equals.nearer == pytest.approx(0.5, abs=0.1)
    assert equals.copied == pytest.approx(0.05, abs=0.05)
    assert equals.p_value > 0.01


def test_a_network_that_can_store_its_pictures_many_times_is_warned_of() -> None:
    bits = 100 * 256 * 10  # of 100 pictures of 256 codes of 1,024
    enough = math.ceil(10 * bits / 3.6)
    assert "the codes of 100 training pictures 10 times" in expected(enough, 100, 256, 1024)
    assert expected(enough - 1, 100, 256, 1024) == ""
    assert expected(enough, 101, 256, 1024) == ""
    assert expected(100, 1, 1, 1)  # a codebook of one code holds nothing, and is no error


def test_a_gap_to_held_out_pictures_is_noted() -> None:
    assert "memorized training pictures (3.10 nats/token, 4.00 for" in found(
        {"val_nats_per_token": 4.0, "train_nats_per_token": 3.1}
    )
    assert found({"val_nats_per_token": 4.0, "train_nats_per_token": 3.3}) == ""
    assert found({"val_nats_per_token": 4.0}) == found({}) == ""


def test_a_training_warns_and_logs_the_likelihood_of_training_pictures(
    house: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(house)
    capsys.readouterr()
    random = tokens(tmp_path / "random.h5", TokenFile("t.h5").header, seed=0)  # of others, nothing can be learned
    line = ["train-prior", random, *PRIOR, "--steps", 40, "--n-embd", 128, "--learning-rate", 0.01]
    line += ["--out", tmp_path / "run"]
    assert main(list(map(str, line))) == 0
    output = capsys.readouterr()
    assert re.search(r"can store the codes of \d+ training pictures \d+ times", output.err)
    assert re.search(r"last, step 40: .* nats/token  .* on training pictures", output.out)
    last = read_metrics(tmp_path / "run" / "metrics.jsonl").lines[-1]
    assert 0 < last["train_nats_per_token"] < last["val_nats_per_token"] - 0.01, last


def test_copies_are_found_and_other_pictures_are_not(capsys: Capture, tmp_path: Path) -> None:
    training = folder_of_pictures(tmp_path / "training", 24, seed=1)
    held = folder_of_pictures(tmp_path / "held", 24, seed=2)
    others = folder_of_pictures(tmp_path / "others", 10, seed=3)
    copies = tmp_path / "copies"
    copies.mkdir()
    taken = sorted(training.iterdir())[5:15]
    for number, path in enumerate(taken):
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image) // 2 * 2).save(copies / f"{number}.png")
    found, error = measured(capsys, copies, training, "--held-out", held, "-o", tmp_path / "out")
    assert found["metric"] == "memorization-efficientnet-lite0"
    assert (found["nearer"], found["copied"]) == (1, 1)
    assert "repeat training pictures: by features, 100% of them" in error
    assert "few" not in error
    nearest_by_name = {row["name"]: row["nearest"] for row in found["details"]["by_sample"]}
    assert nearest_by_name == {f"{number}.png": path.name for number, path in enumerate(taken)}
    assert {role: found["protocol"][role]["count"] for role in ("generated", "training", "held_out")} == {
        "generated": 10,
        "training": 24,
        "held_out": 24,
    }
    assert "code_nearer" not in found
    with Image.open(tmp_path / "out" / "memorization.png") as sheet:
        assert sheet.width > 2 * sheet.height
    found, error = measured(capsys, others, training, "--held-out", held)
    assert "repeat" not in error
    assert found["p_value"] > 0.01


def test_pictures_that_cannot_be_read_are_skipped(capsys: Capture, tmp_path: Path) -> None:
    training = folder_of_pictures(tmp_path / "training", 4, seed=1)
    held = folder_of_pictures(tmp_path / "held", 3, seed=2)
    shutil.copytree(training, tmp_path / "copies")
    sorted((tmp_path / "copies").iterdir())[1].write_bytes(b"no picture")
    found, error = measured(capsys, tmp_path / "copies", training, "--held-out", held, code=3)
    assert "3 held-out pictures are few" in error
    assert all(row["name"] == row["nearest"] for row in found["details"]["by_sample"])
    assert len(found["details"]["by_sample"]) == 3


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memorized")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(root)
        for line in (
            ["demo-data", "scenes", "-n", 24, "--size", "32x32", "-q"],
            ["train-vqgan", "scenes/images", *CODEC, "--steps", 2, "-q"],
            ["tokenize", "scenes/images", "-o", "t.h5", "--views", 2, "--device", "cpu", "-q"],
            ["train-prior", "t.h5", *PRIOR, "--steps", 2, "--held", 0.4, "-q"],
            ["sample", "-n", 4, "--device", "cpu", "-q"],
        ):
            assert main([str(word) for word in line]) == 0
    return root


def tokens(path: Path, header: TokenHeader, seed: int) -> Path:
    """A token file of the same codec with two views of 24 pictures, whose codes are random."""
    codes = np.random.default_rng(seed).integers(header.codebook_size, size=(24, 2, header.height, header.width))
    with TokenJob(path, header=replace(header, views=2), plan={}, total=24, shard_size=99) as job:
        (shard,) = job.pending()
        names = [f"{number}.png" for number in range(24)]
        job.write(shard, codes=codes, names=names, labels=[None] * 24, conditions={}, skipped=[])
        job.finish()
    return path


def test_codes_of_training_pictures_are_recognized_in_any_view(
    house: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples with the codes of training pictures, or with others; their pixels have nothing to do with their codes."""
    monkeypatch.chdir(house)
    header = TokenFile("t.h5").header
    training, held, others = (tokens(tmp_path / f"{seed}.h5", header, seed) for seed in (1, 2, 3))
    for name, source in (("copies", training), ("new", others)):
        for number, codes in enumerate(torch.from_numpy(TokenFile(source).codes([2, 7, 11, 12, 20]))[:, 1]):
            own = OwnCodes(codes, Frame(Size(32, 32), header.downsample_factor), header.codec_sha256)
            picture = torch.full((3, 32, 32), 40 * number, dtype=torch.uint8)
            write_png(tmp_path / name / f"{number}.png", picture, text={CHUNK: codes_text(own)})
    found, error = measured(capsys, tmp_path / "copies", training, "--held-out", held)
    assert (found["code_nearer"], found["code_copied"]) == (1, 1)
    assert "by codes, 100% of them" in error
    assert {row["equal_codes"] for row in found["details"]["by_sample"]} == {1.0}
    found, error = measured(capsys, tmp_path / "new", training, "--held-out", held)
    assert found["code_p_value"] > 0.01
    assert "by codes" not in error
    found, _ = measured(capsys, tmp_path / "copies", training, "--held-out", "scenes/images")
    assert "code_nearer" not in found  # the held-out pictures have no codes


def test_by_default_a_prior_is_compared_with_its_own_tokens(
    house: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(house)
    found, _ = measured(capsys)
    counts = {role: found["protocol"][role]["count"] for role in ("training", "held_out")}
    assert counts["training"] + counts["held_out"] == 24
    assert counts["held_out"] > 2
    assert found["protocol"]["training"]["form"] == "tokens"
    assert "code_nearer" in found
    for named in ("runs/train-prior/001", "runs/train-prior/001/checkpoints/last.safetensors"):
        again, error = measured(capsys, named)
        assert "runs/sample/001 (its newest samples)" in error
        assert again == found
    codec = Path(TokenFile("t.h5").header.codec_path)
    codec.rename(tmp_path / "moved.safetensors")  # the prior's file holds its codec too
    try:
        whole = json.loads(_all(capsys))
    finally:
        (tmp_path / "moved.safetensors").rename(codec)
    assert whole["memorization"] == found


def _all(capsys: Capture) -> str:
    capsys.readouterr()
    assert main(["eval", "all", "runs/train-prior/001", *LITE, "--json"]) == 0
    return capsys.readouterr().out


def test_a_prior_without_samples_is_named(house: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house)
    (house / "runs/sample").rename(house / "samples")
    try:
        _, error = measured(capsys, "runs/train-prior/001", code=2)
    finally:
        (house / "samples").rename(house / "runs/sample")
    assert "no samples of runs/train-prior/001 are under runs/; name their folder" in error


def test_what_is_missing_is_named(
    house: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(house)
    _, error = measured(capsys, "scenes/images", code=2)
    assert "name the training pictures, and others with --held-out" in error
    _, error = measured(capsys, "runs/sample/001", "scenes/images", code=2)
    assert "--held-out IMAGES" in error
    one = folder_of_pictures(tmp_path / "one", 1, seed=0)
    _, error = measured(capsys, "runs/sample/001", "scenes/images", "--held-out", one, code=2)
    assert "held-out pictures: 1; give two or more" in error
