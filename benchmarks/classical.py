"""Filtered OSEM and MAP at every dose, against the noise-free truth of one subject.

    python -m benchmarks.classical --name NAME --doses 1 0.2 0.05 0.02 [--range 128]

Reads what a run of the workflow called NAME has left in this folder: the settings that were chosen,
the subject's shards, and its images by rule ``classical``. PSNR and SSIM are means over all slices,
of whole images over the range, as `models.metrics` computes them; without ``--range`` it is the
truth's largest activity, with which the settings were chosen. "When chosen" is over the slices that
they were chosen by.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from models.metrics import psnr_db, ssim
from pipeline.baselines import MAP, OSEM_FILTER, title_of
from pipeline.classical import CHOSEN
from pipeline.jobs import doses
from pipeline.storage import hdf5
from pipeline.storage.kinds import RECONSTRUCTION, SHARD

CHOICE = {OSEM_FILTER: "{iterations} iterations, {fwhm_mm:g} mm", MAP: "beta {beta:.3f}"}
HEADER = """| dose | image | chosen | PSNR dB, when chosen | PSNR dB | SSIM |
|---|---|---|---|---|---|"""


def rows(
    name: str, subject: str, parts: Sequence[float], activity_range: float | None
) -> Iterator[str]:
    """Lines of the table, dose by dose."""
    results = Path("results") / name
    for part in parts:
        of = doses.folder(part)
        settings = json.loads(
            (results / f"{of}classical_settings.json").read_text(encoding="utf-8")
        )
        truth = _images(Path("data") / name / f"shards/{of}{subject}.h5", SHARD, "activity")
        for method, text in CHOICE.items():
            path = results / f"reconstructions/{method}/{of}{subject}.h5"
            images = _images(path, RECONSTRUCTION, "image")
            largest = activity_range or settings["range"]
            pair = [_normalised(each, largest) for each in (images, truth)]
            chosen = text.format(**settings[method][CHOSEN])
            if settings[method]["at_end"]:
                chosen += ", at an end"
            db, similarity = (float(metric(*pair).mean()) for metric in (psnr_db, ssim))
            then = settings[method]["psnr_db"] + 20 * np.log10(largest / settings["range"])
            yield (
                f"| {part:.0%} | {title_of(method)} | {chosen} | {then:.2f} | {db:.2f} "
                f"| {similarity:.3f} |"
            )


def _images(path: Path, kind: hdf5.Kind, name: str) -> np.ndarray:
    with hdf5.opened(path, kind) as file:
        return hdf5.finite(file[name])


def _normalised(images: np.ndarray, largest: float) -> torch.Tensor:
    return torch.from_numpy(images / np.float32(largest))[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--subject", default="subject18")
    parser.add_argument("--doses", nargs="+", type=float, default=[1.0])
    parser.add_argument("--range", type=float, help="activity that is 1 in PSNR and SSIM")
    options = parser.parse_args()
    print(HEADER)
    for line in rows(options.name, options.subject, options.doses, options.range):
        print(line, flush=True)


if __name__ == "__main__":
    main()
