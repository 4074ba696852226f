"""A prior and its codec as one file that makes pictures: numbers, classes, settings in the PNG, sizes, tokens."""

import copy
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from taming_cli.cli.app import main
from taming_cli.codec.reconstruct import decode
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.config.prior import ConditionSpec, PriorConfig
from taming_cli.config.shard import Shard
from taming_cli.config.size import Size
from taming_cli.data.arrays import origin_of, read_pictures
from taming_cli.data.images import png_settings, read_image, to_uint8
from taming_cli.data.tokens.file import TokenFile, verify
from taming_cli.errors import BadFileError, Interrupted, UsageError
from taming_cli.prior.model import new_network, prior_file
from taming_cli.prior.networks.gpt import GPT
from taming_cli.prior.raster.buffers import BufferCache
from taming_cli.runtime.checkpoint import save_model
from taming_cli.runtime.device import precision_name
from taming_cli.sampling import draw as drawing
from taming_cli.sampling.draw import Samples, draw
from taming_cli.sampling.files import SampleFile, write_npz
from taming_cli.sampling.pipeline import Pipeline
from taming_cli.sampling.request import Request, resolve_request
from tests.toys import CODEC, toy_codec

LABELS = ("cat", "dog", "7")


def saved(path: Path, *, classes: bool, arch: Any = "modern", **about: Any) -> Path:
    """A prior with random weights and its codec, as a model file. Weights are large, so that classes matter."""
    codec = toy_codec()
    conditions = (ConditionSpec(kind="class", vocabulary=3),) if classes else ()
    sizes: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "window": Size(4, 4), "codebook_size": 64}
    gpt = new_network(PriorConfig(arch=arch, conditions=conditions, **sizes))
    with torch.no_grad():
        gpt.head.weight.normal_(std=0.5)
        gpt.tok_emb.weight.normal_(std=1.0)
    labels = {"label_names": list(LABELS), "label_counts": [6, 2, 0]} if classes else {"label_names": []}
    save_model(path, prior_file(gpt, codec_file(codec, {}), {"grid": "4x4", **labels, **about}))
    return path


@pytest.fixture(scope="module", params=["modern", "any-order"])
def ckpt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("prior") / "prior.safetensors", classes=True, arch=request.param)


@pytest.fixture(scope="module")
def pipeline(ckpt: Path) -> Pipeline:
    return Pipeline.load(ckpt, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = saved(tmp_path_factory.mktemp("plain") / "prior.safetensors", classes=False)
    return Pipeline.load(path, device="cpu")


@pytest.fixture
def drawn(pipeline: Pipeline, tmp_path: Path) -> Callable[..., list[SampleFile]]:
    def draw(name: str = "out", **options: Any) -> list[SampleFile]:
        return pipeline.sample_to(tmp_path / name, **options).files

    return draw


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


# --- sample -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_sample_17_alone_is_sample_17_of_a_batch(batch_size: int, pipeline: Pipeline) -> None:
    many = pipeline.sample(n=24, seed=7, batch_size=batch_size)
    alone = pipeline.sample(n=1, seed=7, first=17)
    assert torch.equal(many.codes[17], alone.codes[0])
    assert many.classes[17] == alone.classes[0]
    assert (many.images[17].int() - alone.images[0].int()).abs().max() <= 1  # rounding, in another batch
    assert len(many.codes.flatten(1).unique(dim=0)) == 24


def test_the_pictures_are_the_decoded_codes(pipeline: Pipeline) -> None:
    made = pipeline.sample(n=3, seed=1)
    assert made.images.shape == (3, 3, 8, 8)
    assert made.images.dtype == torch.uint8
    assert made.codes.shape == (3, 4, 4)
    expected = to_uint8(pipeline.codec.decode(made.codes))
    assert (made.images.int() - expected.int()).abs().max() <= 1


def test_seed_and_settings_decide_the_picture(pipeline: Pipeline) -> None:
    base = pipeline.sample(n=2, seed=7, class_name="cat").codes
    assert torch.equal(base, pipeline.sample(n=2, seed=7, class_name="cat").codes)
    for changes in ({"seed": 8}, {"class_name": "dog"}, {"greedy": True}, {"temperature": 0.05}, {"guidance": 8.0}):
        other = pipeline.sample(**{"n": 2, "seed": 7, "class_name": "cat", **changes}).codes
        assert not torch.equal(base, other), changes


def test_greedy_takes_no_notice_of_the_seed(pipeline: Pipeline) -> None:
    codes = [pipeline.sample(n=1, seed=seed, class_name="cat", greedy=True).codes for seed in (1, 2)]
    assert torch.equal(codes[0], codes[1])


def test_a_class_goes_by_name_and_its_number_behind_a_hash(pipeline: Pipeline) -> None:
    assert [pipeline.class_index(name) for name in ("cat", "dog", "7")] == [0, 1, 2]
    assert [pipeline.class_index(name) for name in ("#0", "#1", "#2")] == [0, 1, 2]
    by_name = pipeline.sample(n=2, class_name="dog")
    by_number = pipeline.sample(n=2, class_name="#1")
    assert torch.equal(by_name.codes, by_number.codes)
    assert by_name.classes == by_number.classes == ("dog", "dog")


def test_a_number_that_is_no_name_is_refused_where_classes_have_names(
    pipeline: Pipeline, ckpt: Path, tmp_path: Path, capsys: Any
) -> None:
    months = replace(pipeline, labels=("1", "10", "11"))
    assert [months.class_index(name) for name in ("1", "11", "#0", "#1")] == [0, 2, 0, 1]
    for name, word in (
        ("0", r"class '0' is unknown; class number 0 is '#0' \(1\); .*valid: 1, 10, 11"),
        ("2", r"class '2' is unknown; class number 2 is '#2' \(11\)"),
        ("12", r"class '12' is unknown; did you mean '1"),
        ("#3", r"class '#3' is unknown; this prior has classes '#0' to '#2'"),
    ):
        with pytest.raises(UsageError, match=word):
            months.sample(class_name=name)
    assert replace(pipeline, labels=()).class_index("2") == replace(pipeline, labels=()).class_index("#2") == 2
    assert replace(pipeline, labels=("#1", "b")).class_index("#1") == 0, "a name comes first"
    assert replace(pipeline, labels=("a", "b")).class_index("2") == 2, "one without a name goes by its number"
    assert main(["sample", "--ckpt", str(ckpt), "--class", "0", "-o", str(tmp_path / "x")]) == 2
    assert "class number 0 is '#0' (cat)" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["dgo", "3", "-1", "", "cats"])
def test_an_unknown_class_is_refused_with_those_there_are(name: str, pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="valid: cat, dog, 7"):
        pipeline.sample(class_name=name)


def test_without_a_class_they_are_drawn_as_often_as_in_training(pipeline: Pipeline) -> None:
    drawn = list(resolve_request(pipeline, {"seed": 3, "n": 4000}).classes)
    share = [drawn.count(index) / 4000 for index in range(3)]
    assert share == pytest.approx([0.75, 0.25, 0.0], abs=0.03)
    assert drawn[17] == resolve_request(pipeline, {"seed": 3}, first=17).class_of(17)


def test_a_prior_without_classes_draws_and_refuses_a_class(unconditional: Pipeline) -> None:
    assert unconditional.sample(n=2).classes == (None, None)
    with pytest.raises(UsageError, match="without classes"):
        unconditional.sample(class_name="cat")


@pytest.mark.parametrize("size", [Size(8, 8), Size(16, 8), Size(4, 12), Size(10, 6)])
def test_pictures_have_the_size_requested(size: Size, pipeline: Pipeline) -> None:
    made = pipeline.sample(n=2, size=size)
    assert made.images.shape == (2, 3, size.height, size.width)
    assert made.codes.shape == (2, size.height // 2, size.width // 2)


def test_progress_ends_with_all_cells(pipeline: Pipeline) -> None:
    told: list[tuple[int, int]] = []
    pipeline.sample(n=3, batch_size=2, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (48, 48)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_codec_is_no_pipeline(tmp_path: Path) -> None:
    save_model(tmp_path / "vq.safetensors", codec_file(VQGAN(CODEC), {}))
    with pytest.raises(BadFileError, match="is a codec; a prior is needed here"):
        Pipeline.load(tmp_path / "vq.safetensors")


# --- sample_to --------------------------------------------------------------------------------------------------------


def test_pngs_and_a_grid_are_written_with_all_settings_in_the_text_chunk(
    drawn: Callable[..., list[SampleFile]], pipeline: Pipeline, tmp_path: Path
) -> None:
    made = drawn(n=3, seed=7, class_name="dog", temperature=0.9, top_k=10)
    assert [one.path.name for one in made] == ["000000.png", "000001.png", "000002.png"]
    assert [(one.sample, one.label) for one in made] == [(0, "dog"), (1, "dog"), (2, "dog")]
    expected = pipeline.sample(n=3, seed=7, class_name="dog", temperature=0.9, top_k=10)
    for one in made:
        assert torch.equal(read_image(one.path.read_bytes(), "x"), expected.images[one.sample])
        with Image.open(one.path) as image:
            said = json.loads(image.text["taming"])  # type: ignore[attr-defined]
        assert said["prior_sha256"] == pipeline.sha256
        assert (said["sample"], said["seed"], said["class"], said["grid"]) == (one.sample, 7, "dog", "4x4")
        assert (said["temperature"], said["top_k"], said["precision"]) == (0.9, 10, "fp32")
        if pipeline.any_order:
            assert (said["sample_steps"], said["forwards"], said["tokens"], "stride" in said) == (32, 16, 31, False)
        else:
            assert (said["stride"], "sample_steps" in said) == (2, False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
        "grid.png",
    ]


def test_the_grid_shows_every_picture(drawn: Callable[..., list[SampleFile]], tmp_path: Path) -> None:
    made = drawn(n=5, seed=2)
    sheet = pixels(tmp_path / "out" / "grid.png")
    tiles = [
        sheet[top : top + 8, left : left + 8]
        for top in range(0, sheet.shape[0], 10)
        for left in range(0, sheet.shape[1], 10)
    ]
    for one, tile in zip(made, tiles, strict=False):
        assert np.array_equal(tile, pixels(one.path))


def test_the_array_of_all_pictures_is_that_of_the_adm_suite(
    drawn: Callable[..., list[SampleFile]], pipeline: Pipeline, tmp_path: Path
) -> None:
    made = drawn(n=5, seed=2)
    classes = resolve_request(pipeline, {"n": 5, "seed": 2}).classes
    write_npz(tmp_path / "all.npz", [one.path for one in made], classes, "these")
    with np.load(tmp_path / "all.npz") as arrays:
        assert list(arrays) == ["arr_0", "arr_1"]
        assert np.array_equal(arrays["arr_0"], np.stack([pixels(one.path) for one in made]))
        assert [pipeline.label(index) for index in arrays["arr_1"]] == [one.label for one in made]
    assert [picture.tolist() for picture in read_pictures(tmp_path / "all.npz")] == [
        pixels(one.path).tolist() for one in made
    ]
    assert origin_of(tmp_path / "all.npz") == "these"


def test_an_array_of_other_pictures_is_never_written_over(
    ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(out: str, npz: str, *more: str) -> int:
        line = ["sample", "--ckpt", str(ckpt), "-n", "2", "--device", "cpu", "-q", "--npz", str(tmp_path / npz)]
        return main([*line, "-o", str(tmp_path / out), *more])

    assert run("first", "all.npz") == 0
    first = (tmp_path / "all.npz").read_bytes()
    assert run("first", "all.npz") == 0  # the same again
    for folder, *more in (("second", "--seed", "1"), ("third", "--precision", "bf16"), ("fourth", "--first", "1")):
        assert run(folder, "all.npz", *more) == 2
        assert "holds other pictures" in capsys.readouterr().err
        assert not (tmp_path / folder).exists()  # said before anything was drawn
    np.savez(tmp_path / "theirs.npz", np.zeros((1, 2, 2, 3), np.uint8))
    theirs = (tmp_path / "theirs.npz").read_bytes()
    assert run("first", "theirs.npz") == 2
    assert ((tmp_path / "all.npz").read_bytes(), (tmp_path / "theirs.npz").read_bytes()) == (first, theirs)


def test_shards_draw_a_part_each_and_the_whole_is_then_gathered(
    pipeline: Pipeline, ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sample", "--ckpt", str(ckpt), "-n", "5", "--seed", "2", "--device", "cpu", "-q", "-o"]
    for shard in ("1/2", "2/2"):
        assert main([*line, str(tmp_path / "parts"), "--shard", shard]) == 0
        count = len(list((tmp_path / "parts").glob("0*.png")))
        assert count == {"1/2": 3, "2/2": 5}[shard]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("0*.png")}
    assert main([*line, str(tmp_path / "parts"), "--npz", str(tmp_path / "all.npz")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("0*.png")} == times
    assert main([*line, str(tmp_path / "whole"), "--npz", str(tmp_path / "whole.npz")]) == 0
    difference = np.load(tmp_path / "all.npz")["arr_0"].astype(int) - np.load(tmp_path / "whole.npz")["arr_0"]
    assert np.abs(difference).max() <= 1  # rounding, in another batch
    capsys.readouterr()
    assert main([*line, str(tmp_path / "parts"), "--npz", "x.npz", "--shard", "1/2"]) == 2
    assert "without --shard" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_samples_of_shards_are_those_of_the_whole(pipeline: Pipeline, count: int) -> None:
    exact = replace(
        pipeline, gpt=copy.deepcopy(pipeline.gpt).double(), codec=copy.deepcopy(pipeline.codec), buffers=BufferCache()
    )
    request = resolve_request(exact, {"n": 7, "seed": 3})
    whole = draw(request, request.samples).codes
    for index in range(1, count + 1):
        places = Shard(index, count).places
        assert torch.equal(draw(request, range(7)[places]).codes, whole[places])


def test_first_names_the_number_and_the_file(drawn: Callable[..., list[SampleFile]]) -> None:
    many, alone = drawn("many", n=4, seed=7), drawn("alone", n=1, seed=7, first=3)
    assert [one.path.name for one in alone] == ["000003.png"]
    assert np.abs(pixels(alone[0].path).astype(int) - pixels(many[3].path)).max() <= 1
    assert alone[0].label == many[3].label


def test_identical_pictures_are_kept_and_another_in_the_way_is_refused(
    drawn: Callable[..., list[SampleFile]], tmp_path: Path
) -> None:
    made = drawn(n=2, seed=7)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (one.path for one in made)}
    again = drawn(n=3, seed=7)  # more of the same
    assert [one.sample for one in again] == [0, 1, 2]
    assert {path: data for path, (_, data) in before.items()} == {path: path.read_bytes() for path in before}
    for changes in ({"seed": 8}, {"temperature": 0.5}, {"class_name": "7"}, {"size": Size(16, 8)}):
        with pytest.raises(UsageError, match=r"00000\d\.png exists and was made with other settings"):
            drawn(**{"n": 3, "seed": 7, **changes})
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "000001.png")
    with pytest.raises(UsageError, match="000001"):
        drawn("other", n=2)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["000001.png"]  # nothing was begun


def test_a_killed_job_draws_only_what_is_missing(
    drawn: Callable[..., list[SampleFile]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "CHUNK", 2)
    whole = [pixels(one.path) for one in drawn("whole", n=6, seed=7)]
    made = drawn(n=6, seed=7)
    made[3].path.unlink()
    numbers: list[Any] = []

    def watched(request: Request, chunk: Sequence[int], **callbacks: Any) -> Samples:
        numbers.append(list(chunk))
        return draw(request, chunk, **callbacks)

    monkeypatch.setattr(drawing, "draw", watched)
    again = drawn(n=6, seed=7)
    assert numbers == [[2, 3]]
    for one, expected in zip(again, whole, strict=True):
        assert np.array_equal(pixels(one.path), expected)


def test_a_signal_stops_between_chunks_and_the_same_again_continues(
    drawn: Callable[..., list[SampleFile]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "CHUNK", 2)

    def stop(done: int, total: int) -> None:
        if done == 2 * 16:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"2 pictures are in .*repeat the command") as caught:
        drawn(n=6, seed=7, on_progress=stop, tokens=tmp_path / "t.h5")
    assert caught.value.exit_code == 143
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    drawn(n=6, seed=7, tokens=tmp_path / "t.h5")
    drawn("whole", n=6, seed=7, tokens=tmp_path / "whole.h5")
    with TokenFile(tmp_path / "t.h5") as a, TokenFile(tmp_path / "whole.h5") as b:
        assert np.array_equal(a.codes(slice(None)), b.codes(slice(None)))
        assert a.names() == b.names()
    for number in range(6):
        name = f"{number:06d}.png"
        assert np.array_equal(pixels(tmp_path / "out" / name), pixels(tmp_path / "whole" / name))


def test_the_token_file_goes_back_to_the_same_pictures(
    drawn: Callable[..., list[SampleFile]], pipeline: Pipeline, tmp_path: Path
) -> None:
    made = drawn(n=5, seed=7, tokens=tmp_path / "t.h5")
    assert verify(tmp_path / "t.h5").count == 5
    with TokenFile(tmp_path / "t.h5") as file:
        codes = torch.from_numpy(file.codes(slice(None)))
        assert file.header.codec_sha256 == pipeline.codec.sha256()
        assert file.names() == [one.path.name for one in made]
        labels = [file.label_names[label] for label in file.labels]
    assert torch.equal(codes[:, 0], pipeline.sample(n=5, seed=7).codes)
    assert labels == [one.label for one in made]
    decode(tmp_path / "t.h5", tmp_path / "back", device="cpu")  # the codec is found in the prior's file
    for one in made:
        difference = np.abs(pixels(tmp_path / "back" / one.path.name).astype(int) - pixels(one.path))
        assert difference.max() <= 1


def test_tokens_can_be_requested_when_the_pictures_are_there_already(
    drawn: Callable[..., list[SampleFile]], tmp_path: Path
) -> None:
    drawn(n=3, seed=7)
    drawn(n=3, seed=7, tokens=tmp_path / "t.h5")
    with TokenFile(tmp_path / "t.h5") as file:
        assert len(file) == 3


def test_other_tokens_in_the_way_are_refused(drawn: Callable[..., list[SampleFile]], tmp_path: Path) -> None:
    drawn(n=2, seed=7, tokens=tmp_path / "t.h5")
    before = (tmp_path / "t.h5").read_bytes()
    with pytest.raises(UsageError, match="other settings"):
        drawn("new", n=2, seed=8, tokens=tmp_path / "t.h5")
    assert (tmp_path / "t.h5").read_bytes() == before


def test_unconditional_samples_are_written_without_a_class(unconditional: Pipeline, tmp_path: Path) -> None:
    made = unconditional.sample_to(tmp_path / "out", n=2, tokens=tmp_path / "t.h5").files
    assert [one.label for one in made] == [None, None]
    with TokenFile(tmp_path / "t.h5") as file:
        assert file.labels.tolist() == [-1, -1]


def test_a_decoder_trained_further_draws_the_same_codes(ckpt: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    tuned, other = copy.deepcopy(pipeline.codec).cpu(), copy.deepcopy(pipeline.codec).cpu()
    with torch.no_grad():
        tuned.decoder.conv_out.bias.add_(0.3)
        other.quantize.embedding.weight.mul_(2)
    for name, codec in (("tuned", tuned), ("other", other)):
        save_model(tmp_path / f"{name}.safetensors", codec_file(codec, {}))
    drawn = pipeline.sample(n=2, seed=1)
    again = Pipeline.load(ckpt, codec=tmp_path / "tuned.safetensors", device="cpu").sample(n=2, seed=1)
    assert torch.equal(again.codes, drawn.codes)
    assert torch.equal(again.images, to_uint8(tuned.decode(drawn.codes)))
    assert not torch.equal(again.images, drawn.images)
    line = ["sample", "--ckpt", str(ckpt), "--device", "cpu", "-n", "1", "-o", str(tmp_path / "s"), "-q", "--codec"]
    assert main([*line, str(tmp_path / "tuned.safetensors")]) == 0
    assert main(line[:-1]) == 2, "other pictures are in the way"
    with pytest.raises(UsageError, match=r"other.safetensors has other codes than .* only the decoder may differ"):
        Pipeline.load(ckpt, codec=tmp_path / "other.safetensors", device="cpu")


def test_auto_is_bf16_for_wide_priors_where_the_device_multiplies_it(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taming_cli.sampling.model.WIDE", 64)
    wide = PriorConfig(arch="modern", n_layer=1, n_head=4, n_embd=64, window=Size(2, 2), codebook_size=64)
    save_model(tmp_path / "wide.safetensors", prior_file(GPT(wide), codec_file(toy_codec(), {}), {"grid": "2x2"}))
    small = saved(tmp_path / "small.safetensors", classes=False)
    for here, path, used in ((True, "wide", "bf16"), (False, "wide", "fp32"), (True, "small", "fp32")):
        monkeypatch.setattr("taming_cli.runtime.device._supports_bf16", lambda _, here=here: here)
        assert precision_name(Pipeline.load(tmp_path / f"{path}.safetensors", device="cpu").precision) == used
    monkeypatch.setattr("taming_cli.runtime.device._supports_bf16", lambda _: True)
    line = ["sample", "--ckpt", str(tmp_path / "wide.safetensors"), "--device", "cpu", "--json", "-o"]
    for more, used in (([], "bf16"), (["--precision", "fp32"], "fp32")):
        assert main([*line, str(tmp_path / used), *more]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["precision"] == used
        assert json.loads(png_settings(tmp_path / used / "000000.png") or "")["precision"] == used
        assert ("--precision fp32 draws the same" in said.err) is (used == "bf16")
    assert main(["sample", "--ckpt", str(small), "--device", "cpu", "--json", "-o", str(tmp_path / "s")]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp32"
