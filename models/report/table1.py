"""Rule ``table1``: the paper's Table 1 with ours beside it, and LegoPET's lead over the others."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from models.evaluation.bootstrap import DRAWS, Bootstrap
from models.evaluation.catalogue import (
    DIFFERENCES,
    OSEM,
    REGIONS,
    TABLE1,
    TRUTH,
    Key,
    Metric,
    exists_always,
    ordered,
)
from models.evaluation.metrics_table import read_parts
from models.report.formats import Table, latex, markdown, page
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file


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

UNPUBLISHED = Published(np.nan, np.nan, np.nan)

BASELINES, AS_IN_PAPER, BEYOND = "analytic and iterative", "as in the paper", "beyond the paper"

AGAINST = {OSEM: "against OSEM", TRUTH: "against the noise-free truth", "": "without a reference"}


def name_of(key: Key) -> str:
    """Name a metric's column, such as psnr_db_osem_image; its interval has _low and _high."""
    return "_".join(filter(None, key))


CAPTION = """\
Means over {images} test images of {subjects} ({slices} anatomical slices in their \
rotations), with 95 % intervals in brackets. {compared} are of images divided by the largest \
activity of the training references, with a data range of 1 and nothing clipped, over the whole \
image or inside the head (pixels with a BrainWeb label above 0). The reference is the OSEM \
reconstruction of the same prompts, as in the paper, or the noise-free truth. {explained} \
"As in the paper": networks that see the sinogram alone, one pass or one posterior sample. \
"Beyond the paper": networks that see the FBP image too, and means of posterior samples. A row of \
several seeds is the mean of networks that differ in the seed alone. Intervals: percentile \
bootstrap, {draws} draws of seeds, subjects, and anatomical slices within subjects, all rotations \
of a slice together; so few subjects and seeds make them coarse, and rather too narrow; one slice \
of one seed has none. Paper, 256 x 256: Table 1 of arXiv 2411.16629, of other images and other \
networks than ours; levels of PSNR and SSIM are not comparable with ours, differences between \
methods are with care. A dash is a number that does not exist.\
"""


class Column(NamedTuple):
    """How a number is printed: digits after the point, and the unit that it is divided by."""

    header: str
    name: str
    digits: int
    unit: float = 1.0


PARAMETERS = [
    Column("seeds", "seeds", 0),
    Column("paper: parameters [M]", "paper_parameters", 2, 1e6),
    Column("parameters [M]", "parameters", 2, 1e6),
]
PUBLISHED = [
    Column("paper, 256 x 256: PSNR [dB]", "paper_psnr_db", 2),
    Column("paper, 256 x 256: SSIM", "paper_ssim", 3),
]


def _title(reference: str, region: str) -> str:
    """Head a table of what is compared with a reference, in a region or in single tissues."""
    if region in REGIONS:
        return f"{AGAINST[reference]}, {REGIONS[region]}"
    return f"activity, {AGAINST[reference]}"


PAPERS = _title(OSEM, "image")
"""The table of what the paper has, too."""


def _compared() -> Iterator[tuple[Metric, Key]]:
    """Metrics whose differences between methods are tabulated: those of whole images."""
    return (found for found in ordered(DIFFERENCES) if found[1][2] == "image")


def _columns(metrics: Iterable[tuple[Metric, Key]]) -> dict[str, list[Column]]:
    """Columns of some metrics, by the title of their table."""
    found: dict[str, list[Column]] = {}
    for metric, key in metrics:
        column = Column(metric.heading, name_of(key), metric.digits)
        found.setdefault(_title(*key[1:]), []).append(column)
    return found


def _explained() -> dict[str, str]:
    """What the caption says of the metrics."""
    metrics = list(dict.fromkeys(metric for metric, _ in ordered(TABLE1)))
    listed = [m.label + (f" ({m.details})" if m.details else "") for m in metrics if not m.sentence]
    sentences = dict.fromkeys(metric.sentence for metric in metrics if metric.sentence)
    compared = " and ".join(filter(None, [", ".join(listed[:-1]), *listed[-1:]]))
    return {"compared": compared, "explained": " ".join(sentences)}


IMAGE = ["subject", "slice_index", "rotation"]
ORIGIN = ["model", "estimate", "method", "conditioning", "sampler", "samples"]


# --- rows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of the table: replicates of a model, and one estimate of theirs."""

    name: str
    models: Sequence[str]
    estimate: str
    method: str
    conditioning: str
    sampler: str
    samples: int

    @property
    def block(self) -> str:
        """Part of the table."""
        if self.method in ("FBP", "OSEM"):
            return BASELINES
        plain = self.conditioning == "sinogram" and self.estimate == "single"
        return AS_IN_PAPER if plain else BEYOND

    @property
    def label(self) -> str:
        """Name to read."""
        return self.name + (f", mean of {self.samples}" if self.estimate == "mean" else "")

    @property
    def published(self) -> Published:
        """What the paper has for this row."""
        return PAPER.get(self.name, UNPUBLISHED) if self.block == AS_IN_PAPER else UNPUBLISHED


def _rows(metrics: Path, origins: pd.DataFrame, models: Mapping[str, Sequence[str]]) -> list[Row]:
    """Rows in the table's order: baselines, then as in the paper, then beyond."""
    present = set(origins["model"])
    baselines = {name: [name] for name in ("FBP", "OSEM") if name in present}
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
            samples = 1 if pd.isna(origin["samples"]) else int(origin["samples"])
            rows.append(Row(name, models_alike, **{**origin[ORIGIN[1:]], "samples": samples}))
    blocks = (BASELINES, AS_IN_PAPER, BEYOND)
    return sorted(rows, key=lambda row: blocks.index(row.block))


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """LegoPET and what it is fairly compared with: networks that saw the same input.

    Samples go with samples and means with means; a network that does not sample goes with both.
    """
    networks = [row for row in rows if row.block != BASELINES]
    for ours in (row for row in networks if row.method == "LegoPET"):
        for other in (row for row in networks if row.method != "LegoPET"):
            same_estimate = other.estimate == ours.estimate or not other.sampler
            if other.conditioning == ours.conditioning and same_estimate:
                yield ours, other


class Measured:
    """Values of the table of all metrics by model, aligned over images.

    Attributes
    ----------
    origins : DataFrame
        A line a model and estimate, with the columns of `ORIGIN`.
    images : DataFrame
        N lines: subject, slice_index, rotation.
    """

    def __init__(self, path: Path):
        metrics = {metric.name for metric, _ in ordered(TABLE1)}
        origins, wide = [], []
        for part in read_parts(path):
            origins.append(part[ORIGIN].drop_duplicates(ORIGIN[:2]))
            values = part[part["metric"].isin(metrics)]
            columns = ["model", "estimate", "metric", "reference", "region"]
            wide.append(values.pivot(index=IMAGE, columns=columns, values="value"))
        self._path = path
        self.origins = pd.concat(origins).drop_duplicates(ORIGIN[:2])
        # An image may begin in one part and end in the next.
        self._wide = pd.concat(wide).groupby(level=IMAGE).first()
        self.images = self._wide.index.to_frame(index=False)

    def __call__(self, row: Row, key: Key) -> np.ndarray:
        """(R, N): of the row's R replicates on all N images, NaN where there is no value.

        Raises
        ------
        InputError
            If values are absent of a metric that always exists, or infinite.
        """
        columns = pd.MultiIndex.from_tuples([(m, row.estimate, *key) for m in row.models])
        values = self._wide.reindex(columns=columns).to_numpy().T
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


def _with_interval(bootstrap: Bootstrap, key: Key, values: np.ndarray) -> dict[str, float]:
    name = name_of(key)
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, bootstrap.interval(values), strict=True))


def _main_record(
    row: Row, measured: Measured, bootstrap: Bootstrap, parameters: Mapping[str, int]
) -> dict[str, Any]:
    record = {
        "block": row.block,
        "row": row.label,
        "models": " ".join(row.models),
        "conditioning": row.conditioning,
        "estimate": row.estimate,
        "samples": row.samples,
        "seeds": len(row.models) if row.block != BASELINES else np.nan,
        "paper_psnr_db": row.published.psnr_db,
        "paper_ssim": row.published.ssim,
        "paper_parameters": row.published.parameters,
        "parameters": parameters.get(row.models[0], np.nan),
    }
    for _, key in ordered(TABLE1):
        record |= _with_interval(bootstrap, key, measured(row, key))
    return record


def _difference_record(
    ours: Row, other: Row, measured: Measured, bootstrap: Bootstrap
) -> dict[str, Any]:
    record = {
        "block": ours.block,
        "row": f"{ours.label} minus {other.label}",
        "seeds": f"{len(ours.models)}, {len(other.models)}",
        "paper_psnr_db": ours.published.psnr_db - other.published.psnr_db,
        "paper_ssim": ours.published.ssim - other.published.ssim,
    }
    for _, key in _compared():
        record |= _with_interval(bootstrap, key, measured.difference(ours, other, key))
    return record


def table1(
    metrics: Path,
    rows: Mapping[str, Sequence[str]],
    parameters: Mapping[str, int],
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
        Replicates, which differ in the seed alone; FBP and OSEM need not be named.
    parameters : mapping of model to int
        Trainable parameters.
    output_csv : Path
        One line a row and estimate; each metric with _low and _high.
    output_differences : Path
        LegoPET minus each network of the same input, image by image, as CSV.
    output_markdown, output_latex, output_html : Path
        Both tables to read. LaTeX needs the package booktabs.

    Raises
    ------
    InputError
        If the table of metrics is missing or damaged or lacks a model.
    """
    measured = Measured(metrics)
    lines = _rows(metrics, measured.origins, rows)
    bootstrap = Bootstrap(measured.images)
    main = pd.DataFrame([_main_record(row, measured, bootstrap, parameters) for row in lines])
    main = main.astype(dict.fromkeys(("seeds", "paper_parameters", "parameters"), "Int64"))
    differences = pd.DataFrame(
        [_difference_record(*pair, measured, bootstrap) for pair in _pairs(lines)]
    )
    images, subjects = measured.images, measured.images["subject"].nunique()
    caption = CAPTION.format(
        images=len(images),
        subjects="1 subject" if subjects == 1 else f"{subjects} subjects",
        slices=len(images[["subject", "slice_index"]].drop_duplicates()),
        draws=DRAWS,
        **_explained(),
    )
    to_read = _main_tables(main)
    if len(differences):
        to_read += _difference_tables(differences)
    for path, records in ((output_csv, main), (output_differences, differences)):
        with atomic_file(path) as temporary:
            records.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    for path, typeset in (
        (output_markdown, markdown),
        (output_latex, latex),
        (output_html, page),
    ):
        with atomic_file(path) as temporary:
            temporary.write_text(typeset(caption, to_read), encoding="utf-8")


def _main_tables(records: pd.DataFrame) -> list[Table]:
    first = {PAPERS: [*PARAMETERS, *PUBLISHED]}
    return [
        _to_read(title[0].upper() + title[1:], records, [*first.get(title, []), *columns])
        for title, columns in _columns(ordered(TABLE1)).items()
    ]


def _difference_tables(records: pd.DataFrame) -> list[Table]:
    ours, first = "LegoPET minus others, image by image", {PAPERS: PUBLISHED}
    return [
        _to_read(f"{ours}, {title}", records, [*first.get(title, []), *columns])
        for title, columns in _columns(_compared()).items()
    ]


def _to_read(title: str, records: pd.DataFrame, columns: Sequence[Column]) -> Table:
    rows = [
        (record["block"], [record["row"], *(_cell(record, column) for column in columns)])
        for record in records.to_dict("records")
    ]
    return Table(title, ["", *(column.header for column in columns)], rows)


def _cell(record: Mapping[str, Any], column: Column) -> str:
    found = [
        f"{record[name] / column.unit:.{column.digits}f}"
        for name in (column.name, f"{column.name}_low", f"{column.name}_high")
        if not pd.isna(record.get(name))
    ]
    if not found:
        return "-"
    return f"{found[0]} [{found[1]}, {found[2]}]" if len(found) == 3 else found[0]
