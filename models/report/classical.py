"""Figure of what filtered OSEM and MAP do best with, for `models.report.drawing.save`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.report.drawing import COLOURS, remedy, style
from pipeline.baselines import MAP, OSEM_FILTER, title_of
from pipeline.storage.files import check_readable
from pipeline.storage.system_errors import unreadable


def classical(settings: Path) -> Figure:
    """Draw mean PSNR against the truth over what was compared, and mark what was chosen.

    Parameters
    ----------
    settings : Path
        From `pipeline.classical_settings.choose`.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    check_readable(settings, "file of settings", remedy(settings).removeprefix("delete it and "))
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    try:
        found = json.loads(settings.read_text(encoding="utf-8"))
        _draw_filters(left, found[OSEM_FILTER])
        _draw_betas(right, found[MAP], float(found["level"]))
        title = f"validation split: mean over {found['slices']} slices, against the truth"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"holds no curves of OSEM and MAP ({error!r})"
        raise unreadable(settings, error, problem, remedy(settings)) from error
    for axis in (left, right):
        axis.set_ylabel("PSNR [dB]")
        axis.yaxis.set_tick_params(labelleft=True)
        axis.grid(alpha=0.3)
    figure.suptitle(title, size=10)
    lines = left.get_legend_handles_labels()
    figure.legend(*lines, loc="outside left center", title="filter (FWHM)", fontsize=9)
    return figure


def _draw_filters(axis: Axes, found: Mapping[str, Any]) -> None:
    curve, chosen = found["curve"], found["chosen"]
    for n, fwhm_mm in enumerate(dict.fromkeys(point["fwhm_mm"] for point in curve)):
        line = [point for point in curve if point["fwhm_mm"] == fwhm_mm]
        psnr_db = [point["psnr_db"] for point in line]
        label = f"{fwhm_mm:g} mm"
        axis.plot([point["iterations"] for point in line], psnr_db, label=label, **style(n))
    _mark(axis, chosen["iterations"], found)
    chose = f"{chosen['iterations']} iterations, {chosen['fwhm_mm']:g} mm"
    axis.set_title(f"{title_of(OSEM_FILTER)}: {chose}{_at_end(found)}", fontsize=10)
    axis.set_xlabel("iterations of OSEM")


def _draw_betas(axis: Axes, found: Mapping[str, Any], level: float) -> None:
    curve, beta = found["curve"], found["chosen"]["beta"]
    betas = [point["beta"] * level for point in curve]
    axis.plot(betas, [point["psnr_db"] for point in curve], **style(0))
    _mark(axis, beta * level, found)
    axis.set_title(f"MAP: beta {beta:.3g} per activity{_at_end(found)}", fontsize=10)
    axis.set(xlabel=f"beta x level of the truth ({level:.3g} a.u.)", xscale="log")


def _mark(axis: Axes, x: float, found: Mapping[str, Any]) -> None:
    ring: dict[str, Any] = {"marker": "o", "markersize": 12, "fillstyle": "none"}
    axis.plot([x], [found["psnr_db"]], color=COLOURS[1], linestyle="none", **ring)


def _at_end(found: Mapping[str, Any]) -> str:
    return "\nat an end of what was compared" if found["at_end"] else ""
