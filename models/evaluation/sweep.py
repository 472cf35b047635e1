"""Rule ``sweep``: a model's quality on some slices, by checkpoint, guidance or sampler."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.consistency import Measurements
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
    frozen: Path | None,
    threads: int,
    measured: Measurements | None = None,
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
    frozen : Path or None
        Weights of the other model that this one was trained with.
    threads : int
        CPU cores that may be used.
    measured : Measurements or None
        Of the shards, if any of the conditions sees the counts.

    Raises
    ------
    InputError
        If a file is missing, damaged, or not of this configuration.
    """
    tables = []
    for path in weights:
        model = Reconstructor(path, frozen, settings, threads)
        # What is imported and laid out once is of no setting's time.
        once = settings.sampling.changed({"steps": 1, "samples": 1, "consistency": {"steps": 0}})
        model.samples(model.slices(shard_paths[:1]), [0], once)
        for changes in varied.sampling:
            sampling = settings.sampling.changed(changes)
            for number, shard_path in enumerate(shard_paths):
                counts = measured.of(number) if measured else None
                slices = model.slices([shard_path])
                chosen = slices.evenly_spaced(varied.slices)
                start = time.perf_counter()
                images = model.samples(slices, chosen, sampling, counts).mean(axis=1)
                seconds = (time.perf_counter() - start) / len(chosen)
                with hdf5.opened(shard_path, SHARD) as shard:
                    found = Slices.read(shard, np.array(chosen))
                values = measure(images, found, model.metadata.scales, regions=("image",))
                values["reconstruction_seconds", "", ""] = np.full(len(chosen), seconds)
                facts = model.facts(sampling)
                estimate = "mean" if facts["samples"] > 1 else "single"
                tables.append(tidy(found, origin_of(facts, estimate), values))
    write_table(tables, output)
