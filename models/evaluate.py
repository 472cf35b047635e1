"""Rules ``metrics`` and ``table``: one row per test slice and method, then means per method."""

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from models import metrics, reconstruct
from models.dataset import Scales, subject_of
from pipeline import hdf5, shards
from pipeline.errors import InputError

COLUMNS = (
    "subject",
    "rotation",
    "rotation_deg",
    "slice_index",
    "method",
    "checkpoint",  # sha256 of the weights
    "sampler",
    "samples",  # of which the image is the mean
    "seed",
    "psnr_osem_db",
    "ssim_osem",
    "nrmse_osem",
    "psnr_truth_db",
    "ssim_truth",
    "nrmse_truth",
    "gm_mean",  # grey matter, activity units
    "wm_mean",  # white matter, activity units
    "gm_error",  # minus the mean of the noise-free truth, activity units
    "wm_error",
    "contrast_recovery",
)

SUMMARISED = COLUMNS[COLUMNS.index("psnr_osem_db") :]

CAPTION = """\
Mean ± standard deviation over test slices. PSNR, SSIM (Gaussian window, sigma 1.5 pixels, 11 x 11)
and NRMSE (Euclidean) of whole images, unmasked, divided by the largest activity of the training
references, with a data range of 1; against the OSEM reference ("osem") and against the noise-free
truth ("truth"). FBP is compared as it is, negative values included. Grey and white matter (gm, wm)
are means over BrainWeb classes 2 and 3, in activity units; errors are against the truth's means.
Contrast recovery, (GM/WM - 1) over that of the truth, is left out where the truth's is below 0.5.
"""

PAGE = """\
<!doctype html>
<meta charset="utf-8">
<style>
body {{ font: 15px/1.5 sans-serif; margin: 1em; max-width: 60em; }}
th, td {{ padding: 0.2em 0.8em; text-align: right; white-space: nowrap; }}
</style>
<p>{caption}</p>
{cells}
"""


def evaluate(
    shard_paths: Sequence[Path],
    reconstructions: Mapping[str, Sequence[Path]],
    scales: Scales,
    output_csv: Path,
) -> None:
    """Compare every method, FBP and OSEM with the OSEM reference and the noise-free truth.

    FBP and OSEM of the shard are rows of their own; OSEM's comparison with itself stays empty.

    Parameters
    ----------
    shard_paths : sequence of path
        Test shards.
    reconstructions : mapping of method to sequence of path
        For each method one file of `models.reconstruct` per shard, in any order.
    scales : Scales
        Of the training split.
    output_csv : Path
        Columns as `COLUMNS`; empty where a number does not exist.

    Raises
    ------
    InputError
        If a file is unreadable, a subject has no reconstruction, or one was made of other slices
        or with other scales.
    """
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        found = {
            method: _by_subject([stack.enter_context(reconstruct.opened(p)) for p in paths])
            for method, paths in reconstructions.items()
        }
        for path in shard_paths:
            shard = stack.enter_context(shards.opened(path))
            files = {method: _matching(shard, method, found[method], scales) for method in found}
            for row in range(len(shard["slice_index"])):
                rows.extend(_rows_of_slice(shard, files, row, scales))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    with hdf5.atomic(output_csv) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def _by_subject(files: Sequence[h5py.File]) -> dict[str, h5py.File]:
    return {subject_of(file): file for file in files}


def _matching(
    shard: h5py.File, method: str, files: Mapping[str, h5py.File], scales: Scales
) -> h5py.File:
    subject = subject_of(shard)
    if subject not in files:
        raise InputError(
            shard.filename, f"has no reconstruction by {method}", "run rule 'reconstruct' on it"
        )
    file = files[subject]
    same_slices = all(
        np.array_equal(shard[name][()], file[name][()]) for name in ("rotation", "slice_index")
    )
    if not same_slices or float(file.attrs["activity_scale"]) != scales.activity:
        raise InputError(
            file.filename,
            f"was made of other slices or with another scale than {shard.filename}",
            "delete it and run rule 'reconstruct' again",
        )
    return file


def _rows_of_slice(
    shard: h5py.File, files: Mapping[str, h5py.File], row: int, scales: Scales
) -> Iterator[dict[str, Any]]:
    osem, fbp, truth, labels = (
        hdf5.finite(shard[name], row) for name in ("osem", "fbp", "activity", "labels")
    )
    identity = {
        "subject": subject_of(shard),
        "rotation": int(shard["rotation"][row]),
        "rotation_deg": float(shard["rotation_deg"][row]),
        "slice_index": int(shard["slice_index"][row]),
    }
    true_means = metrics.tissue_means(truth, labels)
    yield {
        **identity,
        "method": "FBP",
        **_quality(fbp, osem, "osem", scales),
        **_quality(fbp, truth, "truth", scales),
        **_activity(fbp, labels, true_means),
    }
    yield {
        **identity,
        "method": "OSEM",
        **_quality(osem, truth, "truth", scales),
        **_activity(osem, labels, true_means),
    }
    for method, file in files.items():
        image = hdf5.finite(file["image"], row)
        yield {
            **identity,
            "method": method,
            "checkpoint": file.attrs["weights_sha256"],
            "sampler": file.attrs["sampler"],
            "samples": file.attrs["samples"],
            "seed": file.attrs["seed"],
            **_quality(image, osem, "osem", scales),
            **_quality(image, truth, "truth", scales),
            **_activity(image, labels, true_means),
        }


def _quality(
    image: np.ndarray, reference: np.ndarray, name: str, scales: Scales
) -> dict[str, float]:
    x, y = _normalised(image, scales), _normalised(reference, scales)
    return {
        f"psnr_{name}_db": float(metrics.psnr_db(x, y)),
        f"ssim_{name}": float(metrics.ssim(x, y)),
        f"nrmse_{name}": float(metrics.nrmse(x, y)),
    }


def _normalised(image: np.ndarray, scales: Scales) -> Tensor:
    """(y, x) in activity units -> (1, 1, y, x) in [0, 1] units."""
    return torch.from_numpy(image / np.float32(scales.activity))[None, None]


def _activity(
    image: np.ndarray, labels: np.ndarray, true_means: tuple[float, float]
) -> dict[str, float]:
    grey, white = metrics.tissue_means(image, labels)
    return {
        "gm_mean": grey,
        "wm_mean": white,
        "gm_error": grey - true_means[0],
        "wm_error": white - true_means[1],
        "contrast_recovery": metrics.contrast_recovery((grey, white), true_means),
    }


def summarise(
    metrics_csv: Path, output_csv: Path, output_markdown: Path, output_html: Path
) -> None:
    """Average the table of `evaluate` per method.

    Parameters
    ----------
    metrics_csv : Path
        From `evaluate`.
    output_csv : Path
        One row a method: number of slices, then mean and standard deviation of each metric.
    output_markdown, output_html : Path
        The same to read, with units, data range and mask.
    """
    table = pd.read_csv(metrics_csv, dtype={"subject": str})
    groups = table.groupby("method", sort=False)[list(SUMMARISED)]
    mean, deviation, slices = groups.mean(), groups.std(), groups.size()
    both = {"slices": slices}
    for column in SUMMARISED:
        both[f"{column}_mean"], both[f"{column}_sd"] = mean[column], deviation[column]
    header = ["method", "slices", *SUMMARISED]
    rows = [
        [method, str(slices[method])]
        + [_cell(mean.at[method, column], deviation.at[method, column]) for column in SUMMARISED]
        for method in mean.index
    ]
    with hdf5.atomic(output_csv) as temporary:
        pd.DataFrame(both).to_csv(temporary, float_format="%.6g", lineterminator="\n")
    with hdf5.atomic(output_markdown) as temporary:
        temporary.write_text(_markdown(header, rows))
    with hdf5.atomic(output_html) as temporary:
        # Metrics down, methods across: that fits on a screen.
        cells = pd.DataFrame(rows, columns=header).set_index("method").T.to_html(border=0)
        temporary.write_text(PAGE.format(caption=html.escape(CAPTION), cells=cells))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return CAPTION + "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cell(mean: float, deviation: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.4g}" if np.isnan(deviation) else f"{mean:.4g} ± {deviation:.2g}"
