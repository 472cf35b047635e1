"""What the image panels show: images, scales and labels."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.scripts import run_script
from helpers.small_models import SIZE, make_shard
from models import checkpoints
from models.dataset import Scales
from models.report import images
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import RECONSTRUCTION, SHARD

SCALES = Scales(sinogram=100.0, activity=150.0)
SLICES, SAMPLES = 3, 4


def make_reconstruction(path, shard, seed=0, samples=1, first_row=0):
    """Write random images of a shard's slices; each is brightest in its top left corner."""
    rng = np.random.default_rng(seed)
    with hdf5.opened(shard, SHARD) as file:
        identity = {name: file[name][first_row:] for name in ("rotation", "slice_index")}
        subject = file.attrs["subject"]
    stack = rng.uniform(0, 100, (len(identity["rotation"]), samples, SIZE, SIZE))
    stack[..., 0, 0] = 500 + seed
    stack = stack.astype(np.float32)
    arrays = {"image": stack.mean(axis=1), **identity}
    if samples > 1:
        arrays |= {"samples": stack, "std": stack.std(axis=1, ddof=1)}
    hdf5.write(path, RECONSTRUCTION, arrays, hdf5.provenance({}, subject=subject))
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two test shards, and reconstructions of both by three models, the last with samples."""
    folder = tmp_path_factory.mktemp("images")
    found = [
        make_shard(folder / f"{n}.h5", subject=f"subject{n}", slices=SLICES, seed=n)
        for n in (42, 43)
    ]
    reconstructions = {
        model: [
            make_reconstruction(folder / f"{model}-{n}.h5", shard, 10 * m + n, samples)
            for n, shard in reversed(list(enumerate(found)))
        ]
        for m, (model, samples) in enumerate(
            {"PnPNet": 1, "LegoPET-fbp": 1, "LegoPET": SAMPLES}.items()
        )
    }
    return found, reconstructions


def titled(figure, title):
    """Axes under a title, from top to bottom."""
    return [axis for axis in figure.axes if axis.get_title() == title]


def pixels(axis):
    (image,) = axis.images
    return np.asarray(image.get_array())


def below(figure, axis):
    """Axes right below one of a panel."""
    place = axis.get_subplotspec()
    return next(
        other
        for other in figure.axes
        if (spec := other.get_subplotspec())
        and other.get_label() != "<colorbar>"
        and spec.rowspan.start == place.rowspan.start + 1
        and spec.colspan.start == place.colspan.start
    )


def bar_labels(figure):
    return {
        axis.get_ylabel() or axis.get_xlabel()
        for axis in figure.axes
        if axis.get_label() == "<colorbar>"
    }


def test_panel_shows_every_image_of_the_chosen_slices(drawn):
    found, reconstructions = drawn
    figure = images.panel(found, reconstructions, SCALES, [0.0, 1.0])
    expected = {
        "sinogram": "sinogram",
        "OSEM (reference)": "osem",
        "truth": "activity",
        "FBP": "fbp",
    }
    for n, row in ((0, 0), (1, SLICES - 1)):
        with hdf5.opened(found[n], SHARD) as shard:
            for title, name in expected.items():
                assert np.array_equal(pixels(titled(figure, title)[n]), shard[name][row])
        for model, files in reconstructions.items():
            arrays, _ = hdf5.read(files[1 - n], RECONSTRUCTION)
            first = arrays["samples"][row, 0] if model == "LegoPET" else arrays["image"][row]
            assert np.array_equal(pixels(titled(figure, model)[n]), first)


def test_errors_of_the_panel_share_one_scale(drawn):
    found, reconstructions = drawn
    figure = images.panel(found, reconstructions, SCALES, [0.0, 1.0])
    limits, shown = set(), set()
    for title in ("truth", "FBP", *reconstructions):
        for osem, axis in zip(
            titled(figure, "OSEM (reference)"), titled(figure, title), strict=True
        ):
            error = below(figure, axis)
            expected = ((pixels(axis) - pixels(osem)) / SCALES.activity) ** 2
            assert np.allclose(pixels(error), expected)
            psnr_db = re.search(r"PSNR (\S+) dB\nSSIM", error.get_xlabel())[1]
            assert float(psnr_db) == pytest.approx(-10 * np.log10(expected.mean()), abs=0.006)
            limits.add(error.images[0].get_clim())
            shown.add(axis.images[0].get_clim())
    assert len(limits) == len(shown) == 1
    assert bar_labels(figure) == {
        "prompts per bin [counts]",
        "activity [a.u.]",
        "squared error\n[(activity / max)²]",
    }


def test_images_have_row_0_on_top_and_left_marked_on_the_right(drawn):
    found, reconstructions = drawn
    axis = titled(images.panel(found, reconstructions, SCALES, [0.5]), "PnPNet")[0]
    assert np.unravel_index(pixels(axis).argmax(), (SIZE, SIZE)) == (0, 0)
    top_left = axis.transData.transform((0, 0))
    bottom_right = axis.transData.transform((SIZE - 1, SIZE - 1))
    assert top_left[0] < bottom_right[0]
    assert top_left[1] > bottom_right[1]
    (mark,) = axis.texts
    assert mark.get_text() == "L"
    assert mark.get_position()[0] > 0.9


def test_many_models_take_several_rows(drawn):
    found, reconstructions = drawn
    many = {f"model{n}": reconstructions["PnPNet"] for n in range(13)}
    figure = images.panel(found, many, SCALES, [0.5])
    places = [titled(figure, model)[0].get_subplotspec() for model in many]
    assert len({(place.rowspan.start, place.colspan.start) for place in places}) == 13
    assert max(place.colspan.start for place in places) < images.MAX_COLUMNS


def test_a_subject_without_reconstruction_is_named(drawn):
    found, reconstructions = drawn
    some = {"PnPNet": reconstructions["PnPNet"][:1]}
    with pytest.raises(InputError, match=r"42\.h5: has no reconstruction by PnPNet"):
        images.panel(found, some, SCALES, [0.5])


def test_a_reconstruction_of_other_slices_is_refused(drawn, tmp_path):
    found, _ = drawn
    other = make_reconstruction(tmp_path / "other.h5", found[0], first_row=1)
    with pytest.raises(InputError, match=r"other\.h5: was made of other slices"):
        images.panel(found, {"PnPNet": [other]}, SCALES, [0.0])


def test_uncertainty_shows_samples_and_errors(drawn):
    found, reconstructions = drawn
    figure = images.uncertainty(found, reconstructions["LegoPET"], "LegoPET", [0.0, 1.0])
    arrays, _ = hdf5.read(reconstructions["LegoPET"][1], RECONSTRUCTION)
    with hdf5.opened(found[0], SHARD) as shard:
        osem, activity, head = shard["osem"][0], shard["activity"][0], shard["labels"][0] > 0
    mean, deviation = arrays["image"][0], arrays["std"][0]
    expected = {
        "OSEM (reference)": osem,
        "LegoPET: mean of 4 samples": mean,
        "standard deviation": deviation,
        "|mean - OSEM|": np.abs(mean - osem),
        "|mean - truth|": np.abs(mean - activity),
    }
    for title, image in expected.items():
        (axis,) = titled(figure, title)
        assert np.allclose(pixels(axis), image), title
    limits = {}
    for title in ("|mean - OSEM|", "|mean - truth|"):
        (axis,) = titled(figure, title)
        limits |= {axis.images[0].get_clim(): title}
        limits |= {below(figure, axis).images[0].get_clim(): title}
        correlation = np.corrcoef(deviation[head], expected[title][head])[0, 1]
        assert axis.get_xlabel() == f"correlation with s.d.\nin the head: {correlation:.2f}"
    assert len(limits) == 1
    assert bar_labels(figure) == {
        "activity [a.u.]",
        "standard deviation [a.u.]",
        "absolute error [a.u.]",
    }


def test_uncertainty_needs_samples(drawn):
    found, reconstructions = drawn
    with pytest.raises(InputError, match="holds a single sample of a slice"):
        images.uncertainty(found, reconstructions["PnPNet"], "PnPNet", [0.5])


class Inputs(list):
    """Input of a rule: a list of which parts have names."""


def test_scripts_write_their_figures(drawn, tmp_path, monkeypatch):
    found, reconstructions = drawn
    monkeypatch.setattr(checkpoints, "read_metadata", lambda path: SimpleNamespace(scales=SCALES))
    inputs = Inputs()
    inputs.shards = [str(path) for path in found]
    inputs.reconstructions = [str(path) for paths in reconstructions.values() for path in paths]
    inputs.weights = ["weights.safetensors"]
    models = list(reconstructions)
    settings = {"models": models, "positions": [0.5], "reference": "osem"}
    run_script("panel", tmp_path / "panel.png", inputs, **settings)
    inputs.reconstructions = [str(path) for path in reconstructions["LegoPET"]]
    run_script("uncertainty", tmp_path / "u.png", inputs, model="LegoPET", positions=[0.5])
