"""The files that ascend310_infer writes, written by hand. Nothing here imports the project."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEADER = "image,file,height,width,image_height,image_width"
RUN = {
    "model": "/models/small.onnx",
    "backend": "openvino",
    "precision": "float32",
    "batch_size": 1,
    "resize": "upper_bound 384",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "device": "CPU",
}

Saved = tuple[str, np.ndarray, tuple[int, int]]
"""(image below the data's folder, its prediction float32 [h, w], (height, width) of the image)"""


def write_saved(folder: Path, predictions: Sequence[Saved], **run: Any) -> Path:
    """result_Files/<dataset>: run.json, predictions.csv and a .bin for each image."""
    rows = [HEADER]
    for image, prediction, size in predictions:
        file = f"{image.rpartition('.')[0]}.bin"
        write_bin(folder / file, prediction)
        rows.append(",".join(map(str, (quoted(image), quoted(file), *prediction.shape, *size))))
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{row}\n" for row in rows)
    (folder / "predictions.csv").write_bytes(text.encode(errors="surrogateescape"))
    write_run(folder, run)
    return folder


def write_run(folder: Path, values: Mapping[str, Any]) -> None:
    (folder / "run.json").write_text(json.dumps(RUN | dict(values)))


def write_bin(path: Path, prediction: np.ndarray) -> None:
    """Row after row, each value as its four little-endian bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(struct.pack("<f", value) for row in prediction for value in row))


def quoted(text: str) -> str:
    """As RFC 4180 wants it."""
    doubled = text.replace('"', '""')
    return f'"{doubled}"' if set(text) & set(',"\r\n') else text
