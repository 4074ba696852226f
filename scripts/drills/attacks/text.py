"""Model files whose headers and settings exhaust, and settings that nest, repeat or claim without end."""

import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from examples import command
from examples.files import imported
from safetensors.torch import save_file

from attacks import Attack, Scene
from taming_cli.codec.locate import load_codec
from taming_cli.config.presets import CONFIGS
from taming_cli.config.resolve import from_file, resolve
from taming_cli.runtime.checkpoint import ModelFile, load_model, save_model
from taming_cli.sampling.model import LoadedModel

DEPTH = 200_000


def models(scene: Scene) -> list[Attack]:
    """Headers that are long, real or claimed; and configs of networks without end."""
    material, attacks = scene.material, list[Attack]()

    def load(path: Path) -> Any:
        return command("info", path), load_codec(path)

    def add(name: str, data: bytes, size: int = 0) -> None:
        path = scene.folder / f"{name}.safetensors"
        with path.open("wb") as stream:
            stream.write(data)
            if size:
                stream.truncate(size)
        attacks.append(Attack(name, path, load, warm=lambda: load(material.codec)))

    def header(size: int, text: bytes) -> bytes:
        return struct.pack("<Q", size) + text

    add("claimed 1 GB", header(10**9, b'{"__metadata__":{"format":"taming-codec"}}'))
    add("claimed 2^63", header(2**63, b"{}"))
    add("real 1 GB", header(10**9, b'{"__metadata__":{"format":"taming-codec"}}'), 10**9 + 8)
    long = b'{"__metadata__":{"format":"taming-codec","format_version":"1","config":"{}","about":"' + b"a" * 99_000_000
    add("real 99 MB", header(len(long) + 3, long + b'"}}'))
    nested = b'{"a":' * DEPTH + b"1" + b"}" * DEPTH
    add("nested header", header(len(nested), nested))
    for part in ("config", "about"):
        for name, text in {
            "nested": "[" * DEPTH + "]" * DEPTH,
            "number": "9" * 10**6,
            "list": "[]",
            "null": "null",
        }.items():
            metadata = {"format": "taming-codec", "format_version": "1", "config": "{}", "about": "{}", part: text}
            path = scene.folder / f"{name}-{part}.safetensors"
            save_file({"a": torch.zeros(1)}, path, metadata)
            attacks.append(Attack(f"{name} {part}", path, load))
    claims: dict[str, Any] = {"ch": 10**9, "codebook_size": 2**60, "num_res_blocks": 10**8, "ch_mult": [1] * 10**5}
    codec = load_model(material.codec)
    for name, value in claims.items():
        path = scene.folder / f"{name}.safetensors"
        codec_config = {"codec": {**codec.config["codec"], name: value}}
        save_model(path, _with(codec, codec_config))
        attacks.append(Attack(f"claims {name}", path, load))
    prior = load_model(material.prior)
    for name, value in {
        "n_layer": 10**8,
        "n_embd": 2**40,
        "codebook_size": 2**50,
        "window": "999999999x999999999",
    }.items():
        path = scene.folder / f"prior-{name}.safetensors"
        save_model(path, _with(prior, {**prior.config, "prior": {**prior.config["prior"], name: value}}))
        attacks.append(
            Attack(
                f"claims {name}",
                path,
                lambda path: LoadedModel.load(path, device="cpu"),
                warm=lambda: LoadedModel.load(material.prior, device="cpu"),
            )
        )
    return [*attacks, *_published(scene)]


def _with(model: ModelFile, config: dict[str, Any]) -> ModelFile:
    """A model file with another config."""
    return replace(model, config=config)


def _published(scene: Scene) -> list[Attack]:
    """Published checkpoints whose names claim many layers."""
    names = ("encoder.down.0.block.99999999.conv1.weight", "encoder.down.99999999.block.0.conv1.weight")
    attacks = []
    for number, name in enumerate(names):
        path = scene.folder / f"layers{number}.ckpt"
        first = "encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"
        shapes = [(32, 3, 3, 3), (4, 32, 3, 3), (32, 4, 3, 3), (3, 32, 3, 3)]
        state = {key: torch.zeros(shape) for key, shape in zip(first, shapes, strict=True)}
        state |= {
            "quantize.embedding.weight": torch.zeros(16, 4),
            "encoder.down.0.block.0.conv1.weight": torch.zeros(32, 32, 3, 3),
        }
        torch.save({"state_dict": {**state, name: torch.zeros(32, 32, 3, 3)}}, path)
        attacks.append(Attack(f"claims {name}", path, imported))
    prior = scene.folder / "blocks.ckpt"
    torch.save(
        {"transformer.tok_emb.weight": torch.zeros(4, 4), "transformer.blocks.99999999.ln1.weight": torch.zeros(4)},
        prior,
    )
    return [*attacks, Attack("claims blocks", prior, imported)]


def settings(scene: Scene) -> list[Attack]:
    """Settings files, the files of a run, and the config of a published checkpoint."""
    deep = "[" * DEPTH + "]" * DEPTH
    texts = {
        "deep.json": deep,
        "deep objects.json": '{"a":' * DEPTH + "1" + "}" * DEPTH,
        "number.json": '{"steps": ' + "9" * 10**6 + "}",
        "infinite.json": '{"steps": Infinity}',
        "large.json": '{"steps": 1e999}',
        "list.json": "[1, 2]",
        "deep.toml": f"steps = {deep}",
        "deep tables.toml": "[" + ".".join(["a"] * 50_000) + "]\nb = 1",
        "number.toml": "steps = " + "9" * 10**6,
        "infinite.toml": "steps = inf",
    }
    attacks = []

    def resolved(path: Path) -> Any:
        return resolve(list(CONFIGS["train-vqgan"].values()), [from_file(path, "train-vqgan")])

    for name, text in texts.items():
        path = scene.folder / name
        path.write_text(text)
        attacks.append(Attack(name, path, resolved, warm=lambda: resolved(scene.material.codec_settings)))
    return [*attacks, *_runs(scene, deep), *_yamls(scene)]


def _runs(scene: Scene, deep: str) -> list[Attack]:
    """The files of a run: a report leaves out what cannot be read."""
    attacks = []

    def report(path: Path) -> str:
        return command("report", path.parent, "-q")

    values: dict[str, Callable[[str], str]] = {
        "deep": lambda name: f'{{"config": {deep}}}',
        "number": lambda name: f'{{"kind": "train", "step": {"9" * 10**6}}}',
        "huge": lambda name: '{"kind": "train", "step": 1e308, "images": 1e308, "seconds": 1e308, "l1": 1e308}',
        "types": lambda name: (
            '{"command": [], "inputs": 5, "config": {"train": 3}, "origins": [], "kind": {}, "step": 1}'
        ),
        "list": lambda name: "[[[]]]",
    }
    for kind, text in values.items():
        for name in ("config.json", "env.json", "metrics.jsonl", "eval.json"):
            run = scene.folder / f"{kind}-{name.partition('.')[0]}"
            shutil.copytree(scene.material.codec_run, run)
            (run / name).write_text(text(name) + "\n")
            attacks.append(Attack(f"{kind} {name}", run / name, report, may_be_read=True, named=str(run)))
    first = attacks[0]._replace(warm=lambda: report(scene.material.codec_run / "x"))
    return [first, *attacks[1:]]


def _yamls(scene: Scene) -> list[Attack]:
    """Configs for `import`, beside a checkpoint that is sound."""
    checkpoint = scene.folder / "codec.ckpt"
    names = {"encoder.conv_in.weight": (32, 3, 3, 3), "encoder.down.0.block.0.conv1.weight": (32, 32, 3, 3)}
    torch.save({"state_dict": {name: torch.zeros(shape) for name, shape in names.items()}}, checkpoint)
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    start = "model:\n  params:\n    ddconfig:\n      ch_mult: "
    texts = {
        "laughs": laughs,
        "laughs in place": laughs + start + "*a11\n",
        "merged": "a: &a {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1 if n else ''}, *a]}}\n" for n in range(30)),
        "itself": "model: &a [*a]\n",
        "deep": "[" * DEPTH + "]" * DEPTH,
        "deep mappings": "{a: " * DEPTH,
        "long": "a: [" + "x, " * 10**7 + "]",
        "object": "!!python/object/apply:os.system ['touch made']",
        "date": "model: 2001-99-99",
        "number": "model: " + "9" * 10**5,
        "sexagesimal": "model: " + "1:" * 10**5 + "1",
        "binary": "model: !!binary aaa",
        "key": "? [a, b]\n: c",
        "directive": "%YAML 9.9\n---\na: b",
    }
    attacks = []
    for name, text in texts.items():
        path = scene.folder / f"{name}.yaml"
        path.write_text(text)
        read = lambda path: imported(checkpoint, path)  # noqa: E731
        attacks.append(Attack(f"yaml {name}", path, read))
    return attacks
