"""Rules ``lesion_table`` and ``lesion_figure``: lesions in images of all methods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from models.evaluation.bootstrap import DRAWS, Bootstrap
from models.evaluation.lesion_measures import EXCEEDED, contrast_recovery, relative_noise
from models.evaluation.lesions import COLUMNS
from models.report.columns import Column, dose_text, to_read
from models.report.drawing import read, remedy, style
from models.report.formats import markdown, page
from pipeline.baselines import MAP, RECONSTRUCTED, title_of
from pipeline.storage.errors import InputError
from pipeline.storage.files import atomic_file

LESION = ["subject", "rotation", "slice_index", "number"]

KINDS, SIZES = ("hot", "cold"), ("small", "large")
GROUPS = (*KINDS, *SIZES)
"""Lesions that are averaged together: of a kind, and of a size whatever their kind."""

CAPTION = """\
Means over {lesions} lesions in {slices} slices of {subjects} ({anatomical} anatomical slices), \
with 95 % intervals in brackets. \
Lesions are spheres with {least:.1f} to {largest:.1f} mm diameter, small ones below {middle:.1f} \
mm, in grey and white matter; each slice was measured without and with them, with the same noise \
but for theirs. Contrast recovery: what lesions change in the mean of their discs, over what they \
change in the truth; a ratio of means over lesions and noise draws. AUC: area under the ROC curve \
of an observer that takes the mean in the disc less the mean of the brain around it (negated of \
cold lesions), of the same slice without and with its lesions, over pairs of noise draws; mean \
over lesions. Noise: standard deviation over noise draws without lesions, root mean square over \
pixels and lesions, over the mean true activity in the discs. False structure: part of grey and \
white matter, without lesions, in which the image differs from the truth by more than a threshold, \
both smoothed to the smallest lesion's size; the threshold is what OSEM + filter exceeds in \
{exceeded:g} % of the mean slice ({thresholds}). Differences from MAP are of the same lesions, MAP \
being at its own noise. Rows of several seeds are their mean. Intervals: \
percentile bootstrap, {draws} draws of seeds, subjects, and anatomical slices within subjects; so \
few make them coarse, and rather too narrow.\
"""

RECOVERIES = [Column(f"contrast recovery, {name}", f"recovery_{name}", 2) for name in GROUPS]
RECOVERIES.append(Column("noise [%]", "noise", 1, 0.01))
DETECTION = [Column(f"AUC, {name}", f"auc_{name}", 3) for name in GROUPS]
DETECTION.append(Column("false structure [%]", "false_structure", 2, 0.01))
FROM_MAP = [
    *(Column(f"contrast recovery, {name}", f"recovery_{name}_minus_map", 2) for name in KINDS),
    *(Column(f"AUC, {name}", f"auc_{name}_minus_map", 3) for name in KINDS),
]
TABLES = {"contrast recovery": RECOVERIES, "detection": DETECTION, "differences from MAP": FROM_MAP}


class Row(NamedTuple):
    """Replicates of a model, and of how many samples their images are means."""

    name: str
    models: Sequence[str]
    samples: int

    @property
    def label(self) -> str:
        """Name to read."""
        mean = f", mean of {self.samples}" if self.samples > 1 else ""
        return title_of(self.name) + mean


class Lesions:
    """Lesions in the images of a dose.

    Parameters
    ----------
    path : Path
        Of rule ``lesion_metrics``.
    rows : mapping of row name to sequence of model
        Replicates, which differ in the seed alone; those of rule ``classical`` come by themselves.

    Raises
    ------
    InputError
        If the table is missing, unreadable, or lacks a column or a model.
    """

    def __init__(self, path: Path, rows: Mapping[str, Sequence[str]]):
        self.table = read(path, COLUMNS)
        self.models = {name: [name] for name in RECONSTRUCTED} | dict(rows)
        every = (model for models in self.models.values() for model in models)
        if missing := [model for model in every if model not in set(self.table["model"])]:
            raise InputError(path, f"has no rows of {', '.join(missing)}", remedy(path))
        self.lesions = self.table.drop_duplicates(LESION)[[*LESION, "kind", "diameter_mm"]]
        self._wide = self.table.pivot(index=LESION, columns=["model", "samples"])
        self._wide = self._wide.reindex(pd.MultiIndex.from_frame(self.lesions[LESION]))

    @property
    def dose(self) -> float:
        """Part of all counts."""
        return float(self.table["dose"].iloc[0])

    @property
    def middle_mm(self) -> float:
        """Diameter between small and large ones."""
        diameters_mm = self.lesions["diameter_mm"]
        return float(diameters_mm.min() + diameters_mm.max()) / 2

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Draws of subjects and slices."""
        return Bootstrap(self.lesions.reset_index(drop=True))

    def rows(self) -> Iterator[Row]:
        """Rows of the table: the first sample and, of several, the mean of all."""
        for name, models in self.models.items():
            samples = self.table.loc[self.table["model"] == models[0], "samples"]
            yield from (Row(name, models, int(n)) for n in sorted({1, samples.max()}))

    def counts(self, row: Row) -> list[int]:
        """Of how many samples there are means of a row's models."""
        return sorted(set(self.table.loc[self.table["model"] == row.models[0], "samples"]))

    def group(self, name: str) -> np.ndarray:
        """Which lesions, (N,), are of a group of `GROUPS`."""
        if name in KINDS:
            return (self.lesions["kind"] == name).to_numpy()
        return (self.lesions["diameter_mm"] < self.middle_mm).to_numpy() == (name == "small")

    def interval(
        self,
        row: Row,
        *columns: str,
        of: np.ndarray | None = None,
        derive: Callable[..., np.ndarray] | None = None,
    ) -> tuple[float, float, float]:
        """Average columns over replicates and lesions, of some alone; see `Bootstrap.interval`."""
        values = [self._values(row, column, of) for column in columns]
        return self.bootstrap.interval(*values, derive=derive)

    def difference(
        self, row: Row, other: Row, column: str, over: str = "", *, of: np.ndarray
    ) -> tuple[float, float, float]:
        """Subtract another's single replicate, of the same lesions; likewise.

        A column over another is a ratio of means, the other one being of the truth.
        """
        values = self._values(row, column, of) - self._values(other, column, of)
        if not over:
            return self.bootstrap.interval(values)
        return self.bootstrap.interval(
            values, self._values(row, over, of), derive=contrast_recovery
        )

    def mean(
        self, row: Row, *columns: str, of: np.ndarray, derive: Callable[..., np.ndarray]
    ) -> float:
        """Do the same without the interval."""
        return float(derive(*(np.nanmean(self._values(row, column, of)) for column in columns)))

    def _values(self, row: Row, column: str, of: np.ndarray | None) -> np.ndarray:
        """(R, N): of R replicates on N lesions."""
        keys = [(column, model, row.samples) for model in row.models]
        values: np.ndarray = self._wide[keys].to_numpy(dtype=np.float64).T
        return values if of is None else np.where(of, values, np.nan)


RECOVERY, NOISE = ("difference", "true_difference"), ("variance", "level")
"""Columns of which contrast recovery and noise are made."""


def _record(found: Lesions, row: Row) -> dict[str, Any]:
    record = {
        "dose": found.dose,
        "block": "without a network" if row.name in RECONSTRUCTED else "networks",
        "row": row.label,
        "models": " ".join(row.models),
        "samples": row.samples,
        "lesions": len(found.lesions),
        "threshold": found.table["threshold"].iloc[0],
    }
    intervals = {
        **{
            f"recovery_{name}": found.interval(
                row, *RECOVERY, of=found.group(name), derive=contrast_recovery
            )
            for name in GROUPS
        },
        "noise": found.interval(row, *NOISE, derive=relative_noise),
        **{f"auc_{name}": found.interval(row, "auc", of=found.group(name)) for name in GROUPS},
        "false_structure": found.interval(row, "false_structure"),
        **_from_map(found, row),
    }
    for name, ends in intervals.items():
        record |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    return record


def _from_map(found: Lesions, row: Row) -> dict[str, tuple[float, float, float]]:
    """Differences of a row from MAP, of itself nothing."""
    other = Row(MAP, [MAP], 1)
    intervals = {}
    for name in KINDS if row != other else ():
        of = found.group(name)
        intervals[f"recovery_{name}_minus_map"] = found.difference(row, other, *RECOVERY, of=of)
        intervals[f"auc_{name}_minus_map"] = found.difference(row, other, "auc", of=of)
    return intervals


def lesion_table(
    metrics: Sequence[Path],
    rows: Mapping[str, Sequence[str]],
    *,
    output_csv: Path,
    output_markdown: Path,
    output_html: Path,
) -> None:
    """Average over lesions and seeds: a line a dose, row and estimate.

    Parameters
    ----------
    metrics : sequence of path
        Of rule ``lesion_metrics``, a dose each.
    rows : mapping of row name to sequence of model
        See `Lesions`.
    output_csv : Path
        Each number with _low and _high.
    output_markdown, output_html : Path
        The tables to read.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a model.
    """
    doses = [Lesions(path, rows) for path in metrics]
    records, tables = [], []
    for found in doses:
        of_dose = pd.DataFrame([_record(found, row) for row in found.rows()])
        records.append(of_dose)
        for title, columns in TABLES.items():
            tables.append(to_read(f"Lesions: {title}{dose_text(found.dose)}", of_dose, columns))
    with atomic_file(output_csv) as temporary:
        pd.concat(records).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    for path, typeset in ((output_markdown, markdown), (output_html, page)):
        with atomic_file(path) as temporary:
            temporary.write_text(typeset(_caption(doses), tables), encoding="utf-8")


def _caption(doses: Sequence[Lesions]) -> str:
    lesions = doses[0].lesions
    subjects = lesions["subject"].nunique()
    thresholds = (
        f"{found.table['threshold'].iloc[0]:.3g} a.u.{dose_text(found.dose).replace(',', ' at')}"
        for found in doses
    )
    return CAPTION.format(
        lesions=len(lesions),
        slices=len(lesions.drop_duplicates(LESION[:-1])),
        anatomical=len(lesions.drop_duplicates(["subject", "slice_index"])),
        subjects="1 subject" if subjects == 1 else f"{subjects} subjects",
        least=lesions["diameter_mm"].min(),
        largest=lesions["diameter_mm"].max(),
        middle=doses[0].middle_mm,
        exceeded=100 * EXCEEDED,
        thresholds=", ".join(thresholds),
        draws=DRAWS,
    )


def lesion_figure(
    metrics: Path, curves: Mapping[str, Sequence[Path]], rows: Mapping[str, Sequence[str]]
) -> Figure:
    """Draw contrast recovery of hot and cold lesions over noise, a curve a method.

    Parameters
    ----------
    metrics : Path
        Of rule ``lesion_metrics``. Of networks with several samples the means of the first 1, 2,
        ... are joined, all others are points.
    curves : mapping of method to sequence of path
        Tables of rule ``lesion_curve``, one a subject; what was chosen is ringed.
    rows : mapping of row name to sequence of model
        See `Lesions`; replicates are averaged.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a model.
    """
    found = Lesions(metrics, rows)
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, kind in zip(axes, KINDS, strict=True):
        of = found.group(kind)
        axis.axhline(1, color="grey", linewidth=1)
        for n, row in enumerate(Row(name, models, 1) for name, models in found.models.items()):
            points = [
                (
                    100 * found.mean(each, *NOISE, of=of, derive=relative_noise),
                    found.mean(each, *RECOVERY, of=of, derive=contrast_recovery),
                )
                for each in (row._replace(samples=count) for count in found.counts(row))
            ]
            line = style(n)
            if row.name in curves:
                axis.plot(*zip(*_curve(curves[row.name], kind), strict=True), **line)
                ring = {"markersize": 12, "fillstyle": "none", "linestyle": "none"}
                axis.plot(*points[0], color=line["color"], marker="o", **ring)
                axis.plot([], [], label=row.label, **line)
            else:
                axis.plot(*zip(*points, strict=True), label=row.label, **line)
        axis.set(xlabel="noise in the discs [%]", title=f"{kind} lesions ({of.sum()})")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("contrast recovery [1]")
    axes[1].yaxis.set_tick_params(labelleft=True)
    figure.suptitle(f"Test split{dose_text(found.dose)}", size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def _curve(paths: Sequence[Path], kind: str) -> list[tuple[float, float]]:
    """Noise (%) and contrast recovery of a kind for each value of a setting, ascending."""
    table = pd.concat([read(path, COLUMNS) for path in paths])
    table = table[table["kind"] == kind]
    means = table.groupby("setting")[[*RECOVERY, *NOISE]].mean().itertuples(index=False)
    return [
        (
            100 * float(relative_noise(one.variance, one.level)),
            float(contrast_recovery(one.difference, one.true_difference)),
        )
        for one in means
    ]
