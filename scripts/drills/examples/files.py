"""Examples of the tool's own files, of published checkpoints, and of settings."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from material import Material, apart

from examples import Example, command, example
from taming_cli.codec.locate import load_codec
from taming_cli.config.presets import CONFIGS
from taming_cli.config.resolve import from_file, resolve
from taming_cli.data.tokens.file import TokenFile
from taming_cli.data.tokens.writer import TokenJob
from taming_cli.interop.load import import_file
from taming_cli.runtime.checkpoint import load_trainer
from taming_cli.sampling.model import LoadedModel


def models(material: Material) -> list[Example]:
    """Model files of a codec and of a prior, described and loaded."""

    def codec(path: Path) -> Any:
        described = command("info", path, "--json")
        network, model = load_codec(path)
        return described, network.state_dict(), model.config, model.about

    def prior(path: Path) -> Any:
        described = command("info", path, "--json")
        model = LoadedModel.load(path, device="cpu")
        return described, model.gpt.state_dict(), model.codec.state_dict(), model.about

    return [
        example(material.codec, codec, at=material.codec.with_name("damaged-N.safetensors"), exact=True),
        example(material.prior, prior, at=material.prior.with_name("damaged-N.safetensors"), exact=True),
    ]


def trainers(material: Material) -> list[Example]:
    """The trainer file of a finished prior, resumed."""

    def resume(path: Path) -> Any:
        command("train-prior", material.tokens, "--resume", "--out", path.parent, "-q")
        return load_trainer(path)

    return [example(material.prior_run / "trainer.pt", resume, exact=True)]


def tokens(material: Material) -> list[Example]:
    """Token files of one level without conditions, and of several columns."""
    rich = material.tokens.with_name("rich.h5")
    _write(_job(rich))
    return [
        example(each, content_of, at=each.with_name(f"damaged-{each.stem}-N.h5"), exact=True)
        for each in (material.tokens, rich)
    ]


def content_of(path: Path) -> Any:
    """Verify a token file, and read all of it."""
    command("tokens", "verify", path, "-q")
    return _columns(path)


def _columns(path: Path) -> Any:
    with TokenFile(path) as file:
        top = file.top(slice(None)) if file.header.top_codebook_size else None
        conditions = {kind: file.condition(kind, slice(None)) for kind in file.header.conditions}
        columns = file.codes(slice(None)), top, conditions, file.names(), file.labels, file.label_names
        return columns, file.header, file.skipped, file.plan_sha256, file.part


def _job(path: Path) -> TokenJob:
    from taming_cli.data.tokens.header import ConditionHeader, TokenHeader

    header = TokenHeader(
        codec_sha256="c" * 64,
        codec_path="codec.safetensors",
        codebook_size=300,
        downsample_factor=8,
        preprocess={"size": [32, 32]},
        created_by="drill",
        views=2,
        height=4,
        width=4,
        top_codebook_size=70_000,
        conditions={"depth": ConditionHeader(codec_sha256="d" * 64, codebook_size=1000)},
    )
    return TokenJob(path, header=header, plan={"items": "abc"}, total=20, shard_size=10)


def _write(job: TokenJob) -> None:
    with job:
        for shard in job.pending():
            _fill(job, shard)
        job.finish()


def _fill(job: TokenJob, shard: Any) -> None:
    """Write a shard, which depends on its number alone; one item is skipped."""
    rng = np.random.default_rng(shard.start)
    count = shard.stop - shard.start - 1
    job.write(
        shard,
        codes=rng.integers(0, 300, (count, 2, 4, 4)),
        top=rng.integers(0, 70_000, (count, 2, 2, 2)),
        names=[f"picture % {shard.start + number}.png" for number in range(count)],
        labels=[("cat", "dog", None)[number % 3] for number in range(count)],
        conditions={"depth": rng.integers(0, 1000, (count, 2, 4, 4))},
        skipped=[(f"{shard.stop - 1}.png", "truncated")],
    )


def parts(material: Material) -> list[Example]:
    """The files of a job that was stopped before it joined its two shards, and then continues."""
    whole = material.tokens.with_name("job") / "out.h5"
    with _job(whole) as job:
        for shard in job.pending():
            _fill(job, shard)
    kept = {path.name: path.read_bytes() for path in whole.with_name("out.h5.parts").iterdir() if path.name != "lock"}

    def resume(path: Path) -> Any:
        folder = path.parent
        for name, data in kept.items():
            if name != path.name:
                (folder / name).write_bytes(data)
        try:
            _write(_job(whole))
            return _columns(whole)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            whole.unlink(missing_ok=True)
            folder.mkdir()

    folder = whole.with_name("out.h5.parts")
    return [Example(folder / name, kept[name], resume, exact=True, named="out.h5") for name in sorted(kept)]


def checkpoints(material: Material) -> list[Example]:
    """Published checkpoints: in torch's format, in the one before it, and as safetensors."""
    folder = material.codec_settings.with_name("published")
    new, old = folder / "new-N.ckpt", folder / "old-N.ckpt"
    folder.mkdir()

    def write() -> None:
        state = _published(folder)
        torch.save(state, new)
        torch.save(state, old, _use_new_zipfile_serialization=False)

    apart(write)
    return [Example(new, new.read_bytes(), imported, exact=True), Example(old, old.read_bytes(), imported)]


def imported(path: Path, config: Path | None = None) -> Any:
    """Import a checkpoint, and load all of its tensors."""
    model = import_file(path, config)
    values = {name: tensor.load() for name, tensor in model.tensors.items()}
    return (
        values,
        model.model.config,
        {key: value for key, value in model.model.about.items() if key != "imported_from"},
    )


def _published(folder: Path) -> dict[str, Any]:
    """A codec as the authors' program saves it, and `codec.yaml`, its config."""
    from taming_cli.codec.vqgan import VQGAN, codec_file
    from taming_cli.config.codec import CodecConfig
    from taming_cli.interop.compvis_export import export_checkpoint

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "norm_groups": 32,
        "z_channels": 4,
        "resolution": 32,
        "codebook_size": 16,
        "codebook_dim": 4,
    }
    config = CodecConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), **sizes)
    export_checkpoint(codec_file(VQGAN(config), {"step": 3}), folder / "codec.ckpt")
    state: dict[str, Any] = torch.load(folder / "codec.ckpt", weights_only=True)
    return {**state, "epoch": 1, "global_step": 3, "callbacks": {"best": np.float64(0.5)}}


def yamls(material: Material) -> list[Example]:
    """The config published with a checkpoint."""
    checkpoint = material.codec_settings.with_name("published") / "codec.ckpt"
    config = checkpoint.with_suffix(".yaml")
    assert isinstance(yaml.safe_load(config.read_text()), dict)
    return [example(config, lambda path: imported(checkpoint, path), at=config.with_name("damaged-N.yaml"))]


def settings(material: Material, suffix: str) -> list[Example]:
    """Files for --config, in TOML or JSON."""

    def resolved(command: str) -> Any:
        classes = list(CONFIGS[command].values())
        return lambda path: str(resolve(classes, [from_file(path, command)]))

    kinds = {"train-vqgan": material.codec_settings, "train-prior": material.prior_settings}
    if suffix == ".json":
        runs = {"train-vqgan": material.codec_run, "train-prior": material.prior_run}
        kinds = {kind: run / "config.json" for kind, run in runs.items()}
    return [example(path, resolved(kind), at=path.with_name(f"damaged-N{suffix}")) for kind, path in kinds.items()]


def run_files(material: Material) -> list[Example]:
    """The JSON files of a run, and what a report and a resumed training make of them."""
    (material.codec_run / "eval.json").write_text(json.dumps(_measured()))

    def report(path: Path) -> Any:
        return command("report", path.parent, "-q")

    def resume(path: Path) -> Any:
        return command("train-prior", material.tokens, "--resume", "--out", path.parent, "-q")

    names: Sequence[str] = ("config.json", "env.json", "metrics.jsonl", "eval.json")
    reported = [example(material.codec_run / name, report) for name in names]
    resumed = [example(material.prior_run / name, resume) for name in ("config.json", "metrics.jsonl")]
    return [each._replace(named=str(each.path.parent)) for each in (*reported, *resumed)]


def _measured() -> dict[str, Any]:
    """Results as `eval all` writes them."""
    protocol = {"images": {"name": "pictures", "count": 12}, "versions": {"torch": "2"}}
    counts = {"counts": [9, 3, 0, 0]}
    return {
        "codebook": {"metric": "codebook", "perplexity": 2.0, "protocol": protocol, "details": counts, "warnings": []},
        "recon": {
            "metric": "psnr",
            "value": 20.5,
            "protocol": protocol,
            "details": {"by_class": {"even": 1.0, "odd": 5.0}},
            "warnings": ["few pictures"],
        },
    }
