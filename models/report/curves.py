"""Rules of the report's curves, heat maps and intervals: figures drawn from CSV tables.

Each function returns a figure, which `save` writes. Lines differ in colour (Okabe and Ito's, safe
for colour-blind readers), and in line style and marker for readers without colours.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from models.evaluation.metrics_table import COLUMNS, PART
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.system_errors import unreadable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "D", "v")

QUALITY = {"psnr_db": "PSNR [dB]", "ssim": "SSIM"}
"""Metrics of every sweep, with axis labels."""

SLICE = ("subject", "rotation", "slice_index")

REFERENCES = {"osem": "against the OSEM reference", "truth": "against the noise-free truth"}


def save(figure: Figure, output: Path) -> None:
    """Write a figure as PNG, 150 dots per inch: all of it or nothing.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    with hdf5.atomic(output) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


# --- training ----------------------------------------------------------------------------------


def training_curves(logs: Mapping[str, Path]) -> Figure:
    """Draw loss and validation PSNR over the steps of each model.

    The PSNR is that of the weights' moving average where the log has it, and the legend says so.
    Losses are means over 1 % of the log, else the noise of one model would hide the others.

    Parameters
    ----------
    logs : mapping of model to path
        CSV logs of `models.training.train.train`.

    Raises
    ------
    InputError
        If a log is missing, unreadable, or lacks a column.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for n, (model, path) in enumerate(logs.items()):
        log = _read(path, ("step", "loss", "validation_psnr_db"), ("validation_ema_psnr_db",))
        averaged = log["validation_ema_psnr_db"].notna().any()
        column = "validation_ema_psnr_db" if averaged else "validation_psnr_db"
        style = {**_style(n), "label": f"{model} (EMA)" if averaged else model}
        loss = log["loss"].rolling(1 + len(log) // 100, min_periods=1).mean()
        left.plot(log["step"], loss, markevery=0.15, **style)
        validated = log.dropna(subset=[column])
        right.plot(validated["step"], validated[column], **style)
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.3)
    left.set(ylabel="training loss, moving mean [1]", yscale="log")
    right.set(ylabel="validation PSNR [dB]")
    title = "against OSEM, data range 1, whole image\nEMA: by the moving average of the weights"
    right.set_title(title, fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


# --- sweeps ------------------------------------------------------------------------------------


def epochs(rows: Mapping[str, Sequence[Path]]) -> Figure:
    """Draw PSNR and SSIM against OSEM over the epochs of training, as the paper's Fig. 3.

    Parameters
    ----------
    rows : mapping of name to sequence of path
        Tables of the sweep over epochs: of one model, or of its replicates, which are drawn as
        thin lines around their mean.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a metric.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    tables = {row: [_read_sweep(path, ("epoch",)) for path in rows[row]] for row in rows}
    for n, (row, replicates) in enumerate(tables.items()):
        label = f"{row} (mean of {len(replicates)} seeds)" if len(replicates) > 1 else row
        for axis, metric in zip(axes, QUALITY, strict=True):
            curves = pd.concat([_means(table, metric, ["epoch"]) for table in replicates], axis=1)
            mean = curves.dropna().mean(axis=1)  # else the mean jumps where a replicate ends
            axis.plot(mean.index, mean, label=label, **_style(n))
            if len(replicates) > 1:
                axis.plot(curves, color=_style(n)["color"], linewidth=0.7, alpha=0.7)
    for axis, quantity in zip(axes, QUALITY.values(), strict=True):
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    figure.suptitle(_facts("Test split", [t for each in tables.values() for t in each]), size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def guidance(paths: Sequence[Path]) -> Figure:
    """Draw PSNR and SSIM against OSEM over p_dp (down) and lambda_2 (across), as heat maps.

    Parameters
    ----------
    paths : sequence of path
        Tables of the sweep over guidance, each of one model, which is one row. The best cell is
        framed.

    Raises
    ------
    InputError
        If a table is missing, unreadable, lacks a column or a metric, or is of a model without
        guidance.
    """
    tables = [_read_sweep(path, ("condition_dropout", "guidance")) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table[["condition_dropout", "guidance"]].isna().any(axis=None):
            problem = "has rows without condition_dropout or guidance"
            raise InputError(path, problem, "sweep models that have both (cDPM, LegoPET)")
    swept = pd.concat(tables)
    figure = Figure(layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (metric, quantity) in zip(axes, QUALITY.items(), strict=True):
        means = _means(swept, metric, ["condition_dropout", "model", "guidance"])
        grid = means.unstack("guidance").sort_index()
        _draw_heat_map(axis, grid, quantity, 4 if metric == "ssim" else 2)
    rows, columns = grid.shape
    figure.set_size_inches(max(8, 4 + 1.6 * columns), 2.4 + 0.6 * rows)
    axes[0].set_ylabel("p_dp: condition dropout in training")
    figure.suptitle(_facts("Validation split", tables), size=10)
    return figure


def _draw_heat_map(axis: Axes, grid: pd.DataFrame, quantity: str, digits: int) -> None:
    """Draw a table of p_dp and model (rows) by lambda_2 (columns), with its values."""
    values = grid.to_numpy()
    shown = axis.imshow(values, cmap="cividis", aspect="auto")
    axis.figure.colorbar(shown, ax=axis, label=quantity)
    axis.set_title(quantity, fontsize=10)
    axis.set_xticks(range(len(grid.columns)), [f"{scale:g}" for scale in grid.columns])
    axis.set_yticks(range(len(grid)), [f"{dropout:g}\n{model}" for dropout, model in grid.index])
    axis.set_xlabel("λ₂: guidance scale in sampling")
    dark = np.asarray(shown.norm(values)) < 0.5
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if dark[row, column] else "black"
        text = "–" if np.isnan(value) else f"{value:.{digits}f}"
        axis.text(column, row, text, ha="center", va="center", color=colour)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=3, clip_on=False)
    axis.add_patch(frame)


def samplers(paths: Sequence[Path]) -> Figure:
    """Draw PSNR, SSIM (against OSEM) and seconds a slice over the steps of each sampler.

    Parameters
    ----------
    paths : sequence of path
        Tables of the sweep over samplers, each of one model: samplers (and eta of DDIM) differ in
        colour and marker, models in line style.

    Raises
    ------
    InputError
        If a table is missing, unreadable, or lacks a column or a metric.
    """
    metrics = {**QUALITY, "reconstruction_seconds": "time per slice [s]"}
    tables = [_read_sweep(path, ("sampler", "steps", "eta"), tuple(metrics)) for path in paths]
    swept = pd.concat(tables)
    eta = swept["eta"].map(", η = {:g}".format).where(swept["sampler"] == "ddim", "")
    swept["process"] = swept["sampler"] + eta  # DDIM alone has an eta
    processes, models = list(swept["process"].unique()), list(swept["model"].unique())
    figure = Figure(figsize=(14, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (metric, quantity) in zip(axes, metrics.items(), strict=True):
        means = _means(swept, metric, ["model", "process", "steps"])
        for model, process in swept[["model", "process"]].drop_duplicates().to_numpy():
            curve = means.xs((model, process))
            style = _style(processes.index(process))
            style["linestyle"] = LINES[models.index(model) % len(LINES)]
            label = f"{model}: {process}" if len(models) > 1 else process
            axis.plot(curve.index, curve, label=label, **style)
        axis.set(xlabel="sampling steps", ylabel=quantity, xscale="log")
        axis.grid(alpha=0.3)
    axes[2].set(yscale="log")
    figure.suptitle(_facts("Validation split", tables), size=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


# --- metrics of the test slices ----------------------------------------------------------------


def calibration(metrics: Path) -> Figure:
    """Draw how often intervals of posterior samples hold the references, over their nominal level.

    Parameters
    ----------
    metrics : Path
        Table of rule ``metrics``. Models with more than one sample are drawn, each a line: the
        mean over test slices of the part of the head's pixels inside the interval. If there are
        none, the figure says so.

    Raises
    ------
    InputError
        If the table is missing, unreadable, or lacks a column.
    """
    table = _read(
        metrics,
        ("model", "metric", "reference", "region", "value"),
        keep=lambda part: part["metric"].str.startswith("coverage_") & (part["region"] == "head"),
    )
    if table.empty:
        figure = Figure(figsize=(8, 2))
        text = "No model drew more than one sample of a slice:\nthere are no intervals to check."
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
        return figure
    level = table["metric"].str.removeprefix("coverage_").astype(float)
    covered = table.assign(level=level).groupby(["reference", "model", "level"])["value"].mean()
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (reference, title) in zip(axes, REFERENCES.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1, label="calibrated")
        for n, model in enumerate(table["model"].unique()):
            curve = covered.xs((reference, model))
            axis.plot(curve.index, curve, label=model, **_style(n))
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title)
        axis.set_xlabel("nominal level of the interval")
        axis.set_ylabel("part of the head's pixels inside it")
        axis.text(0.04, 0.94, "intervals too wide", va="top", color="dimgrey", fontsize=9)
        axis.text(0.96, 0.58, "intervals too narrow", ha="right", color="dimgrey", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def regional_bias(metrics: Path, models: Sequence[str]) -> Figure:
    """Draw errors of the mean activity in grey and white matter, and contrast recovery.

    One row a model: diamond the mean over test slices, thick bar the quartiles, thin bar the 5th
    to 95th percentile. FBP and OSEM come first.

    Parameters
    ----------
    metrics : Path
        Table of rule ``metrics``; of models with several samples the first is drawn.
    models : sequence of str
        From top to bottom.

    Raises
    ------
    InputError
        If the table is missing, unreadable, or lacks a column or a model.
    """
    shown = ("mean", "mean_error", "contrast_recovery")
    table = _read(
        metrics,
        ("model", "estimate", "metric", "region", "value"),
        keep=lambda part: (part["estimate"] == "single") & part["metric"].isin(shown),
    )
    names = ["FBP", "OSEM", *models]
    if missing := [name for name in names if name not in set(table["model"])]:
        raise InputError(metrics, f"has no rows of {', '.join(missing)}", _remedy(metrics))
    figure = Figure(figsize=(12, 1.6 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    osem = table[table["model"] == "OSEM"].groupby(["metric", "region"])["value"].mean()
    for axis, tissue in zip(axes, ("grey", "white"), strict=False):
        errors = table[(table["metric"] == "mean_error") & (table["region"] == tissue)]
        _draw_spreads(axis, errors, names, ideal=0)
        true_mean = osem.get(("mean", tissue), np.nan) - osem.get(("mean_error", tissue), np.nan)
        axis.set_title(f"{tissue} matter, true mean {true_mean:.1f} a.u.", fontsize=10)
        axis.set_xlabel("mean activity - true mean [a.u.]")
    _draw_spreads(axes[2], table[table["metric"] == "contrast_recovery"], names, ideal=1)
    axes[2].set_title("grey to white matter", fontsize=10)
    axes[2].set_xlabel("contrast recovery [1]")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()  # shared: once is enough
    return figure


def _draw_spreads(axis: Axes, table: pd.DataFrame, names: Sequence[str], ideal: float) -> None:
    """Draw mean, quartiles and 5th to 95th percentile of each model's values at 0, 1, ..."""
    axis.axvline(ideal, color="black", linestyle="--", linewidth=1)
    for y, name in enumerate(names):
        values = table.loc[table["model"] == name, "value"].to_numpy()
        if len(values):
            low, first, third, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
            axis.hlines(y, low, high, color=COLOURS[0], linewidth=1.2)
            axis.hlines(y, first, third, color=COLOURS[4], linewidth=7)
            axis.plot(values.mean(), y, marker="D", color=COLOURS[1], markersize=5)
    axis.grid(axis="x", alpha=0.3)


# --- tables and style --------------------------------------------------------------------------


def _style(n: int) -> dict[str, Any]:
    """Style of the n-th line: twenty differ in line style or marker, 140 with colours."""
    return {
        "color": COLOURS[n % len(COLOURS)],
        "linestyle": LINES[n % len(LINES)],
        "marker": MARKERS[n % len(MARKERS)],
        "markersize": 4,
    }


def _remedy(path: Path) -> str:
    return f"delete it and make it again: snakemake --cores all -- {path}"


def _read(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    keep: Callable[[pd.DataFrame], pd.Series] | None = None,
) -> pd.DataFrame:
    """Read some columns of a CSV file (gzip or not), and of its rows those to keep, if not all.

    Optional columns may be absent, then they are all NaN.
    """
    wanted, kept = [*columns, *optional], []
    try:
        with pd.read_csv(
            path,
            usecols=wanted.__contains__,
            dtype={name: kind for name, kind in COLUMNS.items() if kind == "str"},
            keep_default_na=False,  # a model may be called None or inf
            na_values=[""],
            low_memory=False,
            chunksize=PART,
        ) as parts:
            for part in parts:
                if missing := [name for name in columns if name not in part]:
                    problem = f"lacks the columns {', '.join(missing)}"
                    raise InputError(path, problem, _remedy(path))
                if "value" in part and part["value"].isna().any():
                    raise InputError(path, "has a row without a value", _remedy(path))
                kept.append(part if keep is None else part[keep(part)])
    except FileNotFoundError:
        remedy = _remedy(path).removeprefix("delete it and ")
        raise InputError(path, "does not exist", remedy) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:  # gzip's and pandas'
        problem = f"is not a readable CSV table ({error})"
        raise unreadable(path, error, problem, _remedy(path)) from error
    return pd.concat(kept).reindex(columns=wanted)


def _read_sweep(
    path: Path, settings: Sequence[str], metrics: Sequence[str] = tuple(QUALITY)
) -> pd.DataFrame:
    """Read a sweep's rows against OSEM on whole images, and those without a reference (times)."""
    columns = ("model", "samples", "metric", "reference", "region", "value")
    table = _read(path, (*SLICE, *columns, *settings))
    table = table[
        table["reference"].isin(["osem", np.nan]) & table["region"].isin(["image", np.nan])
    ]
    counts = table["metric"].value_counts()
    if fewer := [name for name in metrics if counts.get(name, 0) < max(counts, default=1)]:
        problem = f"has no rows of {', '.join(fewer)} for some or all slices and settings"
        raise InputError(path, problem, _remedy(path))
    return table


def _means(table: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.Series:
    """Mean of a metric over slices, for each combination of settings."""
    return table[table["metric"] == metric].groupby(list(by), sort=True)["value"].mean()


def _facts(split: str, tables: Sequence[pd.DataFrame]) -> str:
    """What the numbers of a sweep are: a title."""
    table = pd.concat(tables)
    slices = len(table[list(SLICE)].drop_duplicates())
    counts = "/".join(f"{count:.0f}" for count in sorted(table["samples"].unique()))
    estimate = "single samples" if counts == "1" else f"means of {counts} samples"
    return (
        f"{split}: mean over {slices} slices, {estimate}, against OSEM, data range 1, whole image"
    )
