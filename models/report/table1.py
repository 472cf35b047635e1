"""Rule ``table1``: the paper's Table 1 with ours beside it, and LegoPET's lead over the others."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from models.evaluation import derived
from models.evaluation.bootstrap import Bootstrap
from models.evaluation.catalogue import (
    MEANS,
    OSEM,
    REGIONS,
    TABLE1,
    Key,
    Metric,
    exists_always,
    ordered,
    parts_of,
)
from models.evaluation.metrics_table import CONSISTENCY, read_parts
from models.report.columns import caption, compared, difference_tables, main_tables, name_of
from models.report.formats import latex, markdown, page
from pipeline.baselines import BASELINES, RECONSTRUCTED, title_of
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file, check_readable
from pipeline.storage.system_errors import unreadable


class Published(NamedTuple):
    """A row of the paper's table."""

    psnr_db: float
    ssim: float
    parameters: float


PAPER = {
    "DeepPET": Published(28.30, 0.944, 11.02e6),
    "cGAN": Published(22.58, 0.864, 11.37e6),
    "Pix2Pix": Published(23.91, 0.922, 11.37e6),
    "cDPM": Published(27.00, 0.945, 35.71e6),
    "LegoPET": Published(27.59, 0.956, 35.71e6),
}
"""Table 1 of arXiv 2411.16629: against OSEM, whole images of 256 x 256 pixels."""

SEEN = ("", "sinogram", "sinogram, fbp")
"""What networks see in the paper and, as the caption says, beyond it."""

UNPUBLISHED = Published(np.nan, np.nan, np.nan)

CLASSICAL, AS_IN_PAPER, BEYOND = "analytic and iterative", "as in the paper", "beyond the paper"

IMAGE = ["subject", "slice_index", "rotation"]
SAMPLING = ["sampler", "steps", "samples", *CONSISTENCY]
ORIGIN = ["model", "estimate", "method", "conditioning", *SAMPLING]


# --- rows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of the table: replicates of a model, and one estimate of theirs.

    Attributes
    ----------
    steps : int
        Of sampling; 0 of what does not sample.
    consistency_steps, consistency_strength, consistency_start : float
        With the measured counts, at each step of sampling; zeros where it is off.
    as_paper : bool
        Whether networks are the paper's, saw all counts and learnt the OSEM reference.
    lower : bool
        Whether they saw fewer: all but the reference, that is.
    """

    name: str
    models: Sequence[str]
    estimate: str
    method: str
    conditioning: str
    sampler: str
    steps: int
    samples: int
    consistency_steps: float
    consistency_strength: float
    consistency_start: float
    as_paper: bool
    lower: bool

    @property
    def block(self) -> str:
        """Part of the table."""
        if self.method in BASELINES:
            return CLASSICAL
        plain = self.conditioning == "sinogram" and self.estimate == "single"
        plain &= not self.consistency_steps
        return AS_IN_PAPER if plain and self.of_paper and self.as_paper else BEYOND

    @property
    def of_paper(self) -> bool:
        """Whether the paper has the method, PnPNet as a part of LegoPET."""
        return self.method in (*PAPER, "PnPNet", *BASELINES)

    @property
    def label(self) -> str:
        """Name to read."""
        mean = f", mean of {self.samples}" if self.estimate == "mean" else ""
        return title_of(self.name, self.lower) + mean

    @property
    def published(self) -> Published:
        """What the paper has for this row."""
        return PAPER.get(self.name, UNPUBLISHED) if self.block == AS_IN_PAPER else UNPUBLISHED


def _rows(
    metrics: Path,
    origins: pd.DataFrame,
    models: Mapping[str, Sequence[str]],
    other_networks: Collection[str],
    *,
    as_paper: bool,
    lower: bool,
) -> list[Row]:
    """Rows in the table's order: baselines, then as in the paper, then beyond."""
    present = set(origins["model"])
    baselines = {name: [name] for name in BASELINES if name in present}
    rows: list[Row] = []
    for name, replicates in {**baselines, **models}.items():
        for model in replicates:
            if model not in present:
                problem, remedy = f"has no rows of {model}", "run rule 'metrics' again"
                raise InputError(metrics, problem, remedy)
        of_group = origins[origins["model"].isin(replicates)]
        for _, alike in of_group.groupby("estimate", sort=False):
            models_alike = [model for model in replicates if model in set(alike["model"])]
            origin = alike.iloc[0]
            known: dict[str, Any] = {"steps": 0, "samples": 1, **dict.fromkeys(CONSISTENCY, 0.0)}
            known |= origin[ORIGIN[1:]].dropna().to_dict()
            whole = {key: int(known[key]) for key in ("steps", "samples")}
            found = known | whole | {"lower": lower}
            found["as_paper"] = as_paper and name not in other_networks
            rows.append(Row(name, models_alike, **found))
    blocks = (CLASSICAL, AS_IN_PAPER, BEYOND)
    return sorted(rows, key=lambda row: blocks.index(row.block))


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """LegoPET and what it is fairly compared with.

    These are the strongest reconstructions without a network, which saw these counts, and networks
    that saw the same, counts included. Samples go with samples and means with means of as many
    steps; what does not sample goes with both.
    """
    networks = [row for row in rows if row.block != CLASSICAL]
    classical = [row for row in rows if row.name in RECONSTRUCTED]
    for ours in (row for row in networks if row.method == "LegoPET"):
        yield from ((ours, other) for other in classical)
        for other in (row for row in networks if row.method != "LegoPET"):
            alike = (other.estimate, other.steps) == (ours.estimate, ours.steps)
            same_counts = all(getattr(other, key) == getattr(ours, key) for key in CONSISTENCY)
            same_inputs = other.conditioning == ours.conditioning and same_counts
            if same_inputs and (alike or not other.sampler):
                yield ours, other


class Measured:
    """Values of the table of all metrics at a dose by model, aligned over images.

    Attributes
    ----------
    origins : DataFrame
        A line a model and estimate, with the columns of `ORIGIN`.
    images : DataFrame
        N lines: subject, slice_index, rotation.
    labelled : set of str
        Subjects with values in tissues: those whose images have labels.
    """

    def __init__(self, path: Path, dose: float):
        metrics = {name for found in ordered(TABLE1) for name, _, _ in parts_of(*found)}
        origins, wide = [], []
        for every in read_parts(path):
            part = every[every["dose"] == dose]
            origins.append(part[ORIGIN].drop_duplicates(ORIGIN[:2]))
            values = part[part["metric"].isin(metrics)]
            columns = ["model", "estimate", "metric", "reference", "region"]
            wide.append(values.pivot(index=IMAGE, columns=columns, values="value"))
        self._path, self.dose = path, dose
        self.origins = pd.concat(origins).drop_duplicates(ORIGIN[:2])
        # An image may begin in one part and end in the next.
        self._wide = pd.concat(wide).groupby(level=IMAGE).first()
        self.images = self._wide.index.to_frame(index=False)
        in_tissues = ~self._wide.columns.get_level_values("region").isin(["", *REGIONS])
        with_tissues = self._wide.loc[:, in_tissues].notna().any(axis=1)
        self.labelled = set(with_tissues[with_tissues].index.get_level_values("subject"))

    def __call__(self, row: Row, key: Key) -> np.ndarray:
        """(R, N): of the row's R replicates on all N images, NaN where there is no value.

        Raises
        ------
        InputError
            If values are absent of a metric that always exists, or infinite.
        """
        columns = pd.MultiIndex.from_tuples([(m, row.estimate, *key) for m in row.models])
        values = self._wide.reindex(columns=columns).to_numpy().T
        if row.block == CLASSICAL and np.isposinf(values).any():
            # Filtered OSEM without a filter is the reference itself: of no value, as OSEM's own.
            values = np.full_like(values, np.nan)
        lacking = np.count_nonzero(~np.isfinite(values))
        # None at all is no fault: OSEM is not compared with itself.
        if exists_always(key) and lacking and not np.isnan(values).all():
            problem = f"lacks finite values of {name_of(key)} of {row.label}: {lacking} images"
            raise InputError(self._path, problem, "look at those images, and make them again")
        return values

    def difference(self, ours: Row, other: Row, key: Key) -> np.ndarray:
        """(R, N): image by image; replicates are paired in their order if there are as many.

        Of unequal numbers, the single one is paired with each, or else the other's mean is.
        """
        a, b = self(ours, key), self(other, key)
        if len(a) != len(b) and min(len(a), len(b)) > 1:
            b = b.mean(axis=0, keepdims=True)
        return a - b


def _with_interval(
    bootstrap: Bootstrap, metric: Metric, key: Key, *values: np.ndarray
) -> dict[str, float]:
    name = name_of(key)
    names = (name, f"{name}_low", f"{name}_high")
    derive = getattr(derived, metric.name) if metric.of == MEANS else None
    return dict(zip(names, bootstrap.interval(*values, derive=derive), strict=True))


def _main_record(
    row: Row, measured: Measured, bootstrap: Bootstrap, parameters: Mapping[str, int]
) -> dict[str, Any]:
    record = {
        "dose": measured.dose,
        "block": row.block,
        "row": row.label,
        "models": " ".join(row.models),
        "conditioning": row.conditioning,
        "estimate": row.estimate,
        "samples": row.samples,
        "seeds": len(row.models) if row.block != CLASSICAL else np.nan,
        "paper_psnr_db": row.published.psnr_db,
        "paper_ssim": row.published.ssim,
        "paper_parameters": row.published.parameters,
        "parameters": parameters.get(row.models[0], np.nan),
    }
    for metric, key in ordered(TABLE1):
        values = (measured(row, part) for part in parts_of(metric, key))
        record |= _with_interval(bootstrap, metric, key, *values)
    return record


def _difference_record(
    ours: Row, other: Row, measured: Measured, bootstrap: Bootstrap
) -> dict[str, Any]:
    record = {
        "dose": measured.dose,
        "block": ours.block,
        "row": f"{ours.label} minus {other.label}",
        "seeds": f"{len(ours.models)}, {len(other.models)}",
        "paper_psnr_db": ours.published.psnr_db - other.published.psnr_db,
        "paper_ssim": ours.published.ssim - other.published.ssim,
    }
    for metric, key in compared():
        values = measured.difference(ours, other, key)
        record |= _with_interval(bootstrap, metric, key, values)
    return record


def parameters_in(record: Path) -> int:
    """Read how many trainable parameters a model has: from what is recorded beside its weights.

    Raises
    ------
    InputError
        If the file is missing or is no such record.
    """
    remedy = f"delete it and train again: snakemake --cores all -- {record}"
    check_readable(record, "record of a training", remedy)
    try:
        found = yaml.safe_load(record.read_text(encoding="utf-8"))
        return int(found["trainable_parameters"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise unreadable(record, error, f"is no record of a training ({error})", remedy) from error


def table1(
    metrics: Path,
    rows: Mapping[str, Sequence[str]],
    parameters: Mapping[str, int],
    doses: Sequence[float] = (1.0,),
    reference: str = OSEM,
    other_networks: Collection[str] = (),
    *,
    output_csv: Path,
    output_differences: Path,
    output_markdown: Path,
    output_latex: Path,
    output_html: Path,
) -> None:
    """Average the table of all metrics over test images and seeds, the paper's beside it.

    Parameters
    ----------
    metrics : Path
        From `models.evaluation.evaluate.evaluate`.
    rows : mapping of row name to sequence of model
        Replicates, which differ in the seed alone; those of `pipeline.baselines` need not be named.
    parameters : mapping of model to int
        Trainable parameters, from `parameters_in`.
    doses : sequence of float
        Parts of all counts, each with tables of its own.
    reference : str
        What networks were trained towards, a name of `models.evaluation.catalogue.REFERENCES`.
    other_networks : collection of str
        Rows whose networks are not the paper's, though their conditioning is.
    output_csv : Path
        One line a dose, row and estimate; each metric with _low and _high.
    output_differences : Path
        LegoPET minus OSEM + filter, MAP and each network of the same input, image by image, as CSV.
    output_markdown, output_latex, output_html : Path
        Both tables to read. LaTeX needs the package booktabs.

    Raises
    ------
    InputError
        If the table of metrics is missing or damaged or lacks a model.
    """
    found: list[dict[str, Any]] = []
    leads: list[dict[str, Any]] = []
    for dose in doses:
        measured = Measured(metrics, dose)
        lines = _rows(
            metrics,
            measured.origins,
            rows,
            other_networks,
            as_paper=dose == 1 and reference == OSEM,
            lower=dose < 1,
        )
        bootstrap = Bootstrap(measured.images)
        found += [_main_record(row, measured, bootstrap, parameters) for row in lines]
        leads += [_difference_record(*pair, measured, bootstrap) for pair in _pairs(lines)]
    main = pd.DataFrame(found)
    main = main.astype(dict.fromkeys(("seeds", "paper_parameters", "parameters"), "Int64"))
    differences = pd.DataFrame(leads)
    others = any(not row.of_paper or row.conditioning not in SEEN for row in lines)
    lower = min(doses) < 1
    about = caption(measured.images, measured.labelled, others, lower, reference)
    to_read = main_tables(main, reference)
    if len(differences):
        to_read += difference_tables(differences)
    for path, records in ((output_csv, main), (output_differences, differences)):
        with atomic_file(path) as temporary:
            records.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    for path, typeset in (
        (output_markdown, markdown),
        (output_latex, latex),
        (output_html, page),
    ):
        with atomic_file(path) as temporary:
            temporary.write_text(typeset(about, to_read), encoding="utf-8")
