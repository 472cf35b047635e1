"""A test slice's lines of the table of metrics, from the weights again; also a command."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from models.configuration import read_configuration
from models.consistency import Measurements
from models.dataset import SliceKey
from models.evaluation.factors import read_factors, sampling_of
from models.evaluation.measure import rows_of_model
from models.evaluation.metrics_table import read_parts
from models.evaluation.slices import Slices
from models.reconstruct import Reconstructor
from models.sections import frozen_of
from models.settings import Settings
from pipeline.jobs.doses import folder
from pipeline.jobs.experiment import measured_by, models_of
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import SHARD

TOLERANCE_DB = 1e-3
"""Largest difference in PSNR that rounding explains."""

LINE = ["estimate", "metric", "reference", "region"]


def recompute(
    config: Mapping[str, Any], model: str, key: SliceKey, dose: float = 1.0
) -> pd.DataFrame:
    """Reconstruct and measure one test slice as the rules do.

    Parameters
    ----------
    config : mapping
        The study's configuration.
    model : str
        A trained model of the study.
    key : SliceKey
        The slice.
    dose : float
        Part of all counts that it is reconstructed from, one of the study's.

    Returns
    -------
    DataFrame
        By estimate, metric, reference and region: ``recomputed``, ``table`` (what the study's
        metrics.csv.gz has) and ``difference``.

    Raises
    ------
    InputError
        If a file is missing or damaged, the study has no such model, dose or slice, or the table
        was made from other weights.
    """
    results, models = Path("results") / config["name"], models_of(config)
    if model not in models:
        raise InputError(model, "is no model of this study", f"choose from {', '.join(models)}")
    if model not in (evaluated := config["evaluation"]["models"]):
        problem = "is not in evaluation.models: the table has no lines of it"
        raise InputError(model, problem, f"choose from {', '.join(evaluated)}")
    if dose not in (doses := config["simulation"]["doses"]):
        choices = ", ".join(map(str, doses))
        raise InputError(str(dose), "is no dose of this study", f"choose --dose from {choices}")
    table_path, shard_path = results / "metrics.csv.gz", _shard(config, key.subject, dose)
    frozen = frozen_of(models[model].method, models[model].settings)
    settings = Settings.of(asdict(models[model]), config)
    reconstructor = Reconstructor(
        _weights(results, models[model].trained),
        _weights(results, frozen) if frozen else None,
        settings,
        settings.training.threads or os.cpu_count() or 1,
    )
    slices = reconstructor.slices([shard_path])
    if key not in slices.keys:
        raise InputError(shard_path, f"has no {key}", f"it has {', '.join(map(str, slices.keys))}")
    found = pd.concat(
        part[
            (part["model"] == model)
            & (part["subject"] == key.subject)
            & (part["dose"] == dose)
            & (part["rotation"] == key.rotation)
            & (part["slice_index"] == key.slice_index)
        ]
        for part in read_parts(table_path)
    )
    if found.empty:
        problem = f"has no lines of {key} by {model}"
        raise InputError(table_path, problem, "choose a slice of a test subject")
    if set(found["checkpoint"]) != {reconstructor.sha256[:16]}:
        problem = f"has no lines of {key} by these weights of {model}"
        raise InputError(
            table_path, problem, "restore the study's weights, or make the table again"
        )
    facts = reconstructor.facts(settings.sampling) | {"dose": dose}
    if reconstructor.method.samples:
        _check_sampling(table_path, found, facts)

    index = slices.keys.index(key)
    counts = None
    if reconstructor.sees_counts(settings.sampling):
        counts = _measured(config, key.subject, dose)
    samples = reconstructor.samples(slices, [index], settings.sampling, counts)
    with hdf5.opened(shard_path, SHARD) as shard:
        measured = Slices.read(shard, np.array([index]))
    calibrated = found["metric"].str.startswith("coverage_calibrated_").any()
    calibration = results / "calibration" / folder(dose) / f"{model}.json"
    factors = read_factors(calibration, facts) if calibrated else None
    scales = reconstructor.metadata.scales
    rows = pd.concat(rows_of_model(samples, measured, scales, facts, factors))
    lines = pd.DataFrame(
        {
            "recomputed": rows.set_index(LINE)["value"],
            "table": found.set_index(LINE)["value"],
        }
    )
    return lines.assign(difference=lines["recomputed"] - lines["table"])


def _check_sampling(path: Path, found: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Refuse a configuration that samples otherwise than the table's images were sampled."""
    for name, value in sampling_of(facts).items():
        recorded = found[name].max() if name in found else value  # of samples: those of the mean
        if pd.notna(recorded) and recorded != value:  # NaN in tables from before it
            problem = f"is of images with {name} {recorded}, not {value}"
            remedy = "give the study's own configuration: each of its files by --config"
            raise InputError(path, problem, remedy)


def _measured(config: Mapping[str, Any], subject: str, dose: float) -> Measurements:
    data, physics = Path("data") / config["name"], measured_by(config)
    matrix = data / "system_matrix" / "reconstruction.h5"
    sinogram = data / "sinograms" / folder(dose) / f"{subject}.h5"
    return Measurements.simulated([sinogram], str(matrix), physics)


def _weights(results: Path, model: str) -> Path:
    return results / "weights" / f"{model}.safetensors"


def _shard(config: Mapping[str, Any], subject: str, dose: float) -> Path:
    return Path("data") / config["name"] / "shards" / folder(dose) / f"{subject}.h5"


def main(
    model: Annotated[str, typer.Option(help="A trained model, such as LegoPET.")],
    subject: Annotated[str, typer.Option(help="A test subject, such as subject41.")],
    slice_index: Annotated[int, typer.Option("--slice", help="Axial slice of the full volume.")],
    rotation: Annotated[int, typer.Option(help="Number of the rotation.")] = 0,
    dose: Annotated[float, typer.Option(help="Part of all counts.")] = 1.0,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Laid over config/config.yaml, as the study's --configfile."),
    ] = None,
) -> None:
    """Reconstruct one test slice again and compare its metrics with the study's table.

    Run it where the study ran. It fails if a PSNR differs by more than 1e-3 dB.
    """
    try:
        lines = recompute(
            read_configuration(config or []),
            model,
            SliceKey(subject, rotation, slice_index),
            dose,
        )
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    typer.echo(lines.to_string(float_format="%.6g"))
    largest = lines.xs("psnr_db", level="metric")["difference"].abs().max()
    typer.echo(f"\nlargest difference in PSNR: {largest:.2g} dB")
    if not largest <= TOLERANCE_DB:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
