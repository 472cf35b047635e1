"""Tables of metrics and sweeps with values that are known."""

import numpy as np
import pandas as pd


def write_sweep(path, model, settings, names, slices=2, samples=1, dose=1.0):
    """Write a sweep: settings maps values of the columns ``names`` to PSNR, SSIM and seconds.

    These are means; slices differ from them. Rows that must not be drawn are far off.
    """
    rows = []
    for values, (psnr_db, ssim, seconds) in settings.items():
        for n in range(slices):
            row = {"subject": "subject07", "rotation": 0, "slice_index": n, "model": model}
            row |= {"dose": dose, "samples": samples, **dict(zip(names, values, strict=True))}
            spread = n - (slices - 1) / 2
            for reference, off in (("osem", 0), ("truth", 100)):
                at = {"reference": reference, "region": "image"}
                rows.append({**row, **at, "metric": "psnr_db", "value": psnr_db + spread + off})
                rows.append({**row, **at, "metric": "ssim", "value": ssim + spread / 100 + off})
            rows.append({**row, "metric": "reconstruction_seconds", "value": seconds})
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def lines_of(axis, label):
    return [line for line in axis.lines if line.get_label() == label]


def write_metrics(path, rows):
    """Write rows (model, estimate, metric, reference, region, value), of slices 0, 1, ... each."""
    columns = ["model", "estimate", "metric", "reference", "region", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(dose=1.0)
    slices = table.groupby(columns[:-1], dropna=False).cumcount()
    table.assign(subject="subject07", rotation=0, slice_index=slices).to_csv(path, index=False)
    return path


def regional_rows(model, grey, white, estimate="single"):
    """Rows of slices whose true means are 100 and 25 in grey and white matter."""
    for n in range(len(grey)):
        for tissue, true, errors in (("grey", 100, grey), ("white", 25, white)):
            yield model, estimate, "mean", np.nan, tissue, true + errors[n]
            yield model, estimate, "mean_error", "truth", tissue, errors[n]
