"""The input pipeline of MiDaS' users: OpenCV and NumPy transforms under a PyTorch DataLoader.

    python -m tests.benchmarks.torch_pipeline FOLDER

answers what tests/benchmarks/input_pipeline.py asks: what it takes to load images of FOLDER.

Written as the transforms of MiDaS are described: images are RGB / 255 in float64, the resize is
bicubic for the image and nearest for target and mask, the normalisation is NumPy's, and the last
step makes float32 [3, H, W] arrays. Crops and flips are this project's own, box for box.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from src.data import transforms
from tests.benchmarks.photo_pairs import files_of
from tests.benchmarks.usage import answer, used

SIZE, BATCH = 384, 8
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
Sample = dict[str, np.ndarray]


class RandomCrop:
    """The box of this project's samples."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        box = transforms.random_crop(*sample["disparity"].shape, 1.0, 0.5, rng)
        return {name: transforms.crop(values, box) for name, values in sample.items()}


class Resize:
    """To the network's size: bicubic for the image, nearest for target and mask."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        size = (SIZE, SIZE)
        image = cv2.resize(sample["image"], size, interpolation=cv2.INTER_CUBIC)
        disparity = cv2.resize(sample["disparity"], size, interpolation=cv2.INTER_NEAREST)
        mask = sample["mask"].astype(np.float32)
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(bool)
        return {"image": image, "disparity": disparity, "mask": mask}


class RandomFlip:
    """That of this project's samples; after the resize, which would have to copy a flipped view."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        columns = slice(None, None, -1 if rng.random() < 0.5 else 1)
        return {name: values[:, columns] for name, values in sample.items()}


class NormalizeImage:
    """By mean and deviation of ImageNet."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample | {"image": (sample["image"] - MEAN) / STD}


class PrepareForNet:
    """float32, the image as [3, H, W]."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = np.transpose(sample["image"], (2, 0, 1))
        return {
            name: np.ascontiguousarray(values).astype(np.float32)
            for name, values in (sample | {"image": image}).items()
        }


class Pairs(Dataset):
    """Photographs and 8-bit disparities; item i of pass p is sample i + p * (number of pairs)."""

    steps: Sequence[Callable[[Sample, np.random.Generator], Sample]] = (
        *(RandomCrop(), Resize(), RandomFlip()),
        *(NormalizeImage(), PrepareForNet()),
    )

    def __init__(self, files: Sequence[tuple[Path, Path]], length: int) -> None:
        self.files = files
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> Sample:
        turn, index = divmod(place, len(self.files))
        sample = read(*self.files[index])
        rng = np.random.default_rng((0, turn, index))
        for step in self.steps:
            sample = step(sample, rng)
        return sample


def read(image_file: Path, target_file: Path) -> Sample:
    """A photograph and its disparity as float64 in [0, 1]."""
    image = cv2.cvtColor(cv2.imread(str(image_file)), cv2.COLOR_BGR2RGB) / 255.0
    disparity = cv2.imread(str(target_file), cv2.IMREAD_ANYDEPTH).astype(np.float64)
    low, high = disparity.min(), disparity.max()
    return {
        "image": image,
        "disparity": (disparity - low) / (high - low),
        "mask": np.isfinite(disparity),
    }


def main() -> None:
    files = files_of(Path(sys.argv[1]))

    def run(workers: int, images: int) -> dict[str, float]:
        loader = DataLoader(Pairs(files, images), BATCH, num_workers=workers)
        with used(images) as figures:
            for batch in loader:
                assert batch["image"].shape[1:] == (3, SIZE, SIZE)
        return figures

    def split(images: int) -> dict[str, float]:
        spent: Counter[str] = Counter()
        for place in range(images):
            start = time.thread_time()
            sample = read(*files[place % len(files)])
            spent["read, to float64"] += time.thread_time() - start
            rng = np.random.default_rng((0, *divmod(place, len(files))))
            for step in Pairs.steps:
                start = time.thread_time()
                sample = step(sample, rng)
                spent[type(step).__name__] += time.thread_time() - start
        return {name: seconds * 1000 / images for name, seconds in spent.items()}

    answer({"run": run, "split": split})


if __name__ == "__main__":
    main()
