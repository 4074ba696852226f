"""For `scripts/fashion-mnist`: write the pictures as PNGs in class folders, and evaluate samples with a classifier.

The classifier is a small convolutional network that is trained here on the real training pictures only.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


def read(data: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """`train` or `t10k` -> pictures (N, 28, 28) uint8, labels (N,) uint8, from the IDX files."""
    images = gzip.decompress((data / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((data / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def write_pictures(data: Path, out: Path) -> None:
    """The training pictures as `out/<class>/<number>.png`, padded with black to 32 x 32."""
    images, labels = read(data, "train")
    for name in NAMES:
        (out / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = out / NAMES[label] / f"{number:05d}.png"
        if not path.exists():
            Image.fromarray(np.pad(image, 2)).save(path)


def classifier() -> nn.Module:
    """(B, 1, 28, 28) in [0, 1] -> logits (B, 10)."""
    layers: list[nn.Module] = []
    for inside, outside in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 9, 10))


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 4) -> None:
    """Adam, one cycle, random mirroring."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = epochs * (len(x) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x))[: len(x) // 128 * 128].view(-1, 128):
            batch = x[index] if torch.rand(()) < 0.5 else x[index].flip(-1)
            loss = F.cross_entropy(model(batch), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    model.eval()


def load(folder: Path, most: int = 10**9) -> Tensor:
    """The PNGs NNNNNN.png of a folder, without the padding: (N, 1, 28, 28) in [0, 1]."""
    paths = sorted(path for path in folder.glob("*.png") if path.stem.isdecimal())[:most]
    return (
        torch.stack([torch.from_numpy(np.asarray(Image.open(p).convert("L"))[2:30, 2:30].copy()) for p in paths])[
            :, None
        ].float()
        / 255
    )


def mean_distance(x: Tensor) -> float:
    """The mean Euclidean distance between two different pictures of `x`."""
    distances = torch.cdist(x.flatten(1), x.flatten(1))
    return (distances.sum() / (len(x) * (len(x) - 1))).item()


@torch.no_grad()
def evaluate(data: Path, samples: Path) -> dict[str, object]:
    """The share of samples in which the classifier recognizes the requested class, and the variety of each class
    relative to that of the real pictures. Also writes `grid.png`, ten samples per class."""
    images, labels = read(data, "train")
    x, y = torch.from_numpy(images.copy())[:, None].float() / 255, torch.from_numpy(labels.astype(np.int64))
    model = classifier()
    with torch.enable_grad():
        train(model, x, y)
    held, truth = read(data, "t10k")
    tested = model(torch.from_numpy(held.copy())[:, None].float() / 255).argmax(1).numpy()
    agreement, variety = {}, {}
    sheet = []
    for label, name in enumerate(NAMES):
        drawn = load(samples / name)
        agreement[name] = (model(drawn).argmax(1) == label).float().mean().item()
        variety[name] = mean_distance(drawn) / mean_distance(x[y == label][: len(drawn)])
        sheet.append(torch.cat(list(drawn[:10, 0]), dim=1))
    Image.fromarray((torch.cat(sheet) * 255).byte().numpy()).resize((840, 840), Image.Resampling.NEAREST).save(
        samples / "grid.png"
    )
    return {
        "classifier_test_accuracy": float((tested == truth).mean()),
        "agreement": sum(agreement.values()) / len(NAMES),
        "variety": sum(variety.values()) / len(NAMES),
        "agreement_by_class": agreement,
        "variety_by_class": variety,
        "grid": str(samples / "grid.png"),
    }


if __name__ == "__main__":
    verb, data, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if verb == "pictures":
        write_pictures(data, target)
    else:
        print(json.dumps(evaluate(data, target), indent=2))
