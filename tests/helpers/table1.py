"""A table of metrics, and Table 1 of it."""

from types import MappingProxyType

import numpy as np

from models.report.table1 import table1

METHODS = {"PnPNet": 30.0, "cDPM": 28.0, "LegoPET": 31.0, "LegoPET-seed2": 33.0}

FACTS = {
    "FBP": {"conditioning": ""},
    "OSEM": {"conditioning": ""},
    "PnPNet": {"sampler": ""},
    "LegoPET-fbp": {"conditioning": "sinogram, fbp"},
}


def rows_of(model, psnr_db, estimate="single", samples=1, seed=0, references=("osem", "truth")):
    """Rows of 2 subjects, 3 slices and 2 rotations around a PSNR, and some of the other metrics."""
    rng = np.random.default_rng(seed)
    origin = {
        "model": model,
        "method": model.partition("-")[0],
        "conditioning": "sinogram",
        "estimate": estimate,
        "sampler": "ddim",
        "samples": samples,
        **FACTS.get(model, {}),
    }
    keys = [
        (metric, reference, region)
        for metric in ("psnr_db", "ssim", "nrmse")
        for reference in references
        for region in ("image", "head")
    ]
    keys += [("mean_error", "truth", "grey"), ("mean", "", "grey"), ("sd_mean", "", "head")]
    for subject in ("subject41", "subject42"):
        for slice_index in (10, 11, 12):
            for rotation in (0, 1):
                slice_noise = slice_index + rng.normal(0, 0.1)
                for metric, reference, region in keys:
                    yield origin | {
                        "subject": subject,
                        "dose": 1.0,
                        "slice_index": slice_index,
                        "rotation": rotation,
                        "metric": metric,
                        "reference": reference,
                        "region": region,
                        "value": {"psnr_db": psnr_db + slice_noise, "ssim": 0.9}.get(metric, 0.1),
                    }


ROWS = {
    "PnPNet": ["PnPNet"],
    "cDPM": ["cDPM"],
    "LegoPET": ["LegoPET", "LegoPET-seed2"],
    "LegoPET-fbp": ["LegoPET-fbp"],
}


def make(metrics, rows, folder, parameters=MappingProxyType({}), **more):
    """Make the table; give the outputs' paths by kind."""
    paths = {name: folder / name for name in ("csv", "differences", "markdown", "latex", "html")}
    outputs = {f"output_{name}": path for name, path in paths.items()}
    table1(metrics, rows, parameters, **outputs, **more)
    return paths
