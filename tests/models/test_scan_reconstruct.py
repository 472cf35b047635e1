"""Networks reconstruct measured scans as they do shards, and refuse those of other scanners."""

import json
import logging
from dataclasses import asdict, replace

import h5py
import nibabel
import numpy as np
import pytest

from helpers.small_models import job, settings
from helpers.trainings import run
from models import checkpoints
from models.channels import CHANNELS, Channel
from models.consistency import Measurements
from models.reconstruct import reconstruct
from models.scan_reconstruct import scan_reconstruct
from models.settings import Network
from pipeline import fbp, osem, shard
from pipeline.fbp import FbpSettings
from pipeline.osem import OsemSettings
from pipeline.scan_images import scan_fbp, scan_osem
from pipeline.scan_report import scan_report
from pipeline.sinogram import sinogram
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SCAN, SCAN_IMAGE, SINOGRAM
from pipeline.tomography.forward_model import ForwardModel, Simulation
from pipeline.tomography.geometry import Grid
from pipeline.tomography.physics import geometry_text
from pipeline.tomography.scanners import Ring

pytestmark = pytest.mark.usefixtures("one_thread")

RING, GRID = Ring(8, 8, 200.0, 20.7, 16, gaps=[3]), Grid(32, 8.0)
SIMULATION = Simulation(1e5, True, 10.0, 0.2, 1)
FBP = FbpSettings("hann", 1.0)
SEEN_OSEM, FILTER_MM = OsemSettings(1, 4), 12.0
SLICES, SLICE_MM = 5, 3.0
MODELS = ("PnPNet", "cDPM", "DeepPET")
CONDITIONING = {"PnPNet": ["sinogram", "fbp"], "DeepPET": ["osem_input", "sinogram"]}


def write_scan(sinogram_path, path, times=1.0, factors="factors.npy", **attributes):
    """Make a scan of a simulated measurement, each plane of which is a sum of so many sinograms."""
    with h5py.File(sinogram_path) as file:
        arrays = {name: file[name][()] for name in ("prompts", "factors", "background")}
    arrays["factors"] *= np.float32(times)
    place_mm = (np.arange(SLICES) - (SLICES - 1) / 2) * SLICE_MM
    facts = {
        "scan": "subject04",  # as the subject, whose samples these are to be
        "geometry": geometry_text(RING),
        "patient_position": "HFS",
        "slice_mm": SLICE_MM,
        "sources": "{}",
        "likelihood": True,
        "calibration": 0.0,
        "counts": float(arrays["prompts"].sum()),
        "ring_differences": "planes as in the file",
        "tof_bins": 1,
        **attributes,
    }
    arrays["position_mm"] = place_mm.astype(np.float32)
    hdf5.write(path, SCAN, arrays, hdf5.provenance({"scan": {"factors": factors}}, **facts))
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_slices, sparse, disc):
    """A shard of one measurement, the same as a scan, and two models that were trained on it."""
    folder = tmp_path_factory.mktemp("study")
    names = ("slices", "sinogram", "osem", "fbp", "osem_input")
    parts = {name: folder / f"{name}.h5" for name in names}
    sizes = np.linspace(40, 70, SLICES)
    head = np.stack([30 * disc(GRID, 2 * mm) + 90 * disc(GRID, mm / 2, (15, -20)) for mm in sizes])
    water = np.float32(0.096) * np.stack([disc(GRID, 90)] * SLICES)
    write_slices(parts["slices"], head, water, pixel_mm=GRID.pixel_mm, slice_mm=SLICE_MM)
    projector = sparse(RING, GRID, 4)
    sinogram(parts["slices"], parts["sinogram"], SIMULATION, projector)
    settings_ = OsemSettings(2, 4), SIMULATION, projector
    osem.reconstruct(parts["sinogram"], parts["osem"], *settings_)
    seen = SEEN_OSEM, SIMULATION, projector, FILTER_MM
    osem.reconstruct(parts["sinogram"], parts["osem_input"], *seen)
    fbp.reconstruct(parts["sinogram"], parts["fbp"], FBP, RING, GRID)
    shard.build(**parts, output=folder / "shard.h5", split="train")
    network = {**settings()["network"], "size": GRID.size}
    config = settings(network=network, sampling__samples=2)
    for name, conditioning in CONDITIONING.items():
        config["methods"][name]["conditioning"] = conditioning
    data = [folder / "shard.h5"], []
    weights = {name: run(folder, data, name, name, config=config) for name in MODELS}
    return {"folder": folder, "config": config, "weights": weights, **parts}


@pytest.fixture
def scanned(study, tmp_path):
    """Write a scan, with changes, and have a model reconstruct it; give all files."""

    def make(
        model="PnPNet",
        weights=None,
        config=study["config"],
        psf_mm=0.0,
        seen=SEEN_OSEM,
        **changes,
    ):
        names = ("fbp.h5", "fbp.nii", "osem_input.h5", "osem_input.nii", "image.h5")
        files = {name: tmp_path / name for name in names}
        niftis = {name: tmp_path / f"{name}.nii" for name in ("image", "std")}
        if model != "cDPM":
            del niftis["std"]
        scan = write_scan(study["sinogram"], tmp_path / "scan.h5", **changes)
        scan_fbp(scan, files["fbp.h5"], files["fbp.nii"], FBP, GRID)
        images = {"fbp": files["fbp.h5"]}
        if model == "DeepPET":
            images["osem_input"] = files["osem_input.h5"]
            paths = scan, *(files[f"osem_input.{kind}"] for kind in ("h5", "nii"))
            scan_osem(*paths, seen, SIMULATION.psf_fwhm_mm, GRID, FILTER_MM)
        own = job(config, model)
        weights = weights or study["weights"][model]
        scan_reconstruct(
            *(weights, scan, images, files["image.h5"], niftis, own, None),
            threads=1,
            psf_fwhm_mm=psf_mm,
        )
        return {"scan": scan, **files, **niftis}

    return make


def scale(study):
    """Counts of one unit of activity and mm."""
    with hdf5.opened(study["sinogram"], SINOGRAM) as file:
        return file["scale"][0]


def of_shard(study, model, output):
    own = job(study["config"], model)
    path = study["folder"] / "shard.h5"
    reconstruct(study["weights"][model], path, output, own, None, threads=1)
    return hdf5.read(output, RECONSTRUCTION)


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1.0, 7.0])
@pytest.mark.parametrize("model", MODELS)
def test_a_scan_is_reconstructed_as_its_shard_is(study, scanned, tmp_path, model, times):
    """Also where planes are sums of sinograms, of which factors alone tell.

    OSEM starts from a count per mm, beside a background that is then another part of it.
    """
    near = 0.02 if model == "DeepPET" and times > 1 else 1e-4
    expected, _ = of_shard(study, model, tmp_path / "r.h5")
    files = scanned(model, times=times)
    found, attributes = hdf5.read(files["image.h5"], SCAN_IMAGE)
    unit = times / scale(study)
    for name in ("image", "std") if model == "cDPM" else ("image",):
        atol = near * np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name] * unit, expected[name], rtol=near, atol=atol)
        assert np.ptp(expected[name]) > 0.5 * np.abs(expected[name]).max()
    assert attributes["unit"] == "counts/mm"
    assert attributes["model"] == model
    assert attributes["samples"] == (2 if model == "cDPM" else 1)
    assert attributes["doubts"] == ""
    assert attributes["activity_per_unit"] == pytest.approx(unit, rel=1e-5)


@pytest.mark.parametrize(("times", "calibration"), [(1.0, 0.0), (7.0, 2.5)])
def test_counts_of_a_scan_do_what_those_of_its_shard_do(
    study, scanned, sparse, tmp_path, times, calibration
):
    consistency = {"consistency": {"steps": 2, "strength": 1.0, "start": 0.0}}
    config = {**study["config"], "sampling": study["config"]["sampling"] | consistency}
    psf_mm = SIMULATION.psf_fwhm_mm
    measured = Measurements([study["sinogram"]], ForwardModel(sparse(RING, GRID, 4), psf_mm))
    output, shard_path = tmp_path / "r.h5", study["folder"] / "shard.h5"
    own, weights = job(config, "cDPM"), study["weights"]["cDPM"]
    reconstruct(weights, shard_path, output, own, None, 1, measured)
    expected = hdf5.read(output, RECONSTRUCTION)[0]["image"]
    files = scanned("cDPM", config=config, psf_mm=psf_mm, times=times, calibration=calibration)
    found, attributes = hdf5.read(files["image.h5"], SCAN_IMAGE)
    atol = 1e-4 * np.abs(expected).max()
    unit = times / scale(study) / (calibration or 1)
    np.testing.assert_allclose(found["image"] * unit, expected, rtol=1e-4, atol=atol)
    assert attributes["consistency_steps"] == 2
    assert json.loads(attributes["config"])["measured"]["psf_fwhm_mm"] == psf_mm
    assert "factors" not in attributes["doubts"]
    without = of_shard(study, "cDPM", output)[0]["image"]
    assert np.abs(expected - without).max() > 100 * atol


@pytest.mark.parametrize("steps", [0, 1])
def test_consistency_without_factors_is_doubtful(study, scanned, steps):
    """The network has learnt to correct for attenuation, and EM would undo it."""
    consistency = {"consistency": {"steps": steps, "strength": 1.0, "start": 0.0}}
    config = {**study["config"], "sampling": study["config"]["sampling"] | consistency}
    files = scanned("cDPM", config=config, factors="")
    doubts = hdf5.read(files["image.h5"], SCAN_IMAGE)[1]["doubts"]
    assert ("no factors of the scan (scans.<name>.factors)" in doubts) == (steps > 0)


def test_a_calibration_gives_another_unit(scanned, study, tmp_path):
    plain = hdf5.read(scanned()["image.h5"], SCAN_IMAGE)[0]["image"]
    found, attributes = hdf5.read(scanned(calibration=2.5)["image.h5"], SCAN_IMAGE)
    assert attributes["unit"] == "Bq/ml"
    np.testing.assert_allclose(found["image"], 2.5 * plain, rtol=1e-4, atol=1e-4 * plain.max())


def test_slices_keep_their_places(scanned):
    files = scanned("cDPM")
    held, _ = hdf5.read(files["image.h5"], SCAN_IMAGE)
    assert {*held} == {"image", "std", "position_mm"}
    affines = {}
    for name in ("image", "std", "fbp.nii"):
        image = nibabel.load(files[name])
        affines[name] = image.affine
        if name in held:
            values = np.asanyarray(image.dataobj)
            assert values.dtype == np.float32
            assert np.array_equal(values, held[name].transpose(2, 1, 0))
    assert np.array_equal(affines["image"], affines["fbp.nii"])
    assert np.array_equal(affines["std"], affines["fbp.nii"])


def test_the_batch_does_not_matter(scanned, study):
    whole = {**study["config"], "sampling": {**study["config"]["sampling"], "batch_size": 5}}
    found = [
        hdf5.read(scanned("cDPM", config=config)["image.h5"], SCAN_IMAGE)[0]["image"]
        for config in (study["config"], whole)
    ]
    np.testing.assert_allclose(*found, atol=1e-3 * found[0].max())


# --- what is refused, and what is doubted --------------------------------------------------------


def changed_weights(study, path, **changes):
    """Weights of the same network with other facts; ``physics=None`` for none."""
    method, metadata = checkpoints.load(
        study["weights"]["PnPNet"], Network(**study["config"]["network"])
    )
    if changes != {"physics": None}:
        changes = {"physics": replace(metadata.physics, **changes)}
    checkpoints.save(path, method.network, None, replace(metadata, **changes))
    return path


def test_weights_say_what_they_were_trained_for(study):
    physics = checkpoints.read_metadata(study["weights"]["PnPNet"]).physics
    assert physics.geometry["gaps"] == [3]
    assert (physics.pixels, physics.pixel_mm, physics.slice_mm) == (32, 8.0, 3.0)
    assert (physics.attenuation, physics.psf_fwhm_mm) == (True, 10.0)
    assert physics.counts_per_slice == pytest.approx(1e5, rel=0.02)
    assert "counts_per_activity" in study["weights"]["PnPNet"].with_suffix(".yaml").read_text()


def test_another_scanners_scan_is_refused(scanned, tmp_path):
    other = geometry_text(replace(RING, radius_mm=210.0, gaps=[2]))
    with pytest.raises(InputError, match=r"is not what .* was trained for") as refused:
        scanned(geometry=other, slice_mm=2.0)
    said = "(geometry.gaps: [3] -> [2]; geometry.radius_mm: 200.0 -> 210.0; slice_mm: 3.0 -> 2.0)"
    assert refused.value.problem.endswith(said)
    assert not (tmp_path / "image.h5").exists()


def test_fbp_images_of_another_filter_are_refused_where_they_are_seen(study, scanned, tmp_path):
    seen, unseen = (
        checkpoints.read_metadata(study["weights"][name]).physics for name in ("PnPNet", "cDPM")
    )
    assert (seen.fbp, unseen.fbp) == ({"window": "hann", "cutoff": 1.0}, None)
    ramp = {"window": "ramp", "cutoff": 0.9}
    weights = changed_weights(study, tmp_path / "w.safetensors", fbp=ramp)
    with pytest.raises(InputError) as refused:
        scanned(weights=weights)
    said = "(fbp.cutoff: 0.9 -> 1.0; fbp.window: ramp -> hann)"
    assert refused.value.problem.endswith(said)
    assert not (tmp_path / "image.h5").exists()


def test_so_are_osem_images_of_other_settings(study, scanned, tmp_path):
    found = [checkpoints.read_metadata(path).physics for path in study["weights"].values()]
    trained = {"iterations": 1, "subsets": 4, "filter_mm": FILTER_MM}
    assert [physics.osem_input for physics in found] == [None, None, trained]
    with pytest.raises(InputError) as refused:
        scanned("DeepPET", seen=OsemSettings(3, 8))
    assert refused.value.problem.endswith(
        "(osem_input.iterations: 1 -> 3; osem_input.subsets: 4 -> 8)"
    )
    assert not (tmp_path / "image.h5").exists()


def test_earlier_weights_do_not_say_what_they_saw(study, scanned, tmp_path, caplog):
    method, metadata = checkpoints.load(
        study["weights"]["PnPNet"], Network(**study["config"]["network"])
    )
    described = asdict(metadata)
    del described["physics"]["fbp"]
    weights = tmp_path / "w.safetensors"
    tensors = {name: t.contiguous() for name, t in method.network.state_dict().items()}
    checkpoints._write(weights, described, tensors)
    with caplog.at_level(logging.WARNING):
        found = hdf5.read(scanned(weights=weights)["image.h5"], SCAN_IMAGE)[0]["image"]
    assert f"{weights} does not say how its fbp images were made" in caplog.text
    expected = hdf5.read(scanned()["image.h5"], SCAN_IMAGE)[0]["image"]
    assert np.array_equal(found, expected)


def test_who_lies_otherwise_is_refused(scanned):
    with pytest.raises(InputError, match="patient_position: HFS -> HFP"):
        scanned(patient_position="HFP")


def test_data_that_were_corrected_are_refused(scanned):
    with pytest.raises(InputError, match="trained on prompts"):
        scanned(likelihood=False)


def test_the_image_of_another_scan_is_refused(study, scanned, tmp_path):
    files = scanned()
    own = job(study["config"], "PnPNet")
    images = {"fbp": files["fbp.h5"]}
    for name, changes in (("scan", {"scan": "subject05"}), ("place", {})):
        other = write_scan(study["sinogram"], tmp_path / f"{name}.h5", **changes)
        if name == "place":
            with h5py.File(other, "r+") as file:
                file["position_mm"][:] += 1
        paths = other, images, tmp_path / "other.h5"
        with pytest.raises(InputError, match=rf"fbp\.h5: is not the image of .*{name}\.h5"):
            scan_reconstruct(study["weights"]["PnPNet"], *paths, {}, own, None, threads=1)


@pytest.mark.parametrize("name", ["osem", "line_integrals"])
def test_what_scans_do_not_have_is_named(study, scanned, tmp_path, monkeypatch, name):
    monkeypatch.setitem(CHANNELS, "osem", Channel("osem", "activity"))
    own = {**study["config"]["methods"]["PnPNet"], "conditioning": ["sinogram", name]}
    config = {**study["config"], "methods": {**study["config"]["methods"], "PnPNet": own}}
    data = [study["folder"] / "shard.h5"], []
    weights = run(tmp_path, data, "other", config=config)
    with pytest.raises(InputError, match=f"was trained with {name}, which is not made of scans"):
        scanned(weights=weights, config=config)


def test_weights_without_facts_know_no_unit(study, scanned, tmp_path):
    weights = changed_weights(study, tmp_path / "w.safetensors", physics=None)
    with pytest.raises(InputError, match="does not say what it was trained for"):
        scanned(weights=weights)


def test_they_still_reconstruct_shards(study, tmp_path, caplog):
    weights = changed_weights(study, tmp_path / "w.safetensors", physics=None)
    own, path = job(study["config"], "PnPNet"), study["folder"] / "shard.h5"
    with caplog.at_level(logging.WARNING):
        reconstruct(weights, path, tmp_path / "r.h5", own, None, threads=1)
    assert "w.safetensors does not say its physics; not checked: geometry" in caplog.text
    expected, _ = of_shard(study, "PnPNet", tmp_path / "e.h5")
    found = hdf5.read(tmp_path / "r.h5", RECONSTRUCTION)[0]["image"]
    assert np.array_equal(found, expected["image"])


def test_shards_of_another_experiment_are_refused(study, tmp_path):
    weights = changed_weights(study, tmp_path / "w.safetensors", psf_fwhm_mm=4.0, slice_mm=2.0)
    own, path = job(study["config"], "PnPNet"), study["folder"] / "shard.h5"
    with pytest.raises(InputError, match=r"slice_mm: 2\.0 -> 3\.0; psf_fwhm_mm: 4\.0 -> 10\.0"):
        reconstruct(weights, path, tmp_path / "r.h5", own, None, threads=1)
    assert not (tmp_path / "r.h5").exists()


def test_other_counts_are_doubted_in_log_file_and_report(study, scanned, tmp_path, caplog):
    weights = changed_weights(study, tmp_path / "w.safetensors", counts_per_slice=1e6)
    with caplog.at_level(logging.WARNING):
        files = scanned(weights=weights)
    with hdf5.opened(files["image.h5"], SCAN_IMAGE) as file:
        doubts = file.attrs["doubts"]
    assert doubts.endswith("counts per slice, 0.1 times the 1,000,000 of training")
    assert doubts in caplog.text
    pictures = []
    for doubted in (True, False):
        if not doubted:
            with h5py.File(files["image.h5"], "r+") as file:
                file.attrs["doubts"] = ""
        images = {"fbp": files["fbp.h5"], "PnPNet": files["image.h5"]}
        scan_report(files["scan"], images, tmp_path / "report.png")
        pictures.append((tmp_path / "report.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_so_are_those_of_a_shard(study, tmp_path):
    weights = changed_weights(study, tmp_path / "w.safetensors", counts_per_slice=1e4)
    own, path = job(study["config"], "PnPNet"), study["folder"] / "shard.h5"
    reconstruct(weights, path, tmp_path / "r.h5", own, None, threads=1)
    with hdf5.opened(tmp_path / "r.h5", RECONSTRUCTION) as file:
        assert "10 times the 10,000 of training" in file.attrs["doubts"]
