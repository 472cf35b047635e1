"""Table 1 to read: its caption, and the tables and columns that show its records."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from models.evaluation.bootstrap import DRAWS
from models.evaluation.catalogue import (
    DIFFERENCES,
    OSEM,
    REGIONS,
    TABLE1,
    TRUTH,
    Key,
    Metric,
    ordered,
)
from models.report.formats import Table

CAPTION = """\
Means over {images} test images of {subjects} ({slices} anatomical slices in their \
rotations), with 95 % intervals in brackets. {compared} are of images divided by the largest \
activity of the training references, with a data range of 1 and nothing clipped, over the whole \
image or, where a table says so, inside the head ({head}). The reference is the OSEM \
reconstruction of {prompts}, or the noise-free truth{target}. {explained}\
OSEM + filter (a Gaussian) and MAP (relative difference prior) have the settings that came \
closest to the truth, by PSNR, on the validation split. \
"As in the paper": networks that see the sinogram alone, one pass or one posterior sample. \
"Beyond the paper": networks that see an image, or fewer counts than the reference has, or learn \
the truth, and means of posterior samples.{others} \
A row of several seeds is the mean of networks that differ in the seed alone. Intervals: \
percentile bootstrap, {draws} draws of seeds, subjects, and anatomical slices within subjects, \
all rotations of a slice together; so few subjects and seeds make them coarse, and rather too \
narrow; one slice of one seed has none. Paper, 256 x 256: Table 1 of arXiv 2411.16629, of other \
images and other networks than ours; levels of PSNR and SSIM are not comparable with ours, \
differences between methods are with care. A dash is a number that does not exist.\
"""

OTHERS = " So are methods that it has not, and networks that see anything else."

WITH_LABELS = "pixels with a BrainWeb label above 0"
WITHOUT_LABELS = "pixels where the truth is above the value head_above of the shard"

AGAINST = {OSEM: "against OSEM", TRUTH: "against the noise-free truth", "": "without a reference"}


def name_of(key: Key) -> str:
    """Name a metric's column, such as psnr_db_osem_image; its interval has _low and _high."""
    return "_".join(filter(None, key))


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


def _title(reference: str, region: str, topic: str = "") -> str:
    """Head a table of what is compared with a reference, in a region or in single tissues."""
    if region in REGIONS:
        return ", ".join(filter(None, (topic, AGAINST[reference], REGIONS[region])))
    return f"activity, {AGAINST[reference]}"


PAPERS = _title(OSEM, "image")
"""The table of what the paper has, too."""


def compared() -> Iterator[tuple[Metric, Key]]:
    """Metrics whose differences between methods are tabulated: those of whole images."""
    return (found for found in ordered(DIFFERENCES) if found[1][2] == "image")


def _columns(metrics: Iterable[tuple[Metric, Key]]) -> dict[str, list[Column]]:
    """Columns of some metrics, by the title of their table."""
    found: dict[str, list[Column]] = {}
    for metric, key in metrics:
        column = Column(metric.heading, name_of(key), metric.digits)
        found.setdefault(_title(*key[1:], metric.topic), []).append(column)
    return found


def caption(
    images: pd.DataFrame, labelled: Collection[str], others: bool, lower: bool, reference: str
) -> str:
    """Say what the numbers are.

    Parameters
    ----------
    images, labelled
        As of `models.report.table1.Measured`.
    others : bool
        Whether there are methods that the paper has not, or networks that see something else.
    lower : bool
        Whether networks see fewer counts than the reference has.
    reference : str
        What networks were trained towards.
    """
    subjects = images["subject"].nunique()
    metrics = list(dict.fromkeys(metric for metric, _ in ordered(TABLE1)))
    plain = [metric for metric in metrics if not metric.sentence]
    compared = [m for m in plain if "" not in m.references and m.unit != "activity"]
    listed = [m.label + (f" ({m.details})" if m.details else "") for m in compared]
    explained = [m.sentence for m in metrics if m.sentence and labelled]
    explained += [
        f"{m.heading}{f': {m.details}' if m.details else ' is of images in activity units'}."
        for m in plain
        if m not in compared
    ]
    heads = [WITH_LABELS] if labelled else []
    heads += [WITHOUT_LABELS] if len(labelled) < subjects else []
    return CAPTION.format(
        images=len(images),
        subjects="1 subject" if subjects == 1 else f"{subjects} subjects",
        slices=len(images[["subject", "slice_index"]].drop_duplicates()),
        compared=" and ".join(filter(None, [", ".join(listed[:-1]), *listed[-1:]])),
        explained="".join(f"{sentence} " for sentence in dict.fromkeys(explained)),
        others=OTHERS if others else "",
        prompts="all counts" if lower else "the same prompts, as in the paper",
        target=", towards which networks were trained" if reference == TRUTH else "",
        head="; of images without labels, ".join(heads),
        draws=DRAWS,
    )


def main_tables(records: pd.DataFrame, reference: str = OSEM) -> list[Table]:
    """Show the rows: one table for each reference and region, one of tissues if there are any.

    Those against what networks were trained towards come first.
    """
    tables = _columns(ordered(TABLE1))
    titles = sorted(tables, key=lambda title: AGAINST[reference] not in title)
    more = dict.fromkeys(titles[:1], PARAMETERS)
    more[PAPERS] = [*more.get(PAPERS, []), *PUBLISHED]
    return [
        to_read(title[0].upper() + title[1:] + at, of_dose, [*more.get(title, []), *columns])
        for at, of_dose in _by_dose(records)
        for title, columns in ((title, tables[title]) for title in titles)
        if of_dose[[column.name for column in columns]].notna().any(axis=None)
    ]


def difference_tables(records: pd.DataFrame) -> list[Table]:
    """Show the differences between rows: one table for each reference."""
    ours, first = "LegoPET minus others, image by image", {PAPERS: PUBLISHED}
    return [
        to_read(f"{ours}, {title}{at}", of_dose, [*first.get(title, []), *columns])
        for at, of_dose in _by_dose(records)
        for title, columns in _columns(compared()).items()
    ]


def _by_dose(records: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Give what a title says of each dose, and its records."""
    for dose, of_dose in records.groupby("dose", sort=False):
        yield dose_text(float(str(dose))), of_dose


def dose_text(*doses: float) -> str:
    """Say what parts of the counts networks saw, unless all: ", 5 % of the counts"."""
    if set(doses) == {1}:
        return ""
    percent = ", ".join(f"{100 * dose:g}" for dose in sorted(doses, reverse=True))
    return f", {percent} % of the counts"


def to_read(title: str, records: pd.DataFrame, columns: Sequence[Column]) -> Table:
    """Bring records, each with ``row`` and the ``block`` that it belongs to, into a table.

    A number with columns ``_low`` and ``_high`` is followed by these, one that is absent a dash.
    """
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
