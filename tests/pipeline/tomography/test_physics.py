"""What data were measured with, of shards and weights, and what is refused or doubted."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import pytest

from helpers.small_models import PHYSICS, SIZE, make_shard
from pipeline.storage.errors import InputError
from pipeline.tomography.agreement import check, nearest_dose, of_training
from pipeline.tomography.physics import DECIDING, SEEN, Physics, geometry_text, of_shard
from pipeline.tomography.scanners import ParallelBeam, Ring, scanner_from

RING = Ring(16, 8, 200.0, 9.95, 32, gaps=[0], first_end_point_deg=-5.23)
TRAINED = Physics(
    geometry=json.loads(geometry_text(RING)),
    pixels=64,
    pixel_mm=4.0,
    slice_mm=2.0312,
    attenuation=True,
    psf_fwhm_mm=4.5,
    background_fraction=0.2,
    counts_per_slice=1e6,
    counts_per_activity=3.0,
)
MEASURED = replace(TRAINED, attenuation=None, psf_fwhm_mm=None)
HANN, RAMP = {"window": "hann", "cutoff": 1.0}, {"window": "ramp", "cutoff": 0.5}
WEIGHTS, DATA = Path("w.safetensors"), Path("data.h5")


@pytest.mark.parametrize("geometry", [RING, ParallelBeam(60, 64, 4.0, -5.23)])
def test_geometries_are_those_of_their_text(geometry):
    assert scanner_from(json.loads(geometry_text(geometry))) == geometry


# --- shards --------------------------------------------------------------------------------------


def test_a_shard_says_its_physics(tmp_path):
    found = of_shard(make_shard(tmp_path / "s.h5"))
    said = {**PHYSICS, "geometry": json.loads(PHYSICS["geometry"])}
    others = {"pixels": SIZE, "patient_position": "HFS", "doses": (1.0,)}
    others |= {"fbp": None, "osem_input": None}
    assert asdict(found) == said | others
    assert Physics(**json.loads(json.dumps(asdict(found)))) == found


def test_weights_of_several_doses_know_them_and_all_counts(tmp_path):
    paths = [
        make_shard(
            tmp_path / f"{n}.h5",
            physics={**PHYSICS, "dose": dose, "counts_per_slice": 1e6 * dose},
        )
        for n, dose in enumerate((0.2, 0.05, 0.02))
    ]
    trained = of_training(paths, [], seen=set())
    assert trained.doses == (0.02, 0.05, 0.2)
    assert trained.counts_per_slice == pytest.approx(1e6)
    for path in paths:
        assert not check(trained, WEIGHTS, of_shard(path), path)
    half, tenfold = (replace(of_shard(paths[1]), counts_per_slice=n) for n in (1e5, 1e4))
    assert not check(trained, WEIGHTS, half, DATA)
    assert nearest_dose(trained, 0) == 0.02
    (doubt,) = check(trained, WEIGHTS, replace(tenfold, counts_per_slice=5e3), DATA)
    assert doubt == "5,000 counts per slice, 0.25 times the 20,000 of training"


@pytest.mark.parametrize("dose", [0.0, -0.1, 1.5, float("nan")])
def test_a_dose_that_is_none_is_refused(tmp_path, dose):
    shard = make_shard(tmp_path / "s.h5", physics={**PHYSICS, "dose": dose})
    with pytest.raises(InputError, match="physics that no simulation has: the dose"):
        of_shard(shard)


def test_an_earlier_one_does_not(tmp_path):
    assert of_shard(make_shard(tmp_path / "s.h5", physics=None)) is None


def test_a_shard_says_how_its_fbp_images_were_filtered(tmp_path):
    assert of_shard(make_shard(tmp_path / "s.h5", fbp=HANN)).fbp == HANN


WRONG_OSEM = [
    {"subsets": 4},
    {"iterations": True, "subsets": 4},
    {"iterations": 2.0, "subsets": 4},
    {"iterations": 2, "subsets": 4, "filter_mm": -1.0},
    {"iterations": 2, "subsets": 4, "filter_mm": float("inf")},
    {"iterations": 2, "subsets": 4, "of": 1},
]


@pytest.mark.parametrize("filtered", [{}, {"filter_mm": 6.0}])
def test_a_shard_says_how_its_osem_images_were_made(tmp_path, filtered):
    path = make_shard(tmp_path / "s.h5", osem_input={"iterations": 2, "subsets": 4, **filtered})
    found = of_shard(path)
    assert found.osem_input == {"iterations": 2, "subsets": 4, "filter_mm": 0.0, **filtered}
    assert found.fbp is None


@pytest.mark.parametrize("settings", WRONG_OSEM, ids=repr)
def test_damage_to_how_osem_images_were_made_is_refused(tmp_path, settings):
    path = make_shard(tmp_path / "s.h5", osem_input=settings)
    with pytest.raises(InputError, match="says no settings of its osem_input images"):
        of_shard(path)


def made_from(settings):
    return json.dumps({"fbp_config": json.dumps({"fbp": settings})})


WRONG_FBP = {
    "no JSON": "[",
    "a list": "[]",
    "no JSON inside": '{"fbp_config": "{"}',
    "settings that are none": made_from([]),
    "no cutoff": made_from({"window": "hann"}),
    "no window": made_from({"window": 1, "cutoff": 1}),
    "not a number": made_from({"window": "hann", "cutoff": float("nan")}),
    "true": made_from({"window": "hann", "cutoff": True}),
}


@pytest.mark.parametrize("name", WRONG_FBP)
def test_damage_to_that_is_refused(tmp_path, name):
    path = make_shard(tmp_path / "s.h5", fbp=HANN)
    with h5py.File(path, "r+") as file:
        file.attrs["config"] = WRONG_FBP[name]
    with pytest.raises(InputError, match="says no settings of its fbp images") as refused:
        of_shard(path)
    assert "run rule 'shard' again" in refused.value.remedy


WRONG = {
    "geometry": "[",
    "pixels": 0,
    "slice_mm": float("nan"),
    "attenuation": 2.5,
    "counts_per_activity": 0.0,
    "background_fraction": -0.1,
}


@pytest.mark.parametrize("name", WRONG)
def test_damaged_attributes_are_refused(tmp_path, name):
    path = make_shard(tmp_path / "s.h5", physics={**PHYSICS, name: WRONG[name]})
    with pytest.raises(InputError, match="run rule 'shard' again") as refused:
        of_shard(path)
    assert refused.value.where == str(path)
    with h5py.File(path, "r+") as file:
        del file.attrs[name]
    if name != "geometry":
        with pytest.raises(InputError, match=name):
            of_shard(path)


def test_the_counts_of_a_training_are_means_of_its_own_shards(tmp_path):
    paths = [
        make_shard(tmp_path / f"{n}.h5", physics={**PHYSICS, "counts_per_slice": float(n)})
        for n in (10, 20, 99)
    ]
    assert of_training(paths[:2], paths[2:], seen={"fbp"}).counts_per_slice == 15


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("name", [name for name in PHYSICS if not name.startswith("counts")])
def test_shards_that_do_not_agree_are_refused(tmp_path, name, validation):
    ring = geometry_text(RING)
    other = {"geometry": ring, "attenuation": True}.get(name, 0.5)
    one = make_shard(tmp_path / "1.h5")
    two = make_shard(tmp_path / "2.h5", physics={**PHYSICS, name: other})
    with pytest.raises(InputError, match=rf"{name}: .* -> ") as refused:
        of_training(*([one], [two]) if validation else ([one, two], []), seen=set())
    assert refused.value.where == str(two)


def test_fbp_images_must_agree_where_they_are_seen(tmp_path):
    one = make_shard(tmp_path / "1.h5", fbp=HANN)
    two = make_shard(tmp_path / "2.h5", fbp=RAMP)
    assert of_training([one], [two], seen=set()).fbp is None
    assert of_training([one], [one], seen={"fbp"}).fbp == HANN
    with pytest.raises(InputError, match=r"fbp\.window: hann -> ramp"):
        of_training([one], [two], seen={"fbp"})


def test_earlier_shards_and_others_do_not_mix(tmp_path, caplog):
    one = make_shard(tmp_path / "1.h5")
    two, three = (make_shard(tmp_path / f"{n}.h5", physics=None) for n in (2, 3))
    for paths in ([one, two], [two, one]):
        with pytest.raises(InputError, match="does not say its physics, and") as refused:
            of_training(paths, [], seen=set())
        assert refused.value.where == str(two)
    with caplog.at_level(logging.WARNING):
        assert of_training([two], [three], seen=set()) is None
    assert "do not say their physics" in caplog.text


# --- what is refused -----------------------------------------------------------------------------

CHANGED = {
    "pixels": 65,
    "pixel_mm": 4.01,
    "slice_mm": 2.5,
    "attenuation": False,
    "psf_fwhm_mm": 0.0,
    "background_fraction": 0.0,
    "patient_position": "HFP",
}
OTHER_RING = {"blocks": 8, "radius_mm": 201.0, "gaps": [1], "first_end_point_deg": None}


def refusal(data):
    with pytest.raises(InputError, match=r"is not what w\.safetensors was trained for") as refused:
        check(TRAINED, WEIGHTS, data, DATA)
    assert refused.value.where == str(DATA)
    return refused.value.problem


def test_the_keys_are_all_that_decide():
    assert {"geometry", *SEEN, *CHANGED} == {*DECIDING}


@pytest.mark.parametrize("name", CHANGED)
def test_each_difference_is_named_with_both_values(name):
    said = f"{name}: {getattr(TRAINED, name)} -> {CHANGED[name]}"
    assert said in refusal(replace(TRAINED, **{name: CHANGED[name]}))


def test_all_of_them_are():
    said = refusal(replace(TRAINED, **CHANGED))
    assert all(f"{name}: " in said for name in CHANGED)


@pytest.mark.parametrize("name", OTHER_RING)
def test_so_are_those_of_a_ring(name):
    old, new = TRAINED.geometry[name], OTHER_RING[name]
    said = refusal(replace(TRAINED, geometry={**TRAINED.geometry, name: new}))
    assert said.endswith(f"(geometry.{name}: {old} -> {new})")


def test_parallel_lines_are_no_ring():
    beam = json.loads(geometry_text(ParallelBeam(64, 63, 4.0)))
    said = refusal(replace(TRAINED, geometry=beam))
    assert "geometry: {" in said
    assert "'bins': 63" in said


def test_rounding_is_no_difference():
    assert check(TRAINED, WEIGHTS, replace(TRAINED, slice_mm=2.03125), DATA) == []


def test_settings_of_a_simulation_are_none_of_a_scan():
    assert check(TRAINED, WEIGHTS, MEASURED, DATA) == []
    with pytest.raises(InputError, match="patient_position: HFS -> FFS"):
        check(TRAINED, WEIGHTS, replace(MEASURED, patient_position="FFS"), DATA)


@pytest.mark.parametrize("data", [TRAINED, MEASURED])
def test_a_network_that_sees_fbp_images_knows_their_filter(data, caplog):
    trained, other = replace(TRAINED, fbp=HANN), replace(data, fbp=RAMP)
    with pytest.raises(InputError, match=r"fbp\.cutoff: 1\.0 -> 0\.5; fbp\.window: hann -> ramp"):
        check(trained, WEIGHTS, other, DATA, seen={"fbp"})
    assert check(trained, WEIGHTS, replace(data, fbp=HANN), DATA, seen={"fbp"}) == []
    assert check(TRAINED, WEIGHTS, other, DATA, seen=set()) == []
    assert not caplog.records


@pytest.mark.parametrize(("trained", "data"), [(None, HANN), (HANN, None)])
def test_of_which_earlier_files_say_nothing(trained, data, caplog):
    pair = replace(TRAINED, fbp=trained), WEIGHTS, replace(TRAINED, fbp=data), DATA
    with caplog.at_level(logging.WARNING):
        assert check(*pair, seen={"fbp"}) == []
    silent = DATA if trained else WEIGHTS
    said = f"{silent} does not say how its fbp images were made; not checked"
    assert caplog.messages == [said]


# --- what is doubted -----------------------------------------------------------------------------


@pytest.mark.parametrize("data", [TRAINED, MEASURED])
@pytest.mark.parametrize(("counts", "doubted"), [(4.9e5, 1), (5.1e5, 0), (1.9e6, 0), (2.1e6, 1)])
def test_counts_that_are_more_than_twice_off(caplog, data, counts, doubted):
    with caplog.at_level(logging.WARNING):
        found = check(TRAINED, WEIGHTS, replace(data, counts_per_slice=counts), DATA)
    assert len(found) == len(caplog.records) == doubted
    assert all("counts per slice" in doubt and "1,000,000 of training" in doubt for doubt in found)


def test_a_scan_differs_from_a_simulation():
    plain = replace(TRAINED, attenuation=False, background_fraction=0.0)
    found = check(plain, WEIGHTS, replace(MEASURED, background_fraction=0.36), DATA)
    assert found == [
        "the network was trained without attenuation, which patients have",
        "background is 36% of the prompts, 0% in training",
    ]


@pytest.mark.parametrize(("trained", "data"), [(None, TRAINED), (TRAINED, None), (None, None)])
def test_what_cannot_be_checked_is_said(caplog, trained, data):
    with caplog.at_level(logging.WARNING):
        assert check(trained, WEIGHTS, data, DATA) == []
    silent = DATA if trained else WEIGHTS
    assert f"{silent} does not say its physics; not checked: geometry, pixels" in caplog.text
