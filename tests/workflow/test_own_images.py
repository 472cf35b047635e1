"""Own images through the whole workflow: from NIfTI and DICOM files to Table 1, without labels."""

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.own_images import LPS, OBLIQUE, affine, real_data, save_dicom, save_nifti, volume
from helpers.workflow import ROOT, SUBJECTS, snakemake, workplace
from models.evaluation.metrics_table import read_table
from pipeline.storage import hdf5
from pipeline.storage.kinds import SHARD

pytestmark = pytest.mark.dag

OVERLAY = {
    "name": "own",
    "source": "folder",
    "images_dir": "images",
    "negative": "clip",
    "texture": {"fraction": 0.0},
    "methods": {name: {"epochs": 1} for name in ("PnPNet", "LegoPET")},
    "evaluation": {
        "models": ["PnPNet", "LegoPET"],
        "sweeps": {
            name: {"models": []} for name in ("epochs", "guidance", "samplers", "consistency")
        },
    },
}
RULES = ("fetch", "phantom", "slices", "sinogram", "osem", "fbp", "shard")


def synthetic(folder: Path) -> None:
    """One head thrice: RAS, with negative values and NaN in the air; LAS; and an oblique series.

    Each has a map of its attenuation.
    """
    ras, las = LPS * (-1, -1, 1), LPS * (1, -1, 1)
    values = volume(ras)
    values[:3], values[-3:] = -1, np.nan
    save_nifti(folder / "subject01.nii.gz", values, affine(ras))
    save_nifti(folder / "subject02.nii", (1.2 * volume(las)).astype("f8"), affine(las))
    save_dicom(folder / "subject03", volume(OBLIQUE), affine(OBLIQUE))
    for subject, directions in zip(SUBJECTS, (ras, las, OBLIQUE), strict=True):
        mu = np.where(volume(directions) > 5, np.float32(0.096), np.float32(0))
        save_nifti(folder / f"{subject}_mu.nii.gz", mu, affine(directions))


def real(folder: Path) -> None:
    """A mean of real brains thrice: as it is, LAS, and with x and y exchanged."""
    path = real_data("cn_fdg_template", "CN_PET_TEMPLATE_int16.nii.gz")
    image = nibabel.load(path)
    shutil.copy(path, folder / "subject01.nii.gz")
    for subject, orientation in (("subject02", "LAS"), ("subject03", "ARS")):
        change = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(orientation)
        )
        nibabel.save(image.as_reoriented(change), folder / f"{subject}.nii.gz")


@pytest.fixture(scope="module", params=[synthetic, real], ids=lambda make: make.__name__)
def folder(request, tmp_path_factory):
    """A folder in which the workflow has run on own images."""
    place = workplace(tmp_path_factory.mktemp("own") / request.param.__name__)
    (place / "images").mkdir()
    request.param(place / "images")
    overlay = OVERLAY | {"simulation": {"attenuation": request.param is synthetic}}
    (place / "own.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    result = called(place)
    assert result.returncode == 0, result.stdout[-4000:]
    return place


def called(place: Path, *arguments: str):
    tiny = str(ROOT / "tests" / "tiny.yaml")
    files = ("--configfile", tiny, "own.yaml")
    return snakemake(place, "--cores", "2", *files, *arguments, tiny=False)


def test_shards_hold_images_in_their_unit_and_no_labels(folder):
    for subject in SUBJECTS:
        arrays, attributes = hdf5.read(folder / "data" / "own" / "shards" / f"{subject}.h5", SHARD)
        assert "labels" not in arrays
        assert arrays["activity"].max() > attributes["head_above"] > 0
        assert attributes["activity_unit"] in ("unknown", "BQML")
        # The reference looks like the truth, and not like its mirror image.
        truth, osem = arrays["activity"], arrays["osem"]
        assert np.corrcoef(truth.ravel(), osem.ravel())[0, 1] > 0.9


def test_copies_of_one_image_give_one_truth(folder):
    paths = [folder / "data" / "own" / "shards" / f"{subject}.h5" for subject in SUBJECTS]
    shards = [hdf5.read(path, SHARD)[0] for path in paths]
    scaled = [shard["activity"][:4] / shard["activity"][:4].max() for shard in shards]
    for shard, image in zip(shards[1:], scaled[1:], strict=True):
        np.testing.assert_array_equal(shard["slice_index"], shards[0]["slice_index"])
        assert np.linalg.norm(image - scaled[0]) < 0.05 * np.linalg.norm(scaled[0])


def test_metrics_are_of_images_and_heads_and_of_no_tissue(folder):
    table = read_table(folder / "results" / "own" / "metrics.csv.gz")
    assert {*table["region"]} == {"image", "head"}
    assert {"psnr_db", "ssim", "nrmse", "sd_mean"} <= {*table["metric"]}
    assert not {"mean", "mean_error"} & {*table["metric"]}
    assert np.isfinite(table["value"]).all()


def test_table1_says_nothing_of_tissues(folder):
    results = folder / "results" / "own"
    text = (results / "table1.md").read_text(encoding="utf-8")
    assert "| LegoPET |" in text
    assert "pixels where the truth is above the value head_above of the shard" in text
    for word in ("GM", "WM", "contrast recovery", "BrainWeb label", "### Activity"):
        assert not re.search(rf"{word}\b", text), word
    numbers = pd.read_csv(results / "table1.csv")
    assert numbers["mean_error_truth_grey"].isna().all()
    assert numbers["psnr_db_truth_head"].notna().all()


def test_every_figure_is_drawn(folder):
    drawn = {path.stem for path in (folder / "results" / "own" / "figures").iterdir()}
    bias = {"regional_bias", "calibration", "uncertainty"}
    assert drawn == {"panel", "training", "classical"} | bias
    stops = {path.stem for path in (folder / "results" / "own" / "tour").iterdir()}
    assert {"activity", "networks", "errors"} < stops
    assert "labels" not in stops


def test_the_record_has_the_hashes_and_not_the_folder(folder):
    results = folder / "results" / "own"
    record = json.loads((results / "provenance.json").read_text(encoding="utf-8"))
    assert record["source"] == "folder"
    assert record["labels"].keys() == SUBJECTS.keys()
    for subject, sha256 in record["labels"].items():
        log = folder / "logs" / "own" / "fetch" / f"{subject}.log"
        assert f"SHA-256 of the image {sha256}" in log.read_text(encoding="utf-8")
    assert f"data/own/images/{min(SUBJECTS)}.h5" in record["inputs"]
    kept = yaml.safe_load((results / "config.yaml").read_text(encoding="utf-8"))
    assert kept["images_dir"] == ""


def test_what_decides_the_images_fetches_them_again(folder):
    assert "Nothing to be done" in called(folder, "--dry-run").stdout
    assert "Nothing to be done" in called(folder, "--dry-run", "--config", "images_dir=x").stdout
    again = called(folder, "--dry-run", "--config", "negative=refuse").stdout
    assert all(f"rule {rule}:" in again for rule in RULES)


def test_images_that_are_not_there_are_missed_before_anything_runs(tmp_path):
    place = workplace(tmp_path / "place")
    for images, said in (
        ("", "images_dir: is empty"),
        ("none", "none: is not a folder"),
        ("config", "config: lacks subject01; looked for subject01.nii.gz"),
    ):
        overlay = yaml.safe_dump(OVERLAY | {"images_dir": images})
        (place / "own.yaml").write_text(overlay, encoding="utf-8")
        result = called(place, "--dry-run")
        assert result.returncode != 0
        assert said in result.stdout
        assert "Traceback" not in result.stdout


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("texture={fraction: 0.5}", "texture.fraction: is 0.5, and images have a texture"),
        ("negative=maybe", "negative: is 'maybe'"),
    ],
)
def test_contradictions_are_refused(folder, setting, said):
    result = called(folder, "--dry-run", "--config", setting)
    assert result.returncode != 0
    assert said in result.stdout
    assert "Traceback" not in result.stdout
