"""Names of files, classes and members that would control a terminal, or become elements of a report."""

import json
import os
import shutil
import tarfile
import zipfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from examples import captured

from attacks import Attack, Scene
from taming_cli.report.page import write_report
from taming_cli.runtime.checkpoint import load_model, save_model

CONTROLS = {
    *map(chr, (*range(10), *range(11, 32), *range(127, 160))),
    *"\u061c\u200e\u200f\u2028\u2029",
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
}
"""What no output may contain: control characters but the newline, and marks of direction."""
FORGED = "forged line"
TERMINAL = {
    "colours": "\x1b[31;5m",
    "title": "\x1b]0;title\x07",
    "clear": "\x1b[2J\x1b[H",
    "paste": "\x1b]52;c;ZXZpbA==\x07",
    "c1": "\x9b2J",
    "newline": f"\n{FORGED}\n",
    "return": f"\r{FORGED}",
    "direction": "\u202egnp.",
    "bytes": os.fsdecode(b"\xff\x9b\xfe"),
    "delete": "\x7f\x08\x08",
}
MARKUP = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)',
    "single": "' onfocus='alert(1)' autofocus='",
    "style": "</style><script>1</script>",
    "title": "</title><script>1</script>",
    "svg": "</svg><script>1</script><svg>",
    "comment": "--><script>1</script><!--",
    "template": "{{ 7 * 7 }}{% raw %}",
    "entity": "&lt;script&gt;&#x3c;b&#x3e;",
    "link": "javascript:alert(1)",
    "null": "<scr\u2028ipt>",
}


def terminal(scene: Scene) -> list[Attack]:
    """Each name as that of pictures, folders, members, classes, settings and options."""
    attacks: list[Attack] = []
    for kind, evil in TERMINAL.items():
        folder = scene.folder / f"{kind}-{evil}"
        folder.mkdir()
        bad = folder / f"{evil}bad.png"
        bad.write_bytes(b"no picture")
        shutil.copy(next(scene.material.pictures.rglob("*.png")), folder / f"{evil}good.png")
        (folder / f"other.{evil}").write_text("other")
        models = scene.folder / f"models-{kind}-{_encodable(evil)}"  # safetensors opens no path that is not UTF-8
        models.mkdir()
        codec, prior = models / "vq.safetensors", models / "prior.safetensors"
        shutil.copy(scene.material.codec, codec)
        model = load_model(scene.material.prior)
        about = {**model.about, "label_names": [_encodable(evil), "b"], "note": _encodable(evil)}
        save_model(prior, type(model)(format=model.format, config=model.config, about=about, tensors=model.tensors))
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            archive.writestr(f"{_encodable(evil)}bad.png", b"no picture")
            archive.write(folder / f"{evil}good.png", f"{_encodable(evil)}good.png")
        with tarfile.open(folder / "a.tar", "w") as tar:
            tar.add(bad, bad.name)
            tar.add(folder / f"{evil}good.png", f"{evil}good.png")
        (folder / f"{evil}.toml").write_text(f'"a\\u001b[2J" = 1\nsteps = "{_toml(evil)}"\n')
        commands: list[list[Any]] = [
            ["reconstruct", folder, scene.folder / f"out-{kind}-{evil}", "--ckpt", codec, "--device", "cpu"],
            ["tokenize", folder, "--ckpt", codec, "-o", folder / f"{evil}.h5", "--device", "cpu"],
            ["tokenize", folder / "a.zip", "--ckpt", codec, "-o", folder / "zip.h5", "--device", "cpu"],
            ["tokenize", folder / "a.tar", "--ckpt", codec, "-o", folder / "tar.h5", "--device", "cpu"],
            ["tokens", "verify", folder / f"{evil}.h5"],
            ["info", folder / f"{evil}.h5"],
            ["info", prior],
            ["info", folder / f"{evil}gone.ckpt"],
            ["sample", "--ckpt", prior, "--class", evil, "-o", folder / "out", "--device", "cpu"],
            ["train-vqgan", folder, "--config", folder / f"{evil}.toml", "-o", folder / "run"],
            ["train-vqgan", bad, "--steps", "1", "-o", folder / f"{evil}run", "--perceptual", "none"],
            ["import", bad],
            ["report", folder],
            ["tokenise" + evil],
            ["info", f"--{evil}"],
        ]
        for arguments in commands:
            more = ([], ["--json"], ["-q"])[len(attacks) % 3]
            name = " ".join([f"{kind}:", str(arguments[0]), *more])
            attacks.append(Attack(name, bad, _printed([*arguments, *more]), may_be_read=True))
    attacks[0] = attacks[0]._replace(warm=_warm(scene))
    return attacks


def _warm(scene: Scene) -> Any:
    def warm() -> object:
        out = scene.folder / "warm"
        captured("reconstruct", scene.material.pictures, out, "--ckpt", scene.material.codec, "--device", "cpu", "-q")
        captured("sample", "--ckpt", scene.material.prior, "-o", out / "out", "--device", "cpu", "-q")
        captured("train-vqgan", scene.material.pictures, "--dry-run", "--steps", "1", "--perceptual", "none")
        return captured(
            "tokenize", scene.material.pictures, "--ckpt", scene.material.codec, "-o", out / "warm.h5", "-q"
        )

    return warm


def _printed(arguments: list[Any]) -> Any:
    def read(path: Path) -> str:
        code, out, err = captured(*arguments)
        text = out + err
        if found := CONTROLS & set(text) or any("\ud800" <= each <= "\udfff" for each in text):
            raise ValueError(f"printed {found!r}: {text!r}")
        if any(line.startswith(FORGED) for line in text.splitlines()):
            raise ValueError(f"printed a forged line: {text!r}")
        if code not in (0, 1, 2, 3) or "defect of taming" in text or "Traceback" in text:
            raise ValueError(f"exit code {code}: {text}")
        return text

    return read


def _encodable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _toml(name: str) -> str:
    return "".join(f"\\u{ord(each):04x}" for each in _encodable(name))


class Structure(HTMLParser):
    """The elements of a page, with the names of their attributes, and the attributes that link somewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, ...]] = Counter()
        self.links: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count an element."""
        self.elements[tag, *(name for name, _ in attrs)] += 1
        self.links |= {value or "" for name, value in attrs if name in ("src", "href", "action", "formaction")}


def report(scene: Scene) -> list[Attack]:
    """Each name in all texts of a run's files: its report has the elements of that of a plain name."""
    plain = Structure(_page(scene, "plain", "name"))

    def read(evil: str, kind: str) -> Any:
        def structure(path: Path) -> str:
            page = write_report(path).read_text(encoding="utf-8")
            found = Structure(page)
            if found.elements != plain.elements:
                raise ValueError(f"other elements: {found.elements - plain.elements} {plain.elements - found.elements}")
            if any(not link.startswith("data:image/png;base64,") for link in found.links):
                raise ValueError(f"a link: {sorted(link[:50] for link in found.links)}")
            return ""

        return structure

    attacks = []
    for kind, evil in {**MARKUP, **{kind: _encodable(evil) for kind, evil in TERMINAL.items()}}.items():
        _page(scene, f"{kind} {evil}".replace("/", "\u2215"), evil)
        path = scene.folder / f"{kind} {evil}".replace("/", "\u2215")
        attacks.append(Attack(kind, path, read(evil, kind), may_be_read=True))
    return attacks


def _page(scene: Scene, name: str, text: str) -> str:
    """The report of a run whose files hold a text wherever a name may be."""
    run = scene.folder / name
    shutil.copytree(scene.material.prior_run, run)
    settings = json.loads((run / "config.json").read_text())
    settings["inputs"] = [text, text]
    settings["origins"] = dict.fromkeys(settings["origins"], text)
    settings["config"]["train"] |= {text: text, "init": text}
    (run / "config.json").write_text(json.dumps(settings))
    (run / "env.json").write_text(json.dumps({"torch": text, f"a {text}": text, "command_line": ["taming", text]}))
    by_class = {"metric": text, "value": 3, "details": {"by_class": {text: 1.0}}, "warnings": [text]}
    (run / "eval.json").write_text(json.dumps({text: by_class | {"protocol": {text: {"count": 3}}}}))
    with (run / "metrics.jsonl").open("a") as log:
        for kind in ("train", "validation"):
            for step in (5, 6):
                log.write(
                    json.dumps({"kind": kind, "step": step, "images": 9, "seconds": 1.0, text: 2.0 + step}) + "\n"
                )
    for each in ("last", "best"):
        path = run / "checkpoints" / f"{each}.safetensors"
        model = load_model(path)
        about = {**model.about, "label_names": [_encodable(text)] * 2, "label_counts": [1, 2]}
        save_model(path, type(model)(format=model.format, config=model.config, about=about, tensors=model.tensors))
    (run / "eval").mkdir()
    shutil.copy(next((run / "samples").glob("*.png")), run / "eval" / f"{text}.png".replace("/", "\u2215"))
    return write_report(run).read_text(encoding="utf-8")
