"""Run folders made by hand, and their pages taken apart."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from taming_cli.config.codec import CodecConfig, DiscriminatorConfig
from taming_cli.config.codec_training import CodecTrainConfig
from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.data.images import grid, write_png
from taming_cli.report.page import write_report
from taming_cli.runtime.checkpoint import ModelFile, save_model
from taming_cli.runtime.run.sheets import Layout, stamp

VOID = {"img", "meta"}


class Tree(HTMLParser):
    """The page as a browser would take it apart: elements with their attributes, and the text; tags must balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + "\n"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(folder: Path) -> Tree:
    return Tree(write_report(folder).read_text(encoding="utf-8"))


def make_run(folder: Path, command: str, lines: list[dict[str, Any]], **about: Any) -> Path:
    groups = (
        {
            "codec": CodecConfig(),
            "discriminator": DiscriminatorConfig(),
            "train": CodecTrainConfig(steps=100, minutes=0),
        }
        if command == "train-vqgan"
        else {"prior": PriorConfig(), "train": PriorTrainConfig(steps=100, minutes=0)}
    )
    config = {name: to_dict(group) for name, group in groups.items()}
    settings = {"command": command, "inputs": ["/pictures"], "config": config, "origins": {"steps": "flag"}}
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "env.json").write_text(json.dumps({"torch": "2.8", "cuda": [], "command_line": ["taming", "a b"]}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if about:
        model = ModelFile(format="taming-x", config={}, about=about, tensors={"x": torch.zeros(1)})
        save_model(folder / "checkpoints" / "last.safetensors", model)
        save_model(folder / "checkpoints" / "best.safetensors", model)
    return folder


def line(kind: str, step: int, **values: float) -> dict[str, Any]:
    return {"kind": kind, "step": step, "images": 8 * step, "seconds": 2.0 * step, **values}


def codec_lines() -> list[dict[str, Any]]:
    lines = [
        line("train", n, l1=1 / n, codebook_perplexity=n, discriminator=1.0, generator=0.5) for n in range(10, 101, 10)
    ]
    figures = [{"psnr": 10 + n / 10, "l1": 1 / n, "codes_used": n / 200, "count": 7} for n in (20, 60, 100)]
    return lines + [line("validation", n, **values) for n, values in zip((20, 60, 100), figures, strict=True)]


def draw_sheet(path: Path, width: int = 16, height: int = 6) -> bytes:
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


def draw_samples(path: Path, labels: tuple[str, ...] = (), *, side: int = 8, count: int = 5, seed: int = 0) -> Tensor:
    """A sheet of `count` pictures in two columns, as a training writes it; returns the pictures."""
    pictures = torch.randint(0, 256, (count, 3, side, side), generator=torch.manual_seed(seed), dtype=torch.uint8)
    write_png(path, grid(pictures, columns=2), stamp(Layout(2, count, labels)))
    return pictures


def seen(tree: Tree) -> list[np.ndarray]:
    """The pictures on a page, in order, (H, W, 3)."""
    data = [base64.b64decode((img["src"] or "").removeprefix("data:image/png;base64,")) for img in tree.all("img")]
    return [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in data]


def assert_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tree = Tree(text)
    assert not {"script", "link", "iframe", "object", "use", "image"} & {name for name, _ in tree.elements}
    for _, attributes in tree.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
