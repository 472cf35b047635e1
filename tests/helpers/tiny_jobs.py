"""Jobs of the tiny experiment and of two scans, as rule and wildcards: what follows from what."""

from collections.abc import Iterable

SUBJECTS = ("subject01", "subject02", "subject03")
GANS = ("cGAN", "Pix2Pix")
TRAINED_SAMPLING = ("cDPM", "LegoPET", "PMDM", "LegoPET-seed2", "LegoPET-fbp")
SAMPLED_OTHERWISE = {"LegoPET-em": "LegoPET", "LegoPET-seed2-em": "LegoPET-seed2"}
SAMPLING = (*TRAINED_SAMPLING, *SAMPLED_OTHERWISE)
GUIDED = ("LegoPET-p01", "LegoPET-p02")
U_NETS = ("PnPNet", "PnPNet-fbp", *TRAINED_SAMPLING, *GUIDED)
TRAINED = ("DeepPET", *GANS, *U_NETS)
EVALUATED = ("DeepPET", *GANS, "PnPNet", *SAMPLING)
SWEPT = {f"sweep epochs {model}" for model in ("cDPM", "LegoPET")}
SWEPT |= {f"sweep guidance {model}" for model in GUIDED}
SWEPT |= {"sweep samplers LegoPET", "sweep consistency LegoPET"}
SWEEP_FIGURES = {"epochs", "guidance", "samplers", "consistency"}
OF_METRICS = {"metrics subject03", "join_metrics", "table1", "regional_bias", "calibration"}
PREVIEWS = {f"preview {stage} subject03" for stage in ("phantoms", "sinograms", "shards")}
END = {"provenance", "all"}

VIEWS, BINS, RINGS = 32, 31, 4
"""Of the ring in tests/tiny.yaml, and of a scanner with such rings."""

SCANS = {
    "head": {
        "sinogram": "measured/scan.hs",
        "slice_mm": 8.0,
        "images": ["osem", "fbp", "PnPNet"],
    },
    "plane": {
        "sinogram": "measured/plane.npy",
        "axes": "view radial",
        "patient_position": "HFS",
        "slice_mm": 8.0,
        "images": ["fbp"],
    },
}


def each(rule: str, *wildcards: Iterable[str]) -> set[str]:
    """Jobs of a rule for all combinations of some wildcards."""
    found = {rule}
    for values in wildcards:
        found = {f"{job} {value}" for job in found for value in values}
    return found


def of_scan(scan: str, *rules: str) -> set[str]:
    """Jobs of a scan, in its report at last."""
    return {f"{rule} {scan}" for rule in (*rules, "scan_report")} | {"scans"}


BY_NETWORK = {"scan_reconstruct head PnPNet"} | of_scan("head")
FBP_OF_SCANS = of_scan("head", "scan_fbp") | of_scan("plane", "scan_fbp") | BY_NETWORK
OSEM_OF_SCANS = of_scan("head", "scan_osem")
HEAD = of_scan("head", "import_scan", "scan_osem", "scan_fbp") | BY_NETWORK
PLANE = of_scan("plane", "import_scan", "scan_fbp")


def reconstructed(models: Iterable[str]) -> set[str]:
    """Reconstructions of some models, and all that follows from them."""
    sampled = set(models) & set(SAMPLING)
    found = each("reconstruct", models, ["subject03"]) | OF_METRICS | {"panel", "tour_images"} | END
    return found | each("reconstruct", sampled, ["subject02"]) | each("calibrate", sampled)


def trained(models: Iterable[str]) -> set[str]:
    """Trainings of some models, and all that follows from them."""
    again = {name for name, origin in SAMPLED_OTHERWISE.items() if origin in models}
    found = each("train", models) | reconstructed(set(models) & set(EVALUATED) | again)
    found |= {job for job in SWEPT if job.split()[-1] in models}
    found |= {job.split()[1] for job in found if job.startswith("sweep")}
    found |= {"uncertainty"} if "LegoPET" in models else set()
    return found | {"training_curves"} | (BY_NETWORK if "PnPNet" in models else set())


CLASSICAL = {"classical_settings", "classical_curves", "panel", "tour_images"} | OF_METRICS | END
CLASSICAL |= each("classical", ("OSEM-filter", "MAP"), ["subject03"])
SAMPLED = reconstructed(SAMPLING) | SWEPT | SWEEP_FIGURES | {"uncertainty"}
SHARDED = (
    each("shard", SUBJECTS)
    | {"preview shards subject03", "tour_data"}
    | trained(TRAINED)
    | CLASSICAL
)
FROM_OSEM = each("osem", SUBJECTS) | SHARDED
DRAWN = each("fetch", SUBJECTS) | each("phantom", SUBJECTS) | each("slices", SUBJECTS) | PREVIEWS
DRAWN |= each("sinogram", SUBJECTS) | each("fbp", SUBJECTS) | FROM_OSEM

OF_LESIONS = {"osem lesions subject03", "fbp lesions subject03", "shard lesions subject03"}
OF_LESIONS |= {"lesions subject03", "lesion_sinogram subject03"}
OF_LESIONS |= each("classical", ("OSEM-filter", "MAP"), ["lesions"], ["subject03"])
OF_LESIONS |= each("lesion_curve", ("OSEM-filter", "MAP"), ["subject03"])
OF_LESIONS |= each("reconstruct", EVALUATED, ["lesions"], ["subject03"])
OF_LESIONS |= {"lesion_metrics", "lesion_table", "lesion_figure"} | END
FROM_SLICES = {f"{rule} subject01" for rule in ("slices", "sinogram", "osem", "fbp", "shard")}
