"""Rule ``sweep``: a model's quality on some slices, by checkpoint, guidance or sampler."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.evaluation.measure import measure, origin_of, tidy
from models.evaluation.metrics_table import write_table
from models.evaluation.slices import Slices
from models.reconstruct import Reconstructor
from models.settings import Settings, Sweep
from pipeline.storage import hdf5
from pipeline.storage.kinds import SHARD


def sweep(
    weights: Sequence[Path],
    shard_paths: Sequence[Path],
    output: Path,
    settings: Settings,
    varied: Sweep,
    features: Path | None,
    threads: int,
) -> None:
    """Reconstruct the same slices with every checkpoint and under every condition.

    Parameters
    ----------
    weights : sequence of path
        Checkpoints of one model.
    shard_paths : sequence of path
        Subjects.
    output : Path
        CSV, columns as `models.evaluation.metrics_table.COLUMNS`: the metrics of whole images
        against both references, and ``reconstruction_seconds``, the mean time per slice.
    settings : Settings
    varied : Sweep
        How many slices of each subject, and what replaces the settings' sampling.
    features : Path or None
        Weights of the model whose features this one was trained with.
    threads : int
        CPU cores that may be used.

    Raises
    ------
    InputError
        If a file is missing, damaged, or not of this configuration.
    """
    tables = []
    for path in weights:
        model = Reconstructor(path, features, settings, threads)
        for changes in varied.sampling:
            sampling = replace(settings.sampling, **changes)
            for shard_path in shard_paths:
                slices = model.slices([shard_path])
                chosen = slices.evenly_spaced(varied.slices)
                start = time.perf_counter()
                images = model.samples(slices, chosen, sampling).mean(axis=1)
                seconds = (time.perf_counter() - start) / len(chosen)
                with hdf5.opened(shard_path, SHARD) as shard:
                    found = Slices.read(shard, np.array(chosen))
                values = measure(images, found, model.metadata.scales, regions=("image",))
                values["reconstruction_seconds", "", ""] = np.full(len(chosen), seconds)
                facts = model.facts(sampling)
                estimate = "mean" if facts["samples"] > 1 else "single"
                tables.append(tidy(found, origin_of(facts, estimate), values))
    write_table(tables, output)
