"""Memory for coding pictures: what is free decides what is decoded exactly, and that is written down."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from taming_cli.cli.app import main
from taming_cli.codec.tiling import tiles
from taming_cli.codec.tiling.boxes import memory
from taming_cli.codec.tiling.decoding import stages
from taming_cli.codec.vqgan import VQGAN
from taming_cli.config.codec import CodecConfig
from taming_cli.data.images import png_settings, write_png
from taming_cli.data.tokens.file import TokenFile
from taming_cli.errors import UsageError
from taming_cli.runtime import memory as machine
from taming_cli.runtime.memory import GIB, LEAST, Room, memory_bytes, room
from taming_cli.sampling.pipeline import Pipeline
from tests.test_pipeline import saved
from tests.toys import pictures

CPU = torch.device("cpu")
LITTLE = "0.0003"  # GiB: a third of a megabyte


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("prior") / "prior.safetensors", classes=False)


def free(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda device: int(gib * GIB))


def test_decoding_gets_half_of_what_is_free_and_encoding_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, share in ((40, 20 * GIB), (4, 2 * GIB), (0.1, LEAST)):
        free(monkeypatch, there)
        assert room(CPU) == Room(encode=tiles.BUDGET, decode=share)
    assert room(CPU, 0.5) == Room(GIB // 2, GIB // 2)
    with pytest.raises(UsageError, match="memory is 0 GiB"):
        room(CPU, 0)


def test_free_memory_of_a_gpu_counts_what_torch_holds_and_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1 * GIB)
    assert machine.free_bytes(torch.device("cuda")) == 7 * GIB


def test_a_container_is_a_limit_and_files_that_it_can_let_go_are_free(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("900000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 400000000\n")
    assert memory_bytes(tmp_path / "meminfo", tmp_path) == (1_000_000_000, 500_000_000)
    old = tmp_path / "old"
    (old / "memory").mkdir(parents=True)
    (old / "memory/memory.limit_in_bytes").write_text("600000000\n")
    (old / "memory/memory.usage_in_bytes").write_text("250000000\n")
    assert memory_bytes(tmp_path / "meminfo", old) == (600_000_000, 350_000_000)


def test_a_large_picture_of_the_papers_codec_is_exact_where_the_memory_is_there(
    monkeypatch: pytest.MonkeyPatch, ckpt: Path
) -> None:
    paper = CodecConfig(ch=128, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_resolutions=(16,), z_channels=256)
    with torch.device("meta"):
        codec = VQGAN(paper)
    needed = memory(stages(codec), (64, 96), (64, 96))
    assert 3 * GIB < needed < 6 * GIB
    for there, exact in ((12, True), (6, False)):
        free(monkeypatch, there)
        assert tiles.exact(codec, 64, 96, Pipeline.load(ckpt, device="cpu").space.decode) is exact


def test_a_batch_takes_no_more_for_there_being_more() -> None:
    with torch.device("meta"):
        run = stages(VQGAN(CodecConfig(ch=64, ch_mult=(1, 2), norm_groups=32)))
    each = memory(run, (64, 64), (64, 64))
    assert tiles.DecodePlan.of(run, 64, 64, 100 * GIB).at_once == tiles.BUDGET // each
    assert tiles.DecodePlan.of(run, 64, 64, each).at_once == 1


def test_samples_record_how_they_were_decoded(
    ckpt: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["sample", "--ckpt", str(ckpt), "--device", "cpu", "--size", "40x24", "--json", "-o"]
    for name, more, how in (("whole", [], "exact"), ("parts", ["--memory", LITTLE], "estimated")):
        assert main([*line, str(tmp_path / name), *more]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["decoding"] == how
        assert json.loads(png_settings(tmp_path / name / "000000.png") or "")["decoding"] == how
        assert ("--memory 1 decodes it exactly" in said.err) is (how == "estimated")
    monkeypatch.setenv("TAMING_MEMORY", LITTLE)
    assert main([*line, str(tmp_path / "parts")]) == 0, "the same again is kept"
    assert main([*line, str(tmp_path / "whole")]) == 2, "and another picture is not put in its place"
    pipeline = Pipeline.load(ckpt, device="cpu", memory=float(LITTLE))
    assert [pipeline.sample(size=size).exact for size in ("8x8", "40x24")] == [True, False]


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf"])
def test_memory_that_is_none_is_refused(text: str, ckpt: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["sample", "--ckpt", str(ckpt), "-o", str(tmp_path / "x"), f"--memory={text}"]) == 2
    assert "--memory is" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_other_commands_report_it_too(ckpt: Path, tmp_path: Path, capsys: Any) -> None:
    write_png(tmp_path / "in/a.png", pictures(24, 40, 1)[0])
    write_png(tmp_path / "in/b.png", pictures(8, 8, 1)[0])
    line = ["--ckpt", str(ckpt), "--device", "cpu", "--memory", LITTLE, "--json"]
    assert main(["reconstruct", str(tmp_path / "in"), str(tmp_path / "out"), *line]) == 0
    assert json.loads(capsys.readouterr().out)["estimated"] == 1
    said = [json.loads(png_settings(tmp_path / "out" / name) or "")["decoding"] for name in ("a.png", "b.png")]
    assert said == ["estimated", "exact"]
    tokens = tmp_path / "t.h5"
    assert main(["tokenize", str(tmp_path / "in"), "-o", str(tokens), "--size", "40x24", *line]) == 0
    with TokenFile(tokens) as file:
        assert file.header.preprocess["memory_gib"] == float(LITTLE)
    capsys.readouterr()
    assert main(["decode", str(tokens), str(tmp_path / "back"), *line[2:]]) == 0
    assert json.loads(capsys.readouterr().out)["estimated"] == 2
    for more, how in (([], "exact"), (["--memory", LITTLE], "estimated")):
        measured = ["eval", "recon", str(ckpt), str(tmp_path / "in/a.png"), "--perceptual", "none", "--device", "cpu"]
        assert main([*measured, "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["protocol"]["decoding"] == how
