"""`taming eval recon|rfid|codebook`: against scikit-image, lpips, closed forms, and written reconstructions."""

import json
import math
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from taming_cli.cli.app import main
from taming_cli.codec import autoencoder
from taming_cli.codec.vqgan import VQGAN, codec_file
from taming_cli.data.images import SETTINGS, SHEET, read_image, to_float, write_png
from taming_cli.evaluate import codecs
from taming_cli.evaluate.coding import CodedBatch
from taming_cli.evaluate.plots import SIDE
from taming_cli.pretrained.features import FeatureNetwork, FeatureOutput
from taming_cli.runtime.checkpoint import save_model
from tests import toys
from tests.pretrained_files import folder_of_pictures, vgg16_weights
from tests.toys import CODEC, toy_codec

Capture = pytest.CaptureFixture[str]


class Setting:
    """A toy codec's file, pictures (of 66 x 50, which f does not divide into windows alike), what it makes of them."""

    def __init__(self, folder: Path) -> None:
        self.codec: VQGAN = toy_codec()
        self.ckpt = folder / "vq.safetensors"
        save_model(self.ckpt, codec_file(self.codec, {"size": "32x32"}))
        self.images = folder_of_pictures(folder / "in", 11, seed=1, size=(66, 50))
        self.rebuilt = folder / "out"
        assert main(["reconstruct", str(self.images), str(self.rebuilt), "--ckpt", str(self.ckpt), "-q"]) == 0

    def pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {
            path.name: tuple(
                read_image((folder / path.name).read_bytes(), "") for folder in (self.images, self.rebuilt)
            )
            for path in sorted(self.images.iterdir())
        }


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("codec"))


def measured(capsys: Capture, *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", *map(str, arguments), "--device", "cpu", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_reconstruction_metrics_equal_those_of_scikit_image(setting: Setting, capsys: Capture, tmp_path: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    found = measured(capsys, "recon", setting.ckpt, setting.images, "--perceptual", "none", "-o", tmp_path / "kept")
    pairs = setting.pairs()
    assert found["details"]["by_picture"].keys() == pairs.keys()
    for name, pair in pairs.items():
        x, y = (each.permute(1, 2, 0).numpy() for each in pair)
        ours = found["details"]["by_picture"][name]
        assert ours["psnr"] == pytest.approx(peak_signal_noise_ratio(x, y), abs=1e-4)
        expected = structural_similarity(
            x, y, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        # theirs weighs windows that reach beyond the border too before it cuts them off: the same inside
        assert ours["ssim"] == pytest.approx(expected, abs=1e-4)
        error = (to_float(pair[0]) - to_float(pair[1])).abs().mean()
        assert ours["l1"] == pytest.approx(float(error), abs=1e-6)
        codes = math.ceil(50 / 2) * math.ceil(66 / 2)
        assert ours["bits_per_pixel"] == pytest.approx(math.log2(CODEC.codebook_size) * codes / (50 * 66))
    values = [row["psnr"] for row in found["details"]["by_picture"].values()]
    assert found["psnr"] == pytest.approx(np.mean(values))
    assert json.loads((tmp_path / "kept" / "reconstruction.json").read_text()) == found
    for name in ("worst", "best"):
        with Image.open(tmp_path / "kept" / f"{name}.png") as sheet:
            assert (sheet.width, sheet.height) > (4 * SIDE, 2 * SIDE)


def test_lpips_equals_that_of_the_lpips_package(setting: Setting, capsys: Capture, tmp_path: Path) -> None:
    import lpips

    weights = vgg16_weights(tmp_path / "vgg16.pth")
    found = measured(capsys, "recon", setting.ckpt, setting.images, "--perceptual", "lpips-vgg", "--weights", weights)
    with warnings.catch_warnings():  # it calls torchvision by deprecated arguments
        warnings.simplefilter("ignore", UserWarning)
        theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    slices = torch.load(weights, weights_only=True)
    own = theirs.net.state_dict()
    theirs.net.load_state_dict({name: slices[f"features.{name.partition('.')[2]}"] for name in own})
    theirs.eval()
    with torch.inference_mode():
        for name, (x, y) in setting.pairs().items():
            expected = float(theirs(to_float(x)[None], to_float(y)[None]))
            assert found["details"]["by_picture"][name]["lpips-vgg"] == pytest.approx(expected, rel=1e-4)


def test_rfid_equals_the_distance_to_written_reconstructions(setting: Setting, capsys: Capture) -> None:
    lite = ("--features", "efficientnet-lite0")
    found = measured(capsys, "rfid", setting.ckpt, setting.images, *lite)
    written = measured(capsys, "fid", setting.rebuilt, setting.images, *lite, "--no-cache")
    assert found["metric"] == "rfd-efficientnet-lite0"
    assert written["value"] > 1e-3
    assert found["value"] == pytest.approx(written["value"], rel=1e-6)


def test_codebook_usage_is_equal_for_pictures_and_their_tokens(
    setting: Setting, capsys: Capture, tmp_path: Path
) -> None:
    out = tmp_path / "t.h5"
    arguments = ["tokenize", str(setting.images), "--ckpt", str(setting.ckpt), "-o", str(out), "--size", "32x32", "-q"]
    assert main(arguments) == 0
    of_tokens = measured(capsys, "codebook", setting.ckpt, out)
    of_pictures = measured(capsys, "codebook", setting.ckpt, setting.images, "--size", "32x32", "-o", tmp_path / "kept")
    assert of_tokens["details"] == of_pictures["details"]
    counts = torch.tensor(of_tokens["details"]["counts"])
    assert counts.sum() == 11 * 16 * 16
    p = counts[counts > 0] / counts.sum()
    assert of_tokens["perplexity"] == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-5)
    assert of_tokens["codes_used"] == float((counts > 0).double().mean())
    assert of_tokens["details"]["dead"] == torch.nonzero(counts == 0)[:, 0].tolist()
    assert (tmp_path / "kept" / "codebook.png").exists()


def test_small_and_broken_pictures_are_listed_and_sheets_ignored(
    setting: Setting, capsys: Capture, tmp_path: Path
) -> None:
    folder = folder_of_pictures(tmp_path / "mixed", 2, seed=1)
    folder_of_pictures(folder / "small", 1, seed=1, size=(20, 9))
    (folder / "\udcff.png").write_bytes(b"no picture")
    write_png(folder / "grid.png", torch.zeros(3, 40, 40, dtype=torch.uint8), {SETTINGS: SHEET})
    capsys.readouterr()
    line = ["eval", "recon", str(setting.ckpt), str(folder), "--device", "cpu", "--json", "-o", str(tmp_path / "kept")]
    assert main(line) == 3
    found = json.loads(capsys.readouterr().out)
    assert list(found["details"]["by_picture"]) == ["000.png", "001.png"]
    assert found["skipped"]["small/000.png"] == "below 32 pixels a side"
    assert len(found["skipped"]) == 2
    assert (tmp_path / "kept" / "reconstruction.json").exists()
    assert main([*line[:3], str(folder / "small"), "--device", "cpu"]) == 2
    assert "0 of 1 pictures can be measured" in capsys.readouterr().err
    assert main([*line[:-1], str(folder / "000.png")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_tokens_of_another_codec_are_refused(setting: Setting, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "t.h5"
    assert main(["tokenize", str(setting.images), "--ckpt", str(setting.ckpt), "-o", str(out), "-q"]) == 0
    other = toy_codec()
    with torch.no_grad():
        other.quantize.embedding.weight.add_(1)
    save_model(tmp_path / "other.safetensors", codec_file(other, {"size": "32x32"}))
    capsys.readouterr()
    assert main(["eval", "codebook", str(tmp_path / "other.safetensors"), str(out)]) == 2
    assert "is not the codec" in capsys.readouterr().err


def test_a_batch_of_features_needs_no_matrix_of_its_own() -> None:
    class Toy(nn.Module):
        dimensions = 1024

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def prepare(self, picture: Tensor) -> Tensor:
            return picture.float()

        def forward(self, prepared: Tensor) -> FeatureOutput:
            return FeatureOutput(prepared.flatten(1)[:, :1024], None)

    metric = codecs.ReconstructionFid(cast(FeatureNetwork, Toy()))
    pictures = toys.pictures(32, 32, batch=8)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        for _ in range(4):
            metric.add(CodedBatch([], pictures, torch.zeros(8, 4, 4), pictures))
    assert max(event.cpu_memory_usage for event in found.events()) < 8 * 1024 * 1024  # bytes of one in float64


def test_large_pictures_of_mixed_sizes_are_coded_one_by_one(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(64, 48), (64, 48), (48, 64), (16, 16), (16, 16)]
    monkeypatch.setattr("taming_cli.evaluate.coding.CHUNK_PIXELS", 8 * 32 * 32)
    (tmp_path / "in").mkdir()
    for number, size in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    save_model(tmp_path / "vq.safetensors", codec_file(toy_codec(), {}))
    computed: list[tuple[int, ...]] = []
    original = autoencoder.Encoder.forward

    def forward(encoder: autoencoder.Encoder, x: Tensor) -> Tensor:
        computed.append(tuple(x.shape))
        return original(encoder, x)

    monkeypatch.setattr(autoencoder.Encoder, "forward", forward)
    found = measured(capsys, "recon", tmp_path / "vq.safetensors", tmp_path / "in", "--perceptual", "none")
    assert found["protocol"]["pictures"]["count"] == 5
    assert sum(shape[0] * shape[2] * shape[3] for shape in computed) <= 4 * 64 * 48 + 8 * 16 * 16
    assert max(shape[0] * shape[2] * shape[3] for shape in computed) <= 8 * 32 * 32
    # Each has the figures that it has by itself, whatever its neighbours.
    by_picture = found["details"]["by_picture"]
    for number in range(len(sizes)):
        line = ("recon", tmp_path / "vq.safetensors", tmp_path / "in" / f"{number}.png", "--perceptual", "none")
        (alone,) = measured(capsys, *line)["details"]["by_picture"].values()
        assert by_picture[f"{number}.png"] == pytest.approx(alone, rel=1e-5)
