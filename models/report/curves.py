"""Figures of training and of the test slices' metrics: curves and intervals.

Each function returns a figure, for `models.report.drawing.save`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from models.evaluation import derived
from models.evaluation.bootstrap import Bootstrap
from models.evaluation.catalogue import OSEM, TRUTH, entry
from models.report.columns import AGAINST, dose_text
from models.report.drawing import COLOURS, read, remedy, style
from pipeline.baselines import title_of
from pipeline.storage.errors import InputError

IMAGE = ("subject", "slice_index", "rotation")

OF_LEVEL = r"((?:coverage|width)(?:_calibrated)?)_([\d.]+)$"
"""Metrics of intervals, and the level in their names."""

TITLES = {OSEM: "against the OSEM reference", TRUTH: "against the noise-free truth"}


def training_curves(
    logs: Mapping[str, Path], reference: str = OSEM, doses: Sequence[float] = (1.0,)
) -> Figure:
    """Draw loss and validation PSNR over the steps of each model.

    The PSNR is that of the weights' moving average where the log has it, and the legend says so.
    Losses are means over 1 % of the log, else the noise of one model would hide the others.

    Parameters
    ----------
    logs : mapping of model to path
        CSV logs of `models.training.train.train`.
    reference : str
        What networks were trained towards, a name of `models.evaluation.catalogue.REFERENCES`.
    doses : sequence of float
        Parts of all counts that they were trained and validated at, mixed.

    Raises
    ------
    InputError
        If a log is missing, unreadable, or lacks a column.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for n, (model, path) in enumerate(logs.items()):
        log = read(path, ("step", "loss", "validation_psnr_db"), ("validation_ema_psnr_db",))
        averaged = log["validation_ema_psnr_db"].notna().any()
        column = "validation_ema_psnr_db" if averaged else "validation_psnr_db"
        line = {**style(n), "label": f"{model} (EMA)" if averaged else model}
        loss = log["loss"].rolling(1 + len(log) // 100, min_periods=1).mean()
        left.plot(log["step"], loss, markevery=0.15, **line)
        validated = log.dropna(subset=[column])
        right.plot(validated["step"], validated[column], **line)
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(EngFormatter())
        axis.grid(alpha=0.3)
    left.set(ylabel="training loss, moving mean [1]", yscale="log")
    right.set(ylabel="validation PSNR [dB]")
    of = dose_text(*doses).removeprefix(", ")
    title = f"{AGAINST[reference]}, data range 1, whole image\n"
    title += f"{of and of + '; '}EMA: by the moving average of the weights"
    right.set_title(title, fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def calibration(metrics: Path, dose: float = 1.0) -> Figure:
    """Draw how often intervals of posterior samples hold the references, and how wide they are.

    Both over the nominal level, as sampled and, with hollow markers, calibrated.

    Parameters
    ----------
    metrics : Path
        Table of rule ``metrics``. Models with more than one sample are drawn, each a line: the
        mean over test slices of the part of the head's pixels inside the interval, and of the
        interval's width there. If there are none, the figure says so.
    dose : float
        Part of all counts that the images were made from.

    Raises
    ------
    InputError
        If the table is missing, unreadable, or lacks a column.
    """
    table = read(
        metrics,
        ("dose", "model", "metric", "reference", "region", "value"),
        keep=lambda part: (
            (part["dose"] == dose) & part["metric"].str.match(OF_LEVEL) & (part["region"] == "head")
        ),
    )
    if table.empty:
        return _saying(
            "No model drew more than one sample of a slice:\nthere are no intervals to check."
        )
    parts = table["metric"].str.extract(OF_LEVEL).rename(columns={0: "of", 1: "level"})
    means = (
        table.assign(of=parts["of"], level=parts["level"].astype(float))
        .fillna({"reference": ""})  # what has none has no word for it
        .groupby(["of", "reference", "model", "level"])["value"]
        .mean()
    )
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    for (upper, lower), (reference, title) in zip(axes.T, TITLES.items(), strict=True):
        upper.plot([0, 1], [0, 1], color="grey", linewidth=1, label="right")
        for n, model in enumerate(table["model"].unique()):
            # As sampled, intervals are as wide whatever they are compared with.
            for axis, of, against in ((upper, "coverage", reference), (lower, "width", "")):
                _draw_levels(axis, means, (of, against, model), label=model, **style(n))
                hollow = {"label": f"{model}, calibrated", **style(n), "markerfacecolor": "none"}
                _draw_levels(axis, means, (f"{of}_calibrated", reference, model), **hollow)
        upper.set(xlim=(0, 1), ylim=(0, 1), title=title)
        upper.text(0.04, 0.94, "intervals too wide", va="top", color="dimgrey", fontsize=9)
        upper.text(0.96, 0.04, "intervals too narrow", ha="right", color="dimgrey", fontsize=9)
        lower.set(xlim=(0, 1), xlabel="nominal level of the interval")
    axes[1, 0].set_ylim(bottom=0)  # once all is drawn: that ends the fitting of the shared axis
    axes[0, 0].set_ylabel("part of the head's pixels inside it")
    axes[1, 0].set_ylabel("mean width in the head [activity]")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", fontsize=9)
    _say_dose(figure, dose)
    return figure


def _draw_levels(axis: Axes, means: pd.Series, key: tuple[str, str, str], **line: Any) -> None:
    """Draw the means of a metric, reference and model over their levels, if there are any."""
    if key in means.index.droplevel("level"):
        curve = means.xs(key)
        axis.plot(curve.index, curve, **line)


def regional_bias(metrics: Path, models: Sequence[str], dose: float = 1.0) -> Figure:
    """Draw errors of the mean activity in grey and white matter, and contrast recovery.

    One row a model: diamond the mean over test slices, thick bar the quartiles, thin bar the 5th
    to 95th percentile; of contrast recovery, which is a ratio of means, its 95 % interval as in
    Table 1. FBP and OSEM come first. Of images without labels nothing is known of tissues, and the
    figure says so.

    Parameters
    ----------
    metrics : Path
        Table of rule ``metrics``; of models with several samples the first is drawn.
    models : sequence of str
        From top to bottom.
    dose : float
        Part of all counts that the images were made from.

    Raises
    ------
    InputError
        If the table is missing, unreadable, or lacks a column or a model.
    """
    shown = ("mean", "mean_error")
    table = read(
        metrics,
        ("dose", *IMAGE, "model", "estimate", "metric", "reference", "region", "value"),
        keep=lambda part: (
            (part["dose"] == dose) & (part["estimate"] == "single") & part["metric"].isin(shown)
        ),
    )
    if table.empty:
        return _saying("No test subject has labels:\nthere are no tissues to compare.")
    names = ["FBP", "OSEM", *models]
    if missing := [name for name in names if name not in set(table["model"])]:
        raise InputError(metrics, f"has no rows of {', '.join(missing)}", remedy(metrics))
    figure = Figure(figsize=(12, 1.6 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    osem = table[table["model"] == "OSEM"].groupby(["metric", "region"])["value"].mean()
    for axis, tissue in zip(axes, ("grey", "white"), strict=False):
        errors = table[(table["metric"] == "mean_error") & (table["region"] == tissue)]
        _draw_spreads(axis, errors, names, ideal=0)
        true_mean = osem.get(("mean", tissue), np.nan) - osem.get(("mean_error", tissue), np.nan)
        axis.set_title(f"{tissue} matter, true mean {true_mean:.1f} a.u.", fontsize=10)
        axis.set_xlabel("mean activity - true mean [a.u.]")
    _draw_recoveries(axes[2], table, names)
    axes[2].set_title("grey to white matter, ratio of means", fontsize=10)
    axes[2].set_xlabel("contrast recovery [1]")
    axes[0].set_yticks(range(len(names)), [title_of(name, dose < 1) for name in names])
    axes[0].invert_yaxis()  # shared: once is enough
    _say_dose(figure, dose)
    return figure


def _say_dose(figure: Figure, dose: float) -> None:
    if text := dose_text(dose):
        figure.suptitle(f"From {text.removeprefix(', ')}", size=10)


def _saying(text: str) -> Figure:
    """Say in place of a figure why there is none."""
    figure = Figure(figsize=(8, 2))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
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


def _draw_recoveries(axis: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw each model's contrast recovery with its interval at 0, 1, ..."""
    columns = ["model", "metric", "reference", "region"]
    # What has no reference has no word for it.
    wide = table.fillna({"reference": ""}).pivot(index=IMAGE, columns=columns, values="value")
    bootstrap = Bootstrap(wide.index.to_frame(index=False))
    axis.axvline(1, color="black", linestyle="--", linewidth=1)
    for y, name in enumerate(names):
        keys = [(name, *part) for part in entry("contrast_recovery").parts]
        values = wide.reindex(columns=pd.MultiIndex.from_tuples(keys)).to_numpy().T[:, None]
        mean, low, high = bootstrap.interval(*values, derive=derived.contrast_recovery)
        axis.hlines(y, low, high, color=COLOURS[0], linewidth=1.2)
        axis.plot(mean, y, marker="D", color=COLOURS[1], markersize=5)
    axis.grid(axis="x", alpha=0.3)
