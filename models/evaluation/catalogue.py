"""All metrics: what tables say of each, and where it is measured; also a command, which lists them.

A metric is its entry here and the function of its name in `models.evaluation.compute`, or, of those
that tables derive from others, in `models.evaluation.derived`. Nothing of this brings torch, which
tables and figures need not wait for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, product

Key = tuple[str, str, str]
"""Metric, reference and region, as in the columns of `models.evaluation.metrics_table`."""

OSEM, TRUTH = "osem", "truth"

REFERENCES = {OSEM: "osem", TRUTH: "activity"}
"""What images are compared with: its name in tables, and the shard's dataset."""


def reference_of(target: str) -> str:
    """Give the name in tables of what networks are trained towards, the name of a dataset."""
    return next(name for name, dataset in REFERENCES.items() if dataset == target)


CLASSES: dict[str, tuple[int, ...] | None] = {
    "image": None,
    "head": tuple(range(1, 12)),
    "grey": (2,),
    "white": (3,),
}
"""BrainWeb's classes of the pixels of each region; None for all pixels."""

REGIONS = {"image": "whole image", "head": "inside the head"}
"""Where images are compared, and how that is headed; other regions are of single metrics."""

TABLE1, DIFFERENCES = "table1", "differences"

IMAGES, SAMPLES, CALIBRATED = "images", "samples", "calibrated"
TIME, MEANS = "time", "means"


@dataclass(frozen=True)
class Metric:
    """What is known of a metric; several of one name are its parts, such as two tissues.

    Attributes
    ----------
    name : str
        In the column ``metric``, and of the function in `models.evaluation.compute` or `derived`.
    label, unit : str
        To read; "1" where there is no unit.
    digits : int
        After the point.
    references, regions : tuple of str
        Each with each; "" is none.
    better : str
        "higher", "lower", or what a perfect image has.
    of : str
        What is measured: `IMAGES`; of several `SAMPLES` their spread, or the `CALIBRATED` one,
        with factors that were fitted to other subjects; or `TIME`, by sweeps alone. Of `MEANS` over
        many images, by tables: single images have no value of it.
    parts : tuple of Key
        Whose means it is derived from, if it is of `MEANS`.
    always : tuple of str
        Regions where every slice has a value. Elsewhere it does not exist where a slice lacks the
        tissue, contrast, spread or signal that it is about, and has no line there. No line is left
        out for another reason.
    tables : tuple of str
        `TABLE1`; and `DIFFERENCES`, of whole images between methods.
    topic : str
        Heads the tables that have it, which are others than those of its reference and region.
    details, sentence : str
        What the caption of Table 1 adds to the label in its list of metrics, in parentheses; or
        what it says instead of listing it.
    """

    name: str
    label: str
    unit: str
    digits: int
    references: tuple[str, ...]
    regions: tuple[str, ...]
    better: str
    of: str = IMAGES
    parts: tuple[Key, ...] = ()
    always: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    topic: str = ""
    details: str = ""
    sentence: str = ""

    def __post_init__(self) -> None:
        if not {*self.references} <= {"", *REFERENCES} or not {*self.regions} <= {"", *CLASSES}:
            raise ValueError(f"{self.name}: {self.references} in {self.regions} are not all known")
        if (self.of == MEANS) != bool(self.parts) or (self.parts and DIFFERENCES in self.tables):
            raise ValueError(f"{self.name}: parts are those of means, which no image has by itself")

    @property
    def heading(self) -> str:
        """Label and unit."""
        return self.label if self.unit == "1" else f"{self.label} [{self.unit}]"

    def text(self, value: float) -> str:
        """Label, a value and unit."""
        number = f"{self.label} {value:.{self.digits}f}"
        return number if self.unit == "1" else f"{number} {self.unit}"


BOTH, EVERYWHERE, NONE = tuple(REFERENCES), tuple(REGIONS), ("",)

PERCEPTUAL = "perceptual quality"

TISSUE_ERRORS = (
    "Errors of grey and white matter (GM, WM; BrainWeb classes 2 and 3) are mean activity minus "
    "the truth's, in activity units."
)
CONTRAST = (
    "Contrast recovery is GM/WM - 1 over the truth's; there, GM and WM are the tissues' mean "
    "activities, averaged over all images that have both, each with the same weight: a ratio of "
    "means, also in each draw for its interval."
)

METRICS = (
    Metric(
        *("psnr_db", "PSNR", "dB", 2, BOTH, EVERYWHERE, "higher"),
        always=("image",),
        tables=(TABLE1, DIFFERENCES),
    ),
    Metric(
        *("ssim", "SSIM", "1", 4, BOTH, EVERYWHERE, "higher"),
        always=("image",),
        tables=(TABLE1, DIFFERENCES),
        details="Gaussian window, sigma 1.5 pixels, 11 x 11, K1 0.01, K2 0.03",
    ),
    Metric(
        *("nrmse", "NRMSE", "1", 4, BOTH, EVERYWHERE, "lower"),
        tables=(TABLE1,),
        details="Euclidean",
    ),
    Metric(
        *("vif", "VIF", "1", 3, BOTH, ("image",), "higher"),
        tables=(TABLE1, DIFFERENCES),
        topic=PERCEPTUAL,
        details="visual information fidelity in the pixel domain, noise variance 2 of 255^2",
    ),
    Metric(
        *("gmsd", "GMSD", "1", 4, BOTH, ("image",), "lower"),
        always=("image",),
        tables=(TABLE1, DIFFERENCES),
        topic=PERCEPTUAL,
        details="gradient magnitude similarity deviation, c 0.0026",
    ),
    Metric(
        *("haarpsi", "HaarPSI", "1", 4, BOTH, ("image",), "higher"),
        tables=(TABLE1, DIFFERENCES),
        topic=PERCEPTUAL,
        details="C 30 of 255^2, alpha 4.2",
    ),
    Metric(
        *("power_ratio", "power ratio", "1", 3, BOTH, ("image",), "1"),
        tables=(TABLE1, DIFFERENCES),
        topic=PERCEPTUAL,
        details="the image's power spectrum over the reference's, mean over the spatial "
        "frequencies from a quarter of the pixels' Nyquist frequency to all of it; 1 is right",
    ),
    Metric("mean", "GM mean", "activity", 2, NONE, ("grey",), "the truth's"),
    Metric(
        *("mean_error", "GM error", "activity", 2, (TRUTH,), ("grey",), "0"),
        tables=(TABLE1,),
        sentence=TISSUE_ERRORS,
    ),
    Metric("mean", "WM mean", "activity", 2, NONE, ("white",), "the truth's"),
    Metric(
        *("mean_error", "WM error", "activity", 2, (TRUTH,), ("white",), "0"),
        tables=(TABLE1,),
        sentence=TISSUE_ERRORS,
    ),
    Metric(
        *("contrast_recovery", "contrast recovery", "1", 3, (TRUTH,), NONE, "1"),
        of=MEANS,
        parts=tuple(
            key
            for tissue in ("grey", "white")
            for key in (("mean", "", tissue), ("mean_error", TRUTH, tissue))
        ),
        tables=(TABLE1,),
        sentence=CONTRAST,
    ),
    Metric("sd_mean", "standard deviation", "activity", 2, NONE, ("head",), "the error's", SAMPLES),
    Metric(
        *("sd_error_correlation", "correlation with s.d.", "1", 2, BOTH, ("head",), "higher"),
        of=SAMPLES,
    ),
    Metric("coverage", "coverage", "1", 3, BOTH, ("head",), "its level", SAMPLES),
    Metric("width", "width", "activity", 2, NONE, ("head",), "lower", SAMPLES),
    Metric(
        *("coverage_calibrated", "calibrated coverage", "1", 3, BOTH, ("head",), "its level"),
        of=CALIBRATED,
    ),
    Metric(
        *("width_calibrated", "calibrated width", "activity", 2, BOTH, ("head",), "lower"),
        of=CALIBRATED,
    ),
    Metric(
        *("reconstruction_seconds", "time per slice", "s", 2, NONE, NONE, "lower"),
        of=TIME,
        always=NONE,
    ),
)
"""In the order of tables; see `ordered`. Of coverage and width there is one a level, as
coverage_0.667 and width_calibrated_0.667."""


def parts_of(metric: Metric, key: Key) -> tuple[Key, ...]:
    """Give the keys of the values that a metric's mean is made of: its parts', or its own."""
    return metric.parts or (key,)


def entry(name: str) -> Metric:
    """Give the (first) entry of a name."""
    return next(metric for metric in METRICS if metric.name == name)


def ordered(table: str | None = None) -> Iterator[tuple[Metric, Key]]:
    """Give the metrics that a table shows, or all, with each reference and region, in their order.

    Neighbours of the same references and regions go together, reference by reference, and region
    by region.
    """
    alike = groupby(METRICS, key=lambda metric: (metric.references, metric.regions))
    for (references, regions), metrics in alike:
        for reference, region, metric in product(references, regions, list(metrics)):
            if table is None or table in metric.tables:
                yield metric, (metric.name, reference, region)


def measured() -> list[str]:
    """Say what is measured, in its order, and nothing of how that is called."""
    places = f"{REFERENCES} {CLASSES}"
    return [places, *(f"{key} {metric.of} {metric.always}" for metric, key in ordered())]


def exists_always(key: Key) -> bool:
    """Whether every slice has a value of a metric in a region."""
    name, _, region = key
    return any(metric.name == name and region in metric.always for metric in METRICS)


def main() -> None:
    """Print the metrics as a Markdown table."""
    print("| metric | reference | region | unit | better | heading |\n|---|---|---|---|---|---|")
    for metric in METRICS:
        places = (", ".join(names) for names in (metric.references, metric.regions))
        cells = (f"`{metric.name}`", *places, metric.unit, metric.better, metric.heading)
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
