"""`taming eval` of pictures: equal to torch-fidelity and pytorch-fid, independent of batches and processes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.evaluate import distance, extraction
from taming_cli.evaluate.extraction import Extraction, Extractor, extract_features
from taming_cli.evaluate.image_sets import ImageSet, open_image_set
from taming_cli.pretrained import features as features_of
from taming_cli.pretrained.features import build
from tests.pretrained_files import folder_of_pictures, inception_weights
from tests.processes import together

pytestmark = pytest.mark.usefixtures("each_distance_once")

CPU = torch.device("cpu")
LITE = ("--features", "efficientnet-lite0")


class Two:
    """Two sets of pictures, and a file of random Inception weights."""

    def __init__(self, folder: Path) -> None:
        self.a = folder_of_pictures(folder / "a", 7, seed=1)
        self.b = folder_of_pictures(folder / "b", 6, seed=2, size=(128, 80))
        self.weights = inception_weights(folder / "inception.pth")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    return Two(tmp_path_factory.mktemp("two"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(extraction.CACHE_VARIABLE, str(tmp_path / "cache"))


def result(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def torch_fidelitys_fid(kept: Path) -> float:
    """By its features and its formula, of their coordinates in the space that they span: the distance is the same, and
    takes no minute."""
    from torch_fidelity import metric_fid

    features = [torch.load(kept / f"{name}-inception-v3-compat-features-2048.pt").double() for name in "ab"]
    basis = torch.linalg.qr(torch.cat(features).T).Q
    statistics = [metric_fid.fid_features_to_statistics(each @ basis) for each in features]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def test_fid_is_kid_and_prc_equal_torch_fidelitys(two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from torch_fidelity import calculate_metrics

    expected = calculate_metrics(
        input1=str(two.a),
        input2=str(two.b),
        cuda=False,
        isc=True,
        kid=True,
        prc=True,
        prc_neighborhood=1,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(two.weights),
        kid_subset_size=5,
        isc_splits=3,
        verbose=False,
        cache_root=str(tmp_path),
        input1_cache_name="a",
        input2_cache_name="b",
        save_cpu_ram=True,
    )
    given = ("--weights", two.weights)
    fid = result(capsys, "fid", two.a, two.b, *given)
    assert fid["metric"] == "fid"
    assert fid["value"] == pytest.approx(torch_fidelitys_fid(tmp_path), rel=1e-5)
    inception = result(capsys, "is", two.a, "--splits", 3, *given)
    assert inception["value"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert inception["deviation"] == pytest.approx(expected["inception_score_std"], rel=1e-5)
    kid = result(capsys, "kid", two.a, two.b, "--subset-size", 5, *given)
    one_rounding = 6e-8  # theirs is in fp32: a difference of kernels' means, which are about 1
    assert kid["value"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4, abs=one_rounding)
    assert kid["deviation"] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-3)
    prc = result(capsys, "prc", two.a, two.b, "--neighbours", 1, *given)
    assert prc["metric"] == "prc-inception-v3-compat"
    assert (prc["precision"], prc["recall"]) == pytest.approx((expected["precision"], expected["recall"]))
    assert 0 < prc["precision"] < 1 or 0 < prc["recall"] < 1


def test_published_statistics_give_the_same_fid_as_pictures(
    two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build("efficientnet-lite0")
    for name in ("a", "b"):
        images = open_image_set(getattr(two, name), device=CPU)
        kept = extract_features(images, Extractor(network=network), keep="features").kept
        assert kept is not None
        features = kept.numpy()
        np.savez(tmp_path / f"{name}.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))  # as pytorch-fid
    expected = result(capsys, "fid", two.a, two.b, *LITE)["value"]
    assert expected > 0.1
    statistics = tmp_path / "a.npz", tmp_path / "b.npz"
    found = result(capsys, "fid", two.a, statistics[1], *LITE)
    assert found["value"] == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(features_of, "build", lambda *arguments, **more: pytest.fail("statistics need no network"))
    found = result(capsys, "fid", *statistics, *LITE)
    assert found["metric"] == "fd-efficientnet-lite0"
    assert found["value"] == pytest.approx(expected, rel=1e-9)
    assert main(["eval", "fid", *map(str, statistics)]) == 1
    assert "holds statistics of 1280 features; inception-v3-compat has 2048" in capsys.readouterr().err


def test_two_files_of_inception_statistics_give_a_fid(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distance, "frechet_distance", lambda mu, sigma, other, _: float((mu - other) @ (mu - other)))
    for name, mean in (("a", 0.0), ("b", 0.5)):
        np.savez(tmp_path / f"{name}.npz", mu=np.full(2048, mean), sigma=np.eye(2048))
    found = result(capsys, "fid", tmp_path / "a.npz", tmp_path / "b.npz")
    assert found["metric"] == "fid"
    assert found["value"] == pytest.approx(2048 * 0.25)


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_batches_and_threads_do_not_change_a_result(two: Two, capsys: pytest.CaptureFixture[str], metric: str) -> None:
    more = ("--subset-size", 5) if metric == "kid" else ("--no-cache",)
    found = [
        result(capsys, metric, two.a, two.b, *LITE, *more, "--batch-size", batch, "--workers", workers)["value"]
        for batch, workers in ((1, 1), (5, 4), (32, 2))
    ]
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-6)


@pytest.mark.parametrize("metric", ["fid", "kid"])
def test_two_processes_measure_what_one_measures(two: Two, capsys: pytest.CaptureFixture[str], metric: str) -> None:
    more = ["--subset-size", "6"] if metric == "kid" else ["--no-cache"]
    alone = result(capsys, metric, two.a, two.b, *LITE, *more)
    of_two = json.loads(together("eval", metric, two.a, two.b, *LITE, *more, "--json"))  # one line, of the first
    assert of_two["value"] == pytest.approx(alone["value"], rel=1e-6)
    assert of_two["protocol"] == alone["protocol"]


def test_processes_without_an_address_are_a_usage_error(
    two: Two, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "")):
        monkeypatch.setenv(name, value)
    assert main(["eval", "fid", str(two.a), str(two.b), *LITE]) == 2
    assert "start the processes with torchrun" in capsys.readouterr().err


def test_statistics_of_the_reference_are_cached(
    two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = result(capsys, "fid", two.a, two.b, *LITE)
    (kept,) = (tmp_path / "cache" / "statistics").iterdir()
    seen = []

    def recorded(images: ImageSet, extractor: Extractor) -> Extraction:
        seen.append(images.name)
        return extract_features(images, extractor)

    for module in (extraction, distance):
        monkeypatch.setattr(module, "extract_features", recorded)
    again = result(capsys, "fid", two.a, two.b, *LITE)
    assert seen == [str(two.a)]
    assert again == first
    result(capsys, "fid", two.a, two.b, *LITE, "--resize", "clean")
    assert seen[1:] == [str(two.a), str(two.b)]
    kept.write_bytes(kept.read_bytes()[:100])
    assert result(capsys, "fid", two.a, two.b, *LITE)["value"] == first["value"]
    assert seen[3:] == [str(two.a), str(two.b)]


def test_a_result_records_its_protocol_and_warns(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "fid", two.a, two.b, "--weights", two.weights, "--resize", "clean", "--size", "64x64")
    assert found["metric"] == "fid-clean"
    protocol = found["protocol"]
    assert protocol["generated"]["count"] == 7
    assert protocol["reference"]["smallest"] == "128x80"
    assert protocol["reference"]["form"] == "png"
    assert protocol["features"]["resize"] == "clean"
    assert protocol["size"] == "64x64"
    assert len(protocol["features"]["sha256"]) == 64
    warnings = " ".join(found["warnings"])
    for part in ("7 pictures", "6 pictures", "singular", "not the published ones"):
        assert part in warnings
    assert "enlarged" not in warnings
    assert "enlarged" in " ".join(result(capsys, "fid", two.b, two.a, *LITE)["warnings"])


def test_a_result_is_saved_beside_existing_ones(two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = [result(capsys, "fid", one, two.b, *LITE, "-o", tmp_path / "kept") for one in (two.a, two.b)]
    names = ("fd-efficientnet-lite0.json", "fd-efficientnet-lite0-2.json")
    assert [json.loads((tmp_path / "kept" / name).read_text()) for name in names] == found


def test_quiet_prints_only_the_number(two: Two, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "fid", str(two.a), str(two.b), *LITE, "-q"]) == 0
    output = capsys.readouterr()
    assert float(output.out) > 0
    assert output.out.count("\n") == 1
    assert output.err == ""


def test_pictures_in_an_npz_equal_those_in_files(two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted(two.a.iterdir())])
    np.savez(tmp_path / "a.npz", pictures)
    np.savez(tmp_path / "adm.npz", pictures, mu=np.zeros(2048), sigma=np.eye(2048))  # as its references are
    of_files, *of_arrays = (
        result(capsys, "fid", given, two.b, *LITE, "--batch-size", 4)["value"]
        for given in (two.a, tmp_path / "a.npz", tmp_path / "adm.npz")
    )
    assert of_arrays == pytest.approx([of_files] * 2, rel=1e-6)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("empty", "no pictures found"),
        ("one", "is one picture"),
        ("truncated.npz", "damaged"),
        ("other.npz", "holds statistics of 7 features"),
        ("missing", "no such file"),
        ("nothing.npz", "give mu and sigma"),
        ("nan.npz", "nan.npz: holds values that are not finite"),
        ("complex.npz", "floating-point"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path, made: str, message: str
) -> None:
    path = tmp_path / made
    if made == "empty":
        path.mkdir()
    elif made == "one":
        folder_of_pictures(path, 1, seed=1)
    elif made == "truncated.npz":
        np.savez(path, mu=np.zeros(1280), sigma=np.eye(1280))
        path.write_bytes(path.read_bytes()[:1000])
    elif made == "other.npz":
        np.savez(path, mu=np.zeros(7), sigma=np.eye(7))
    elif made == "nan.npz":
        np.savez(path, mu=np.full(1280, np.nan), sigma=np.eye(1280))
    elif made == "complex.npz":
        np.savez(path, mu=np.zeros(1280, complex), sigma=np.eye(1280))
    elif made == "nothing.npz":
        np.savez(path, x=np.zeros(3))
    capsys.readouterr()
    assert main(["eval", "fid", str(two.a), str(path), *LITE]) in (1, 2)
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = [line for line in output.err.splitlines() if line.startswith("taming: ")]
    assert message in line


def test_unreadable_pictures_are_listed_and_the_rest_is_measured(
    two: Two, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in two.a.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "broken.png").write_bytes(b"no picture")
    found = result(capsys, "fid", mixed, two.b, *LITE, code=3)
    assert list(found["skipped"]) == ["broken.png"]
    assert found["protocol"]["generated"]["count"] == 7
    assert found["value"] == pytest.approx(result(capsys, "fid", two.a, two.b, *LITE)["value"], rel=1e-9)
