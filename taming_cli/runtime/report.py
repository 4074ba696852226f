"""`report.html` of a run: curves, pictures, figures, settings and what to do next, in one self-contained page."""

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from taming_cli.config.codec import CodecConfig, CodecTrainConfig, CriticConfig
from taming_cli.config.fields import to_dict
from taming_cli.config.prior import PriorConfig, PriorTrainConfig
from taming_cli.runtime.charts import number
from taming_cli.runtime.checkpoint import write_atomically
from taming_cli.runtime.curves import SHARES, curves
from taming_cli.runtime.measured import measured
from taming_cli.runtime.page import Html, definitions, el, image, join, page, section, table
from taming_cli.runtime.record import RunRecord, Sheet, is_number, read_run

EARLIER = 5
"""Sheets shown besides the newest, at most, and the bytes they may have together."""
EARLIER_BYTES = 3 * 2**20

CONFIGS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "train-vqgan": {"codec": CodecConfig, "critic": CriticConfig, "train": CodecTrainConfig},
    "train-prior": {"prior": PriorConfig, "train": PriorTrainConfig},
}
NOUNS = {"train-vqgan": "Codec", "train-prior": "Prior"}


FIGURES: Mapping[str, tuple[str, str]] = {
    "val_nats_per_token": ("Negative log-likelihood", "nats/token"),
    "bits_per_dim": ("The same, of the codes only", "bits/dim"),
    "psnr": ("PSNR", "dB"),
    "accuracy": ("Right labels", "%"),
    "cross_entropy": ("Cross-entropy", "nats/pixel"),
    "perceptual": ("Perceptual distance", "distance"),
    "codes_used": ("Codes in use", "%"),
    "codebook_perplexity": ("Codebook perplexity", "codes"),
    "l1": ("L1", "of 2"),
    "count": ("Held-out pictures", "pictures"),
    "windows": ("Held-out windows", "windows"),
}
HEADLINE = ("val_nats_per_token", "bits_per_dim", "psnr", "accuracy", "perceptual", "codes_used", "codebook_perplexity")


def write_report(folder: Path) -> Path:
    """Write `report.html` from what the run folder holds now, atomically. BadFileError where that is no folder."""
    record = read_run(folder)
    text = page(f"{_noun(record)} {record.folder.name}", *sections(record))
    path = folder / "report.html"
    write_atomically(path, lambda temporary: _write(temporary, text))
    return path


def sections(record: RunRecord) -> list[Html | None]:
    """The parts of a run's report, in order; None for those that have nothing to say yet."""
    return [
        head(record),
        pictures(record),
        curves(record),
        section("Held-out figures", figures(record)),
        measured(record),
        section("Going on", commands(record)),
        section("Data", data(record)),
        section("Settings", settings(record)),
        section("Environment", environment(record)),
    ]


def head(record: RunRecord) -> Html:
    """What this is, how far it is, and its figures in large."""
    newest, spent = record.newest, record.spent()
    said = []
    if newest:
        said += [
            f"{newest['step']:,} steps",
            f"{newest.get('images', 0):,} images",
            _duration(newest.get("seconds", 0)),
        ]
        if spent is not None:
            said.append("finished" if spent >= 1 else f"{100 * spent:.0f} % of the training")
        when = datetime.fromtimestamp((record.folder / "metrics.jsonl").stat().st_mtime).astimezone()
        said.append(f"as of {when:%Y-%m-%d %H:%M %Z}")
    shown = [
        key for key in HEADLINE if record.validation and key in (last := _validated(record.validation[-1], record))
    ]
    return join(
        [
            el("p", f"taming {record.command}" if record.command else "taming", class_="eyebrow"),
            el("h1", f"{_noun(record)} {record.folder.name}"),
            el("p", " · ".join(said) or "Nothing is logged yet.", class_="soft"),
            *(el("p", note, class_="notice") for note in record.notes),
            el("div", *(_large(key, last[key]) for key in shown), class_="headline") if shown else None,
        ]
    )


def pictures(record: RunRecord) -> Html | None:
    """The newest sheet large, and earlier ones over time; of a codec's only the lower half, the originals being one."""
    if not record.sheets:
        return None
    newest, codec = record.sheets[-1], record.command == "train-vqgan"
    what = (
        "Held-out pictures above, what the codec makes of them below"
        if codec
        else "Samples at temperature 1, always with the same noise and for the same conditions"
    )
    scale = max(1, 480 // newest.width)
    large = el(
        "figure",
        image(newest.path, f"{what}, step {newest.step}", width=scale * newest.width, height=scale * newest.height),
        el("figcaption", f"{what}. Step {newest.step:,}."),
        class_="sheet",
    )
    past = [_past(sheet, codec) for sheet in earlier(record.sheets)]
    over_time = el("div", *past, class_="bands" if codec else "strip") if past else None
    title = "Reconstructions" if codec else "Samples"
    together = el("div", large, el("h3", "Over time") if past else None, over_time, class_="wide" if codec else None)
    return section(title, el("div", together, class_="scroll pixels" if scale > 1 else "scroll"))


def earlier(sheets: Sequence[Sheet], most: int = EARLIER, limit: int = EARLIER_BYTES) -> list[Sheet]:
    """Sheets before the newest, evenly chosen with the first among them: `most` of `limit` bytes together, at most."""
    older = sheets[:-1]
    for count in range(min(most, len(older)), 0, -1):
        chosen = [older[n * len(older) // count] for n in range(count)]
        if sum(sheet.bytes for sheet in chosen) <= limit:
            return chosen
    return []


def figures(record: RunRecord) -> Html | None:
    """The validations' figures with their units: the first, the one of the best model, the last."""
    if not record.validation:
        return None
    chosen = {"First": record.validation[0]} if len(record.validation) > 1 else {}
    at_best = [line for line in record.validation if line["step"] == record.best_step]
    chosen |= {"Best model": at_best[-1]} if at_best else {}
    chosen["Last"] = record.validation[-1]
    if chosen["Last"] is chosen.get("Best model"):
        del chosen["Best model"]
        chosen = {("Last and best" if title == "Last" else title): line for title, line in chosen.items()}
    columns = [_validated(line, record) for line in chosen.values()]
    heads = ["", *(f"{title}, step {line['step']:,}" for title, line in chosen.items()), "Unit"]
    names = [name for name in FIGURES if name in columns[-1]] + [name for name in columns[-1] if name not in FIGURES]
    rows = []
    for name in names:
        title, unit = FIGURES.get(name, (name, ""))
        cells = [number(column[name]) if name in column else "" for column in columns]
        rows.append([title, *cells, _unit(unit, name, record)])
    return table(heads, rows, class_="figures")


def commands(record: RunRecord) -> Html | None:
    """What to type next, ready to copy."""
    command = record.command
    if command is None or command not in CONFIGS:
        return None
    spent, folder = record.spent(), str(record.folder)
    resume = ["taming", command, "--resume", "--out", folder]
    if spent is not None and spent >= 1:
        budget = record.config["train"]
        longer = [
            word for name in ("steps", "minutes") if budget[name] for word in (f"--{name}", f"{2 * budget[name]:g}")
        ]
        steps = [("Train for twice as long", [*resume, *longer])]
    else:
        steps = [("Go on with this training, should it have been stopped", resume)]
    if record.model is not None:
        name = "best" if record.best is not None else "last"
        ckpt = ["--ckpt", str(record.folder / "checkpoints" / f"{name}.safetensors")]
        if command == "train-vqgan":
            steps += [
                ("See what the codec makes of pictures", ["taming", "reconstruct", *record.inputs, "out/", *ckpt]),
                ("Turn pictures into tokens", ["taming", "tokenize", *record.inputs, *ckpt, "-o", "tokens.h5"]),
                ("Train a prior on them", ["taming", "train-prior", "tokens.h5"]),
                ("Sample new pictures from it", ["taming", "sample", "-n", "16", "--seed", "7"]),
            ]
        else:
            steps.append(("Sample new pictures", ["taming", "sample", "-n", "16", "--seed", "7", *ckpt]))
            steps += [
                ("Of one class", ["taming", "sample", "--class", str(label), "-n", "16", *ckpt])
                for label in record.about.get("label_names", [])[:1]
            ]
    return join(join([el("div", why, class_="soft"), el("pre", shlex.join(words))]) for why, words in steps)


def data(record: RunRecord) -> Html | None:
    """What it was trained on, as the settings and the model file say."""
    about = record.about
    counts = about.get("data", {})
    unit = "samples" if record.command == "train-prior" else "pictures"
    judge = about.get("perceptual") or {}
    labels = [
        f"{name} ({count:,})"
        for name, count in zip(about.get("label_names", []), about.get("label_counts", []), strict=False)
    ]
    more = f", and {len(labels) - 40} more" if len(labels) > 40 else ""
    return definitions(
        [
            ("From", "\n".join(map(str, record.inputs))),
            ("Trained on", f"{counts['train']:,} {unit}" if "train" in counts else None),
            ("Held out", f"{counts['held']:,} {unit}" if "held" in counts else None),
            ("Held out from", record.config.get("train", {}).get("val")),
            ("Size", f"{about['size']} pixels" if "size" in about else None),
            ("Grid", f"{about['grid']} codes" if "grid" in about else None),
            ("Pixels per code", f"{about['downsample_factor']} along a side" if "downsample_factor" in about else None),
            ("Classes", ", ".join(labels[:40]) + more),
            ("sha256 of the data", counts.get("sha256")),
            ("Perceptual network", f"{judge['name']}, sha256 {judge['sha256']}" if "sha256" in judge else None),
        ]
    )


def settings(record: RunRecord) -> Html | None:
    """Each setting with its value and origin: what differs from the default first, the rest folded away."""
    changed: list[tuple[str, ...]] = []
    usual: list[tuple[str, ...]] = []
    for group, values in record.config.items():
        make = CONFIGS.get(record.command or "", {}).get(group)
        defaults = to_dict(make()) if make is not None else {}
        for name, value in values.items():
            row = (
                name,
                _shown(value),
                _shown(defaults[name]) if name in defaults else "",
                record.origins.get(name, ""),
            )
            (usual if name in defaults and defaults[name] == value else changed).append(row)
    heads = ("Setting", "Value", "Default", "Origin")
    rest = table(heads[:2] + heads[3:], [row[:2] + row[3:] for row in usual], class_="settings")
    return join(
        [
            table(heads, changed, class_="settings"),
            el("details", el("summary", f"{len(usual)} settings as by default"), rest) if rest is not None else None,
        ]
    )


def environment(record: RunRecord) -> Html | None:
    """The machine and the versions."""
    values = dict(record.environment)
    line = values.pop("command_line", None)
    shown = [(name, _shown(value)) for name, value in values.items() if value != []]
    return definitions([*shown, ("command line", shlex.join(map(str, line)) if line else None)])


def _validated(line: Mapping[str, Any], record: RunRecord) -> dict[str, float]:
    """A validation line's figures, shares in percent, and bits/dim where the codec's factor f is known.

    A code stands for f x f pixels of 3 values: bits/dim = nats/token / (ln 2 x 3 f^2).
    """
    found = {
        key: line[key] for key in line if key not in ("kind", "step", "images", "seconds") and is_number(line[key])
    }
    factor = record.about.get("downsample_factor")
    if "val_nats_per_token" in found and isinstance(factor, int):
        found["bits_per_dim"] = found["val_nats_per_token"] / (math.log(2) * 3 * factor**2)
    return {key: 100 * value if key in SHARES else value for key, value in found.items()}


def _large(key: str, value: float) -> Html:
    title, unit = FIGURES[key]
    return el("div", el("b", number(value), " ", el("small", unit if unit != "distance" else "")), el("span", title))


def _unit(unit: str, name: str, record: RunRecord) -> str:
    size = record.config.get("codec", {}).get("codebook_size")
    judge = (record.about.get("perceptual") or {}).get("name")
    if name == "perceptual" and judge:
        return f"distance by {judge}"
    if name == "codes_used" and size:
        return f"% of {size:,}"
    return "of 2, mean per value" if name == "l1" else unit


def _past(sheet: Sheet, codec: bool) -> Html:
    caption = el("figcaption", f"Step {sheet.step:,}")
    shown = image(sheet.path, f"Step {sheet.step}", width=sheet.width, height=sheet.height)
    if not codec:
        return el("figure", shown, caption, class_="past")
    half = el("div", shown, class_="band", style=f"aspect-ratio:{sheet.width}/{max(1, (sheet.height - 2) // 2)}")
    return el("figure", half, caption, class_="past")


def _noun(record: RunRecord) -> str:
    return NOUNS.get(record.command or "", "Run")


def _shown(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(one, (list, dict)) for one in value):
        return ", ".join(map(str, value)) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
