"""What each rule asks for, against measured peaks: measured_memory.csv beside this.

The table is what ``python -m benchmarks.memory --brainweb DIR`` printed, of several calls the most
(figures of tables: since they do without PyTorch): Python 3.11, torch
2.13.0+cpu, NumPy and h5py as in requirements.lock, Linux, one thread.
"""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.memory import CONFIGURATIONS, configuration, job_of, lay_out
from helpers import interfile
from helpers.workflow import ROOT
from pipeline import osem
from pipeline.jobs import memory
from pipeline.scans.registry import files_of
from pipeline.storage import hdf5
from pipeline.storage.kinds import SLICES, SUBJECT_FACTS
from pipeline.tomography.geometry import field_of_view, grid_from
from pipeline.tomography.scanners import scanner_from
from pipeline.tomography.system_matrix import joseph_weights

TABLE = Path(__file__).with_name("measured_memory.csv")


MORE_SUBJECTS = {"table1": 370, "calibration": 297, "regional_bias": 312}
"""MB of jobs that need more the more test subjects there are (here: one), measured with ten."""


def measured(name: str) -> dict[str, float]:
    with TABLE.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["configuration"] == name]
    return {row["job"]: float(row["peak_mb"]) for row in rows}


def asked(folder: Path, name: str) -> dict[str, int]:
    """``mem_mb`` of every job of a configuration, as the workflow plans it."""
    command = lay_out(folder / name, name)
    command[command.index("--") : command.index("--")] = ["--dry-run"]
    result = subprocess.run(command, cwd=folder / name, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    output = result.stdout + result.stderr
    found = {}
    for block in re.findall(r"^rule \w+:\n(?: {4}.+\n)+", output, re.MULTILINE):
        if log := re.search(r"^ {4}log: (\S+)", block, re.MULTILINE):
            found[job_of(Path(log[1]))] = int(re.search(r"mem_mb=(\d+)", block)[1])
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_job_asks_for_its_peak_and_little_more(tmp_path, name):
    peaks, wanted = measured(name), asked(tmp_path, name)
    assert peaks.keys() == wanted.keys()
    own = {job: wanted[job] - memory.SNAKEMAKE_MB for job in peaks}
    assert {job: (peaks[job], mb) for job, mb in own.items() if mb < peaks[job]} == {}
    assert all(own[job] >= peak for job, peak in MORE_SUBJECTS.items() if job in own)
    enough = {job: 2.5 * max(peak, MORE_SUBJECTS.get(job, 0)) for job, peak in peaks.items()}
    assert {job: (peaks[job], mb) for job, mb in own.items() if mb > enough[job]} == {}


RUN = """
import sys, yaml
from pathlib import Path
from pipeline import fbp, import_scan, lesion_sinogram, lesions, osem, scan_images, scan_report
from pipeline import sinogram
from pipeline.jobs.doses import simulated
from pipeline.tomography import projectors, system_matrix
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import grid_from
from pipeline.tomography.scanners import scanner_from

rule, folder = sys.argv[1], Path(sys.argv[2])
config = yaml.safe_load((folder / "config.yaml").read_text())
ring, grid = scanner_from(config["scanner"]), grid_from(config)
settings, simulation = osem.OsemSettings(**config["osem"]), Simulation(**simulated(config))
fine, subsets = grid.finer(simulation.oversampling), settings.subsets
slices, counts = folder / "slices.h5", folder / "sinogram.h5"
copies, twins = folder / "lesions.h5", folder / "twins.h5"
if rule == "system_matrix":
    system_matrix.write(folder / "fine.h5", ring, fine, subsets)
elif rule == "coarse":
    system_matrix.write(folder / "coarse.h5", ring, grid, subsets)
elif rule == "sinogram":
    operator = projectors.load("sparse", ring, fine, subsets, folder / "fine.h5")
    sinogram.sinogram(slices, counts, simulation, operator)
elif rule == "lesions":
    draws, _ = config["lesions"].pop("draws"), config["lesions"].pop("training")
    lesions.lesions(slices, copies, lesions.LesionSettings(**config["lesions"]), draws)
elif rule == "lesion_sinogram":
    operator = projectors.load("sparse", ring, fine, subsets, folder / "fine.h5")
    lesion_sinogram.lesion_sinogram(copies, counts, twins, 1.0, simulation, operator)
elif rule == "osem":
    operator = projectors.load("sparse", ring, grid, subsets, folder / "coarse.h5")
    osem.reconstruct(twins, folder / "osem.h5", settings, simulation, operator)
elif rule == "fbp":
    fbp.reconstruct(twins, folder / "fbp.h5", fbp.FbpSettings(**config["fbp"]), ring, grid)
elif rule == "import_scan":
    names = ("sinogram", "randoms", "scatter", "factors")
    files = dict.fromkeys(names, str(folder / "part.hs")) | {"sinogram": str(folder / "scan.hs")}
    scan = import_scan.Scan(**files, smoothed_randoms=9)
    import_scan.import_scan("scan", scan, ring, folder / "scan.h5")
elif rule == "scan_osem":
    paths = [folder / name for name in ("scan.h5", "scan_osem.h5", "scan_osem.nii")]
    scan_images.scan_osem(*paths, settings, 5.0, grid)
elif rule == "scan_fbp":
    paths = [folder / name for name in ("scan.h5", "scan_fbp.h5", "scan_fbp.nii")]
    scan_images.scan_fbp(*paths, fbp.FbpSettings(**config["fbp"]), grid)
elif rule == "scan_report":
    images = {kind: folder / f"scan_{kind}.h5" for kind in ("osem", "fbp")}
    scan_report.scan_report(folder / "scan.h5", images, folder / "report.png")
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
"""One rule in a process of its own, which prints its peak memory in KiB."""


def between_the_measured_ones() -> dict:
    """A configuration that is in no table: 96 pixels, cut in two, all physics."""
    config = configuration("small")
    config["slices"] |= {"size": 96, "pixel_mm": 3.0, "rotations": 3, "per_volume": 10}
    config["scanner"] |= {"blocks": 24, "pitch_mm": 6.5, "radial_trim": 48}
    config["simulation"] |= {"oversampling": 2}
    config["osem"] |= {"subsets": 6, "iterations": 1}
    config["lesions"] |= {"per_volume": 3, "draws": 4}
    return config


def write_slices(path: Path, config: dict) -> None:
    """All slices of a subject, of noise."""
    count, per_volume = 30, 10
    rng, size = np.random.default_rng(1), config["slices"]["size"]
    fine = size * config["simulation"]["oversampling"]
    rotation = np.repeat(np.arange(3, dtype=np.uint8), per_volume)
    arrays = {
        "activity": rng.uniform(0, 100, (count, fine, fine)).astype(np.float32),
        "attenuation": np.full((count, fine, fine), 0.1, np.float32),
        "labels": np.tile(np.repeat(np.array([2, 3], np.uint8), size // 2), (count, size, 1)),
        "rotation": rotation,
        "rotation_deg": rotation.astype(np.float32),
        "slice_index": np.tile(np.arange(per_volume, dtype=np.int16), 3),
    }
    facts = dict.fromkeys(SUBJECT_FACTS, "x") | {"seed": 1, "subject": "subject04"}
    facts |= {"pixel_mm": config["slices"]["pixel_mm"], "slice_mm": config["slices"]["slice_mm"]}
    facts |= {"oversampling": config["simulation"]["oversampling"]}
    hdf5.write(path, SLICES, arrays, hdf5.provenance({}, **facts))


def test_another_size_needs_no_more_than_it_asks_for(tmp_path):
    config = between_the_measured_ones()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    write_slices(tmp_path / "slices.h5", config)
    torch_mb = memory.MARGIN * (memory.TORCH_MB - memory.IMAGES_MB)  # here all import it
    wanted = {
        "system_matrix": memory.system_matrix(config, 2),
        "coarse": memory.system_matrix(config, 1),
        "sinogram": memory.sinogram(config, "sparse"),
        "lesions": memory.lesions(config) + torch_mb,
        "lesion_sinogram": memory.lesion_sinogram(config, "sparse"),
        # These of the lesions, of which there are more copies than slices.
        "osem": memory.osem(config, "sparse"),
        "fbp": memory.fbp(config) + torch_mb,
    }
    for rule, mb in wanted.items():
        command = [sys.executable, "-c", RUN, rule, str(tmp_path)]
        result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        peak = int(result.stdout) * 1024 / 1e6
        assert peak <= mb - memory.SNAKEMAKE_MB <= 2.5 * peak, rule


def write_scan(folder: Path, config: dict) -> list[int]:
    """All ring differences of a scanner of 40 rings, scaled; give the bytes of its files."""
    ring = scanner_from(config["scanner"])
    rng, rings, span = np.random.default_rng(1), 40, 9
    segments = []
    for number in range(-3, 4):
        low, high = number * span - span // 2, number * span + span // 2
        least = 0 if number == 0 else min(abs(low), abs(high))
        shape = (1, 2 * (rings - least) - 1, ring.views, ring.radial_bins)
        segments.append(((low, high), rng.integers(1, 4, shape)))
    says = {
        "Number of detectors per ring": ring.end_points,
        "Number of rings": rings,
        "Inner ring diameter (cm)": 2 * ring.radius_mm / 10 - 1.4,
        "View offset (degrees)": None,
        "image scaling factor[1]": 2,
    }
    header = interfile.write(folder, segments, dtype="u2", **says)
    # Of the same data a background that is less than the prompts, and factors.
    fifth, count = re.subn(r"(image scaling factor\[1\] *:= *)2", r"\g<1>0.4", header.read_text())
    assert count == 1
    (folder / "part.hs").write_text(fifth)
    return [path.stat().st_size for path in files_of(header)]


def test_scans_need_no_more_than_they_ask_for(tmp_path):
    config = between_the_measured_ones()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    wanted = {
        "import_scan": memory.import_scan(config, 4 * write_scan(tmp_path, config)),
        **dict.fromkeys(("scan_osem", "scan_fbp", "scan_report"), memory.scan_images(config)),
    }
    for rule, mb in wanted.items():
        command = [sys.executable, "-c", RUN, rule, str(tmp_path)]
        result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        peak = int(result.stdout) * 1024 / 1e6
        assert peak <= mb - memory.SNAKEMAKE_MB, rule


def test_what_cannot_be_imported_in_time_is_the_same_here():
    assert memory.OSEM_SLICES == osem.SLICES_AT_A_TIME


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("name", ["small", "large", "mini"])
def test_entries_of_the_system_matrix_are_bounded(name, oversampling):
    config = configuration(name)
    ring, grid = scanner_from(config["scanner"]), grid_from(config).finer(oversampling)
    inside = field_of_view(ring, grid).ravel()
    views = range(0, ring.views, 4)  # of a polygon, whose views repeat
    found = np.mean([inside[joseph_weights(ring, grid, view).indices].sum() for view in views])
    bound = memory.entries(config, oversampling)
    assert found * ring.views <= bound <= 1.5 * found * ring.views
