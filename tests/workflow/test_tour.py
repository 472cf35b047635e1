"""A slice's way through the pipeline: its pictures, and docs/tour.md, which shows them."""

import re
import shlex
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from helpers.workflow import ROOT, snakemake, workplace
from models.report.tour import tour_data, tour_images
from pipeline.slices import nearest
from pipeline.tomography.geometry import Grid

pytestmark = pytest.mark.dag

TEXT = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")


def first(path, name, row=None):
    with h5py.File(path) as file:
        return file[name][() if row is None else row]


def files_of(folder, name, dose=""):
    """Files of the test subject of an experiment: data before the shard, shard, images."""
    data, results, subject = folder / "data" / name, folder / "results" / name, "subject03.h5"
    return SimpleNamespace(
        labels=folder / "data" / "labels" / "mni152" / subject,
        phantom=data / "phantoms" / subject,
        slices=data / "slices" / subject,
        sinograms=[data / "sinograms" / of / subject for of in dict.fromkeys(("", dose))],
        shard=data / "shards" / dose / subject,
        reconstructions={
            model: results / "reconstructions" / model / dose / subject
            for model in ("OSEM-filter", "MAP", "PnPNet", "LegoPET")
        },
    )


def drawn_of(files):
    data = (files.labels, files.phantom, files.slices, files.sinograms)
    images = tour_images(files.shard, files.reconstructions, ["LegoPET"])
    return tour_data(*data, files.shard) | images


@pytest.fixture(scope="module")
def full(finished):
    """Files of all counts alone, and their pictures."""
    files = files_of(finished, "tiny")
    return files, drawn_of(files)


@pytest.fixture(scope="module")
def low(low_counts):
    """Files of a fifth of the counts, and their pictures."""
    files = files_of(low_counts, "low", "dose_0.2")
    return files, drawn_of(files)


def images(figure):
    """Drawn arrays by their titles."""
    return {axis.get_title(): axis.images[0] for axis in figure.axes if axis.get_title()}


def array(image):
    return np.asarray(image.get_array())


def middle(files):
    """Row of the middle one of four slices, unturned."""
    with h5py.File(files.shard) as shard:
        index, rotation = shard["slice_index"][:], shard["rotation"][:]
    return int(np.flatnonzero((rotation == 0) & (index == np.sort(index[rotation == 0])[2]))[0])


def test_labels_and_activity_are_of_the_plane_of_the_slice(full):
    """In patient orientation: sampled where the slice's pixels are, they have its classes."""
    files, figures = full
    (labels,), (activity,) = (images(figures[stop]).values() for stop in ("labels", "activity"))
    with h5py.File(files.slices) as file:
        expected = file["labels"][middle(files)]
        grid = Grid(expected.shape[-1], float(file.attrs["pixel_mm"]))
    with h5py.File(files.phantom) as file:
        voxel_mm = file.attrs["voxel_mm"][1:]
        (z,) = np.flatnonzero((file["activity"][:] == array(activity)).all(axis=(1, 2)))
        np.testing.assert_array_equal(array(labels), file["labels"][z])
    sampled = nearest(array(labels)[None].copy(), voxel_mm, grid, 0)[0]
    np.testing.assert_array_equal(sampled, expected)


def test_slices_are_those_of_all_rotations(full):
    files, figures = full
    with h5py.File(files.slices) as file:
        of_slice = file["slice_index"][:] == file["slice_index"][middle(files)]
        expected, angles = file["activity"][of_slice], file["rotation_deg"][of_slice]
    drawn = images(figures["slices"])
    assert list(drawn) == [f"rotation {n}: {angle:.0f}°" for n, angle in enumerate(angles)]
    np.testing.assert_array_equal([array(image) for image in drawn.values()], expected)


def test_sinograms_are_of_all_counts_and_of_fewer(full, low):
    for (files, figures), beginnings in (
        (full, ["all counts"]),
        (low, ["all counts", "20 % of the counts"]),
    ):
        drawn = images(figures["sinogram"])
        for (title, image), path, start in zip(
            drawn.items(), files.sinograms, beginnings, strict=True
        ):
            prompts = first(path, "prompts", middle(files))
            np.testing.assert_array_equal(array(image), prompts)
            assert title == f"{start}: {prompts.sum():,} prompts"


def test_reconstructions_are_those_of_the_files(low):
    files, figures = low
    row = middle(files)
    for stop, title in (
        ("fbp", "FBP"),
        ("osem", "OSEM (reference)\nof all counts"),
        ("osem_input", "OSEM (input)"),
    ):
        (found,) = images(figures[stop]).items()
        assert found[0] == title
        np.testing.assert_array_equal(array(found[1]), first(files.shard, stop, row))
    networks = images(figures["networks"])
    assert list(networks) == ["truth", "PnPNet", "LegoPET\nmean of 2"]
    for title, name in (("PnPNet", "PnPNet"), ("LegoPET\nmean of 2", "LegoPET")):
        expected = first(files.reconstructions[name], "image", row)
        np.testing.assert_array_equal(array(networks[title]), expected)
    for stop in ("OSEM-filter", "MAP"):
        (image,) = images(figures[stop]).values()
        expected = first(files.reconstructions[stop], "image", row)
        np.testing.assert_array_equal(array(image), expected)


def test_images_of_activity_share_a_window_and_errors_are_symmetric(low):
    files, figures = low
    truth = first(files.shard, "activity", middle(files))
    stops = figures.keys() - {"labels", "sinogram", "errors"}
    windows = {image.get_clim() for stop in stops for image in images(figures[stop]).values()}
    (window,) = windows
    assert window[0] == 0
    assert window[1] >= truth.max()
    errors = images(figures["errors"])
    assert len(errors) == 7
    for title, image in errors.items():
        name, rmse = re.fullmatch(r"(.*)\nRMSE (\S+) a\.u\.", title, re.DOTALL).groups()
        assert float(rmse) == pytest.approx(np.sqrt(np.mean(array(image) ** 2)), abs=0.05)
        drawn = next(
            array(found[name]) for stop in stops if name in (found := images(figures[stop]))
        )
        np.testing.assert_array_equal(array(image), drawn - truth)
    ((least, most),) = {image.get_clim() for image in errors.values()}
    assert least == -most < 0


def test_models_that_see_an_image_are_compared_with_the_truth_and_classical_images(low):
    files, figures = low
    truth = first(files.shard, "activity", middle(files))
    shown = images(figures["compared"])
    names = [title.split("\n")[0] for title in shown]
    assert names == ["truth", "OSEM + filter", "MAP", "LegoPET"]
    for title, image in list(shown.items())[1:]:
        rmse = float(title.split("RMSE ")[1].removesuffix(" a.u."))
        assert rmse == pytest.approx(np.sqrt(np.mean((array(image) - truth) ** 2)), abs=0.05)
    assert "compared" not in tour_images(files.shard, files.reconstructions)


def test_anterior_is_up_and_the_patients_left_is_marked_on_the_right(low):
    for stop, figure in low[1].items():
        if stop == "sinogram":
            continue
        for axis in figure.axes:
            if not axis.get_title():
                continue
            bottom, top = axis.get_ylim()
            left, right = axis.get_xlim()
            assert (bottom > top, right > left) == (True, True)
            places = {text.get_text(): text.get_position()[0] for text in axis.texts}
            assert places["L"] > 0.9
            assert "50 mm" in places


def test_without_fewer_counts_the_input_is_the_references(full):
    assert full[1].keys() == {
        *("labels", "activity", "slices", "sinogram", "fbp", "osem"),
        *("OSEM-filter", "MAP", "networks", "errors", "compared"),
    }
    assert "of all counts" not in str([*images(full[1]["errors"])])


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """All outputs of the command that docs/tour.md says."""
    folder = workplace(tmp_path_factory.mktemp("tour"))
    subjects = "data/subjects.demo.tsv"
    (folder / subjects).symlink_to(ROOT / subjects)
    (command,) = re.findall(r"^ {4}snakemake (.*)$", TEXT, re.MULTILINE)
    result = snakemake(folder, *shlex.split(command), "--dry-run", tiny=False)
    assert result.returncode == 0, result.stdout[-4000:]
    outputs = re.findall(r"^ {4}output: (.*)$", result.stdout, re.MULTILINE)
    return {path for line in outputs for path in line.split(", ")}


def test_the_document_shows_all_pictures_of_the_rule(planned):
    shown = re.findall(r"!\[.+?\]\((.*?)\)", TEXT)
    assert sorted(shown) == sorted(
        path.removeprefix("results/demo/")
        for path in planned
        if path.startswith("results/demo/tour/")
    )
    for name in shown:
        assert (ROOT / "docs" / name).read_bytes().startswith(b"\x89PNG"), name


def test_every_file_in_the_document_is_made_by_its_command(planned):
    named = set(re.findall(r"\b(?:data|results)/[\w./-]+\.h5", TEXT))
    assert len(named) > 10
    assert named <= planned


def test_the_lines_in_the_document_open_its_files(low_counts, monkeypatch):
    monkeypatch.chdir(low_counts)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
    for old, new in (("/demo/", "/low/"), ("subject05", "subject03"), ("row = 10 ", "row = 2 ")):
        assert old in code
        code = code.replace(old, new)
    found = {}
    exec(code, found)
    assert found["labels"].shape == found["activity"].shape
    assert found["prompts"].sum() > found["fewer"].sum() > 0
    assert found["error"].shape == found["image"].shape == found["reference"].shape
    assert len({found[name].ndim for name in ("truth", "image", "fewer")}) == 1
