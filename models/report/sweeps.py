"""Figures of the sweeps: quality over epochs, guidance, samplers and data consistency.

Each function returns a figure, for `models.report.drawing.save`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from models.evaluation.catalogue import OSEM, Metric, entry
from models.report.columns import AGAINST, dose_text
from models.report.drawing import LINES, read, remedy, style
from pipeline.storage.errors import InputError

DRAWN = ("psnr_db", "ssim")
"""Metrics that figures of every sweep show."""

SLICE = ("subject", "rotation", "slice_index")

SAMPLING = (
    *("sampler", "steps", "eta", "guidance", "antithetic", "samples"),
    *("consistency_steps", "consistency_strength", "consistency_start"),
)
"""Columns of the settings that entries of a sweep may replace."""

SHORT = {
    "guidance": "λ₂ = {:g}",
    "antithetic": "antithetic {:g}",
    "samples": "mean of {:g}",
    "consistency_steps": "{:g} EM steps",
    "consistency_strength": "strength {:g}",
    "consistency_start": "from {:g} on",
}
"""What a legend says of those that differ."""


def epochs(rows: Mapping[str, Sequence[Path]], reference: str = OSEM) -> Figure:
    """Draw PSNR and SSIM over the epochs of training, as the paper's Fig. 3.

    Parameters
    ----------
    rows : mapping of name to sequence of path
        Tables of the sweep over epochs: of one model, or of its replicates, which are drawn as
        thin lines around their mean.
    reference : str
        What images are compared with, a name of `models.evaluation.catalogue.REFERENCES`.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a metric.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    tables = {row: [_read_sweep(path, ("epoch",), reference) for path in rows[row]] for row in rows}
    for row, replicates in tables.items():
        _check_alike(pd.concat(replicates), rows[row], ["epoch"])
    for n, (row, replicates) in enumerate(tables.items()):
        label = f"{row} (mean of {len(replicates)} seeds)" if len(replicates) > 1 else row
        for axis, metric in zip(axes, DRAWN, strict=True):
            curves = pd.concat([_means(table, metric, ["epoch"]) for table in replicates], axis=1)
            mean = curves.dropna().mean(axis=1)  # else the mean jumps where a replicate ends
            axis.plot(mean.index, mean, label=label, **style(n))
            if len(replicates) > 1:
                axis.plot(curves, color=style(n)["color"], linewidth=0.7, alpha=0.7)
    for axis, metric in zip(axes, DRAWN, strict=True):
        axis.set(xlabel="epoch", ylabel=entry(metric).heading)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    every = [table for each in tables.values() for table in each]
    figure.suptitle(_facts("Test split", every, reference), size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def guidance(paths: Sequence[Path], reference: str = OSEM) -> Figure:
    """Draw PSNR and SSIM over p_dp (down) and lambda_2 (across), as heat maps.

    Parameters
    ----------
    paths : sequence of path
        Tables of the sweep over guidance, each of one model, which is one row. The best cell is
        framed.
    reference : str
        What images are compared with, a name of `models.evaluation.catalogue.REFERENCES`.

    Raises
    ------
    InputError
        If a table is missing, unreadable, lacks a column or a metric, or is of a model without
        guidance.
    """
    tables = [_read_sweep(path, ("condition_dropout", "guidance"), reference) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table[["condition_dropout", "guidance"]].isna().any(axis=None):
            problem = "has rows without condition_dropout or guidance"
            raise InputError(path, problem, "sweep models that have both (cDPM, LegoPET)")
    swept = pd.concat(tables)
    _check_alike(swept, paths, ["guidance"])
    figure = Figure(layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, metric in zip(axes, DRAWN, strict=True):
        means = _means(swept, metric, ["condition_dropout", "model", "guidance"])
        grid = means.unstack("guidance").sort_index()
        _draw_heat_map(axis, grid, entry(metric))
    rows, columns = grid.shape
    figure.set_size_inches(max(11, 4 + 1.6 * columns), 2.4 + 0.6 * rows)  # for the title
    axes[0].set_ylabel("p_dp: condition dropout in training")
    figure.suptitle(_facts("Validation split", tables, reference), size=10)
    return figure


def _draw_heat_map(axis: Axes, grid: pd.DataFrame, metric: Metric) -> None:
    """Draw a table of p_dp and model (rows) by lambda_2 (columns), with its values."""
    values = grid.to_numpy()
    shown = axis.imshow(values, cmap="cividis", aspect="auto")
    axis.figure.colorbar(shown, ax=axis, label=metric.heading)
    axis.set_title(metric.heading, fontsize=10)
    axis.set_xticks(range(len(grid.columns)), [f"{scale:g}" for scale in grid.columns])
    axis.set_yticks(range(len(grid)), [f"{dropout:g}\n{model}" for dropout, model in grid.index])
    axis.set_xlabel("λ₂: guidance scale in sampling")
    dark = np.asarray(shown.norm(values)) < 0.5
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if dark[row, column] else "black"
        text = "–" if np.isnan(value) else f"{value:.{metric.digits}f}"
        axis.text(column, row, text, ha="center", va="center", color=colour)
    best = np.nanargmax(values) if metric.better == "higher" else np.nanargmin(values)
    row, column = np.unravel_index(best, values.shape)
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=3, clip_on=False)
    axis.add_patch(frame)


def consistency(paths: Sequence[Path], reference: str = OSEM) -> Figure:
    """Draw PSNR, SSIM and seconds a slice over the EM steps with the measured counts.

    Parameters
    ----------
    paths : sequence of path
        Tables of the sweep over consistency, each of one model: strength and start differ in colour
        and marker, models in line style. All lines of a model begin where it is off.
    reference : str
        What images are compared with, a name of `models.evaluation.catalogue.REFERENCES`.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a metric.
    """
    metrics, steps = (*DRAWN, "reconstruction_seconds"), "consistency_steps"
    ways = ["consistency_strength", "consistency_start"]
    tables = [_read_sweep(path, (steps, *ways), reference, metrics) for path in paths]
    swept = pd.concat(tables)
    _check_alike(swept, paths, [steps, *ways])
    on = swept[swept[steps] > 0]
    lines, models = on[ways].drop_duplicates().to_numpy().tolist(), list(swept["model"].unique())
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, metric in zip(axes, metrics, strict=True):
        for model, of_model in swept.groupby("model", sort=False):
            # Without any way, where it is off everywhere, there is a point.
            for number, way in enumerate(lines or [[0.0, 0.0]]):
                chosen = (of_model[steps] == 0) | (of_model[ways] == way).all(axis=1)
                curve = _means(of_model[chosen], metric, [steps])
                line = style(number) | {"linestyle": LINES[models.index(model) % len(LINES)]}
                name = "strength {:g}, from {:g} on".format(*way)
                label = f"{model}: {name}" if len(models) > 1 else name
                axis.plot(curve.index, curve, label=label, **line)
        axis.set(xlabel="EM steps at each step", ylabel=entry(metric).heading)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    figure.suptitle(_facts("Validation split", tables, reference), size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def samplers(paths: Sequence[Path], reference: str = OSEM) -> Figure:
    """Draw PSNR, SSIM and seconds a slice over the steps of each sampler.

    Parameters
    ----------
    paths : sequence of path
        Tables of the sweep over samplers, each of one model: samplers (and eta of DDIM) differ in
        colour and marker, models in line style.
    reference : str
        What images are compared with, a name of `models.evaluation.catalogue.REFERENCES`.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a metric.
    """
    metrics = (*DRAWN, "reconstruction_seconds")
    tables = [_read_sweep(path, ("sampler", "steps", "eta"), reference, metrics) for path in paths]
    swept = pd.concat(tables)
    eta = swept["eta"].map(", η = {:g}".format).where(swept["sampler"] == "ddim", "")
    swept["process"] = swept["sampler"] + eta + _varied(swept)  # DDIM alone has an eta
    processes, models = list(swept["process"].unique()), list(swept["model"].unique())
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, metric in zip(axes, metrics, strict=True):
        means = _means(swept, metric, ["model", "process", "steps"])
        for model, process in swept[["model", "process"]].drop_duplicates().to_numpy():
            curve = means.xs((model, process))
            line = style(processes.index(process))
            line["linestyle"] = LINES[models.index(model) % len(LINES)]
            label = f"{model}: {process}" if len(models) > 1 else process
            axis.plot(curve.index, curve, label=label, **line)
        axis.set(xlabel="sampling steps", ylabel=entry(metric).heading, xscale="log")
        axis.set_xticks(sorted(swept["steps"].unique()))
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    axes[2].set(yscale="log")
    figure.suptitle(_facts("Validation split", tables, reference), size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def _read_sweep(
    path: Path, settings: Sequence[str], reference: str, metrics: Sequence[str] = DRAWN
) -> pd.DataFrame:
    """Read a sweep's rows against a reference on whole images, and those without one (times)."""
    columns = *("dose", "model", "samples", "metric", "reference", "region", "value"), *settings
    others = [name for name in SAMPLING if name not in columns]
    table = read(path, (*SLICE, *columns), others)
    compared = table["reference"].isin([reference, np.nan])
    table = table[compared & table["region"].isin(["image", np.nan])]
    counts = table["metric"].value_counts()
    if fewer := [name for name in metrics if counts.get(name, 0) < max(counts, default=1)]:
        problem = f"has no rows of {', '.join(fewer)} for some or all slices and settings"
        raise InputError(path, problem, remedy(path))
    return table


def _varied(swept: pd.DataFrame) -> pd.Series:
    """Name the settings, but for sampler, steps and eta, that differ between a sweep's entries."""
    names, several = pd.Series("", index=swept.index), swept["samples"] > 1
    for column, name in SHORT.items():
        told = several if column == "antithetic" else names.notna()  # of a pair, so not of one
        if column in swept and swept.loc[told, column].nunique(dropna=False) > 1:
            names[told] += ", " + swept.loc[told, column].map(name.format)
    return names.str.replace(r"mean of 1\b", "single", regex=True)


def _check_alike(swept: pd.DataFrame, paths: Sequence[Path], drawn: Sequence[str]) -> None:
    """Refuse entries that differ in more than a figure shows: it would draw their mean."""
    others = [name for name in SAMPLING if name in swept and name not in drawn]
    for name in others:
        values = sorted(swept[name].dropna().unique())
        if len(values) > 1:
            raise InputError(
                ", ".join(map(str, paths)),
                f"are of entries with different {name}: {', '.join(map(str, values))}; the figure "
                f"shows {', '.join(drawn)} alone",
                f"give all entries of the sweep the same {name}, or list them under samplers",
            )


def _means(table: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.Series:
    """Mean of a metric over slices, for each combination of settings."""
    return table[table["metric"] == metric].groupby(list(by), sort=True)["value"].mean()


def _facts(split: str, tables: Sequence[pd.DataFrame], reference: str) -> str:
    """What the numbers of a sweep are: a title."""
    table = pd.concat(tables)
    slices = len(table[list(SLICE)].drop_duplicates())
    of = dose_text(*table["dose"].unique())
    estimates = " and ".join(
        "single samples" if count == 1 else f"means of {count:g} samples"
        for count in sorted(table["samples"].unique())
    )
    mean = f"{split}{of}: mean over {slices} slices, {estimates}"
    return f"{mean}, {AGAINST[reference]}, data range 1, whole image"
