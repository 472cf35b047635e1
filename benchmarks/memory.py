"""Peak memory of every job of the workflow, in five configurations of different sizes.

    python -m benchmarks.memory [--brainweb DIR] [--only small large mini paper physics]

Prints the lines of ``tests/pipeline/jobs/measured_memory.csv``, with which `pipeline.jobs.memory`
and `models.memory` are tested. Each configuration is one run of the workflow on three subjects, one
job at a time, in few steps: what a job holds does not depend on their number. "mini", "paper" and
"physics" take BrainWeb's own volumes.

What counts is what a cluster counts: of a job's process and its readers together, memory that they
share once (PSS, sampled), or the process's own high-water mark, which misses nothing, if that is
more. Snakemake's own processes are left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from snakemake.utils import update_config

from benchmarks.scaling import ROOT, workplace

INTERVAL_S = 0.01

SUBJECTS = {"subject04": "train", "subject18": "validation", "subject05": "test"}

FEW_STEPS: dict[str, Any] = {
    "subjects": "subjects.tsv",
    "training": {"device": "cpu", "threads": 1, "validation_sampling": {"steps": 2}},
    "methods": {
        **{name: {"epochs": 1} for name in ("PnPNet", "DeepPET", "cGAN", "Pix2Pix")},
        **{name: {"epochs": 1, "keep_every_epochs": 1} for name in ("cDPM", "LegoPET", "PMDM")},
    },
    "variants": {
        "LegoPET-p01": {"epochs": 1},
        "PnPNet-fbp": {"method": "PnPNet", "conditioning": ["sinogram", "fbp"]},
        "LegoPET-fbp": {
            "method": "LegoPET",
            "conditioning": ["sinogram", "fbp"],
            "features": "PnPNet-fbp",
        },
        "LegoPET-em": {"weights": "LegoPET", "sampling": {"consistency": {"steps": 1}}},
    },
    "sampling": {"steps": 2},
    "classical": {"osem_iterations": 2, "filter_mm": [3, 5], "betas": [1, 10], "map_iterations": 1},
    "evaluation": {
        "models": [
            *("DeepPET", "cGAN", "Pix2Pix", "PnPNet"),
            *("cDPM", "LegoPET", "PMDM", "LegoPET-em", "LegoPET-fbp"),
        ],
        "sweeps": {
            "epochs": {"models": ["LegoPET"]},
            "guidance": {
                "models": ["LegoPET-p01"],
                "sampling": [{"guidance": 0.0}, {"guidance": 1.0}],
            },
            "samplers": {"models": ["LegoPET"], "sampling": [{"steps": 2, "samples": 1}]},
            "consistency": {"models": ["LegoPET"], "sampling": [{"consistency": {"steps": 1}}]},
        },
    },
}
"""All of it, with as few steps as can be: memory is that of one."""

FEWER_MODELS: dict[str, Any] = {
    "methods": {"LegoPET": {"condition_dropout": 0.3}},  # as the sweep of guidance wants it
    "evaluation": {
        "models": ["DeepPET", "Pix2Pix", "PnPNet", "LegoPET", "PMDM", "LegoPET-em"],
        "sweeps": {"guidance": {"models": ["LegoPET"]}},
    },
}

LARGER: dict[str, Any] = {
    "name": "large",
    "slices": {"size": 128, "pixel_mm": 2.5, "rotations": 1, "per_volume": 16},
    "scanner": {"blocks": 32, "pitch_mm": 5.0, "radial_trim": 64},
    "simulation": {"oversampling": 2},
    "network": {"size": 128, "patch": 1, "width": 16, "multipliers": [1, 2, 4], "blocks": 2},
    "training": {"workers": 2},
    "methods": {
        "DeepPET": {"width": 16, "convolutions": [2, 2, 2, 3]},
        "cGAN": {"width": 32, "blocks": 4, "discriminator_width": 32},
        "Pix2Pix": {"width": 32, "blocks": 4, "discriminator_width": 32},
    },
}

PHYSICS: dict[str, Any] = {
    "name": "physics",
    "scanner": {"radius_mm": 335.0, "gaps": [0], "first_end_point_deg": 0.0},
    "simulation": {
        "doses": [0.05],
        "attenuation": True,
        "psf_fwhm_mm": 4.5,
        "background_fraction": 0.3,
        "oversampling": 2,
    },
}
"""Gaps as in config/scanners/mmr.yaml, and all else that is simulated, at a low dose."""

CONFIGURATIONS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "small": ("tests/tiny.yaml", [{"name": "small"}]),
    "large": ("tests/tiny.yaml", [FEWER_MODELS, LARGER]),
    "mini": ("config/mini.yaml", [FEWER_MODELS, {"slices": {"rotations": 2}}]),
    "paper": ("config/config.yaml", []),
    "physics": ("config/config.yaml", [PHYSICS]),
}
"""Overlay on config/config.yaml, and what is changed in it besides `FEW_STEPS`."""


TARGETS = {
    "paper": ["data/paper/shards/subject04.h5"],
    "physics": [
        "data/physics/shards/dose_0.05/subject05.h5",
        "results/physics/reconstructions/MAP/dose_0.05/subject05.h5",
        "results/physics/reconstructions/OSEM-filter/dose_0.05/subject05.h5",
    ],
}
"""What is made in a configuration, if not all: networks of the paper's size need a GPU."""


def overlay(name: str) -> dict[str, Any]:
    """Give what a configuration of `CONFIGURATIONS` changes in config/config.yaml."""
    file, changes = CONFIGURATIONS[name]
    result: dict[str, Any] = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    for more in (FEW_STEPS, *changes):
        update_config(result, more)
    return result


def configuration(name: str) -> dict[str, Any]:
    """Give a configuration of `CONFIGURATIONS` as the workflow sees it."""
    result: dict[str, Any] = yaml.safe_load(
        (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    )
    update_config(result, overlay(name))
    return result


def lay_out(folder: Path, name: str, brainweb: str = "") -> list[str]:
    """Make a folder in which a configuration can run; give the command that does it there."""
    workplace(folder)
    changes = {**overlay(name), "brainweb_dir": brainweb}
    (folder / "overlay.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    known = (ROOT / "data" / "subjects.tsv").read_text(encoding="utf-8").splitlines()
    hashes = dict(line.split("\t")[::2] for line in known)
    rows = [f"{subject}\t{split}\t{hashes[subject]}" for subject, split in SUBJECTS.items()]
    table = "\n".join(["subject\tsplit\tlabels_sha256", *rows]) + "\n"
    (folder / "subjects.tsv").write_text(table, encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "overlay.yaml"]
    return [*command, "--", *TARGETS.get(name, ["all"])]


def measure(folder: Path, name: str, brainweb: str) -> dict[str, float]:
    """Run the workflow in a folder; give the peak memory (MB) of each job, the subjects as one."""
    command = lay_out(folder, name, brainweb)
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        )
        peaks = _watch(process)
    if process.returncode:
        text = (folder / "output.txt").read_text(encoding="utf-8")
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return peaks


def _watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Keep the largest memory (MB) of the jobs until Snakemake ends."""
    peaks: dict[str, float] = {}
    names: dict[int, str] = {}
    snakemake = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            for job in snakemake.children():
                with suppress(psutil.Error, OSError, EOFError):
                    name = names.setdefault(job.pid, "") or _job_name(job)
                    names[job.pid] = name
                    if name:  # it has its log, and so is no longer Snakemake's own image
                        peaks[name] = max(peaks.get(name, 0), _held_mb(job))
        time.sleep(INTERVAL_S)
    return peaks


def _held_mb(job: psutil.Process) -> float:
    status = Path(f"/proc/{job.pid}/status").read_text(encoding="utf-8")
    _, found, rest = status.partition("VmHWM:")
    if not found:
        raise EOFError("the job has just ended")
    processes = [job, *job.children(recursive=True)]
    together = sum(p.memory_full_info().pss for p in processes) if processes[1:] else 0
    return max(int(rest.split()[0]) * 1024, together) / 1e6


def _job_name(job: psutil.Process) -> str:
    """Name a job by the log that it writes; nothing before it has one."""
    for file in job.open_files():
        path = Path(file.path)
        if path.suffix == ".log" and "logs" in path.parts:
            return job_of(Path(*path.parts[path.parts.index("logs") :]))
    return ""


def job_of(log: Path) -> str:
    """Name a job by its log ``logs/<name>/...``: rule, then its wildcards but for the subject."""
    rule, *rest = log.with_suffix("").parts[2:]
    wildcards = "_".join(rest)
    for subject in SUBJECTS:
        wildcards = wildcards.removesuffix(subject).removesuffix("_")
    return "/".join(filter(None, (rule, wildcards)))


def lines(name: str, peaks: Mapping[str, float]) -> list[str]:
    """Lines of the table: configuration, job, MB."""
    return [f"{name},{job},{peak:.0f}" for job, peak in sorted(peaks.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brainweb", default="", help="folder of BrainWeb's volumes")
    parser.add_argument("--only", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    options = parser.parse_args()
    print("configuration,job,peak_mb", flush=True)
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            peaks = measure(Path(folder) / name, name, options.brainweb)
        print("\n".join(lines(name, peaks)), flush=True)


if __name__ == "__main__":
    main()
