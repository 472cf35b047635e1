import importlib.util
from itertools import chain

import pytest
import yaml

from helpers.configurations import DELETE, ROOT, SCHEMA, changed, check_refused, merged, refusal
from pipeline.jobs.config import check, check_scans
from pipeline.storage.errors import InputError
from pipeline.tomography.scanners import GEOMETRIES


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    """The configuration names its table of subjects relative to the project."""
    monkeypatch.chdir(ROOT)


# The schema


def objects_and_leaves():
    """Path and schema of every object and every leaf, references resolved."""

    def walk(schema, path):
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        yield path, schema
        parts = dict(schema.get("properties", {}))
        if schema.get("additionalProperties"):
            parts["*"] = schema["additionalProperties"]
        if schema.get("items", {}).get("type") == "object":
            parts["*"] = schema["items"]
        for name, part in parts.items():
            yield from walk(part, f"{path}.{name}")

    scanners = (walk(SCHEMA["$defs"][kind], kind) for kind in GEOMETRIES)
    return [*walk(SCHEMA, "configuration"), *chain.from_iterable(scanners)]


SCHEMAS = objects_and_leaves()
OPEN = {"configuration.variants", "configuration.variants.*", "configuration.scanner"}
OPEN |= {"configuration.scans"}
"""Sections of any names; variants and scanners are checked by their method's and geometry's."""


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=[path for path, _ in SCHEMAS])
def test_schema_describes_and_limits_every_key(path, schema):
    assert schema["description"].strip().endswith(".")
    match schema.get("type"):
        case "object" if path in OPEN:
            assert schema.get("additionalProperties") is not False
        case "object":
            assert schema["additionalProperties"] is False
            assert set(schema.get("required", ())) <= set(schema["properties"])
        case "integer" | "number" | ["number", "null"]:
            assert schema.keys() & {"minimum", "exclusiveMinimum"}
        case "array" if schema["items"]["type"] in {"integer", "number"}:
            assert {"minItems", "maxItems"} <= schema.keys()
        case "array":
            assert schema["items"]["type"] == "object" or schema["uniqueItems"]
        case "string" | "boolean":
            pass
        case other:
            assert other is None
            assert schema.keys() & {"enum", "const"}


# Good configurations


def test_paper_configuration_is_valid():
    subjects = check(changed(), SCHEMA)
    assert len(subjects) == 20
    assert all(subject.labels_sha256 for subject in subjects.values())


@pytest.mark.parametrize("overlay", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_overlays_are_valid(overlay):
    check(merged(changed(), yaml.safe_load(overlay.read_text())), SCHEMA)


@pytest.mark.parametrize(
    "values",
    [
        {"scanner__radial_trim": 250, "network__size": 256},  # one radial bin is left
        {"slices__per_volume": 127},
        {"simulation__prompts_per_slice": 100, "simulation__doses": [0.01]},
        {"slices__pixel_mm": 2},  # whole numbers are numbers
        {"simulation__oversampling": 8},
        {"osem__subsets": 252},
    ],
    ids=str,
)
def test_limits_are_inclusive(values):
    check(changed(**values), SCHEMA)


# Bad ones


@pytest.mark.parametrize(
    ("values", "where", "problem", "remedy"),
    [
        (
            {"lesions__per_volume": 56},
            "lesions.per_volume",
            "is 56, and a volume has 55 slices",
            "give at most 55",
        ),
        (
            {"lesions__diameter_mm": [14, 6]},
            "lesions.diameter_mm",
            "is [14, 6], the larger first",
            "give [6, 14]",
        ),
        (
            {"lesions__training": True},
            "lesions.training",
            "is true, and lesions.per_volume is 0",
            "set lesions.per_volume",
        ),
        (
            {"simulation__prompts_per_slice": 99, "simulation__doses": [1, 0.01]},
            "simulation.doses",
            "has 0.01, which leaves 0.99 of 99 prompts of a slice",
            "raise it, or simulation.prompts_per_slice",
        ),
        ({"lesions__hot": 1.0}, "lesions.hot", "is 1.0", "more than 1"),
        ({"lesions__cold": 1.0}, "lesions.cold", "is 1.0", "less than 1"),
        ({"lesions__draws": 1}, "lesions.draws", "is 1", "at least 2"),
    ],
)
def test_contradictory_doses_and_lesions_are_refused(values, where, problem, remedy):
    check_refused(values, where, problem, remedy)


def test_lesions_may_be_in_all_slices():
    check(changed(lesions__per_volume=55, lesions__training=True), SCHEMA)


MISSPELT = {
    "sede": ("sede", "seed"),
    "subjets": ("subjets", "subjects"),
    "network__patches": ("network.patches", "patch"),
    "training__thread": ("training.thread", "threads"),
    "methods__LegoPET__keep_every_epoch": (
        "methods.LegoPET.keep_every_epoch",
        "keep_every_epochs",
    ),
    "methods__PnPNet__noise_schedule": ("methods.PnPNet.noise_schedule", "schedule"),
    "evaluation__sweeps__epoch": ("evaluation.sweeps.epoch", "epochs"),
    "slices__rotation": ("slices.rotation", "rotations"),
    "osem__iteration": ("osem.iteration", "iterations"),
    "scanner__radius": ("scanner.radius", "radius_mm"),
    "simulation__background": ("simulation.background", "background_fraction"),
}


@pytest.mark.parametrize(("path", "names"), MISSPELT.items(), ids=MISSPELT)
def test_misspelt_keys_name_the_nearest(path, names):
    found, nearest = names
    error = refusal(**{path: 4.25})
    assert error.where == found
    assert error.problem == "is not a known key (value 4.25)"
    assert f"did you mean '{nearest}'?" in error.remedy


def test_misspelt_keys_of_lists_name_their_place():
    error = refusal(evaluation__sweeps__guidance__sampling=[{"steps": 50}, {"sampels": 2}])
    assert error.where == "evaluation.sweeps.guidance.sampling.1.sampels"
    assert "did you mean 'samples'?" in error.remedy


def test_misspelling_wins_over_the_missing_key():
    error = refusal(osem__subset=21, osem__subsets=DELETE)
    assert error.where == "osem.subset"
    assert "did you mean 'subsets'?" in error.remedy


def test_keys_that_are_numbers_are_refused():
    assert refusal(**{"osem": {1: 2, "iterations": 1, "subsets": 21}}).where == "osem.1"


@pytest.mark.parametrize(
    ("path", "where"), [("seed", "configuration"), ("slices__size", "slices"), ("osem", None)]
)
def test_missing_keys_are_named(path, where):
    error = refusal(**{path: DELETE})
    assert error.where == (where or "configuration")
    assert error.problem == f"lacks {path.split('__')[-1]}"
    assert "config/config.yaml" in error.remedy


BAD_VALUES = [
    ("name", "Paper 1", "matching ^[a-z0-9]"),
    ("name", "../elsewhere", "matching ^[a-z0-9]"),
    ("name", 5, "a text"),
    ("seed", -1, "a whole number, at least 0"),
    ("seed", 1.5, "a whole number"),
    ("seed", True, "a whole number"),
    ("source", "brain", "one of brainweb, mni152"),
    ("subjects", "", "of at least 1 characters"),
    ("texture", None, "a section with keys"),
    ("texture", [1], "a section with keys"),
    ("texture__fraction", 2.5, "at most 2"),
    ("texture__sigma_voxels", -1, "at least 0"),
    ("slices__size", 256.0, "a whole number"),
    ("slices__size", 7, "at least 8"),
    ("slices__pixel_mm", 0, "more than 0"),
    ("slices__pixel_mm", "2.1 mm", "a number"),
    ("slices__slice_mm", 21, "at most 20"),
    ("slices__rotations", 0, "at least 1, at most 255"),
    ("slices__rotations", 256, "at least 1, at most 255"),
    ("slices__max_rotation_deg", 181, "at most 180"),
    ("slices__max_rotation_deg", float("nan"), "a number"),
    ("scanner__blocks", 2, "at least 3"),
    ("scanner__radius_mm", float("inf"), "a number"),
    ("scanner__radial_trim", -1, "at least 0"),
    ("projector", "parallel", "one of auto, sparse, parallelproj"),
    ("simulation__prompts_per_slice", 0, "more than 0"),
    ("simulation__attenuation", "on", "true or false"),
    ("simulation__attenuation", 1, "true or false"),
    ("simulation__background_fraction", 1, "less than 1"),
    ("simulation__oversampling", 9, "at most 8"),
    ("osem__subsets", 0, "at least 1"),
    ("fbp__window", "hamming", "one of ramp, hann"),
    ("fbp__cutoff", 1.1, "more than 0, at most 1"),
    ("network__patch", 0, "a whole number, at least 1, at most 16"),
    ("network__blocks", 9, "at least 1, at most 8"),
    ("training__threads", -1, "at least 0"),
    ("methods__cGAN__conditioning", "sinogram", "a list of names out of sinogram, line_integrals"),
    ("methods__cGAN__conditioning", ["fbp", "fbp"], "without repetitions"),
    ("methods__cGAN__conditioning", [], "of at least 1 entries"),
    ("methods__LegoPET__keep_every_epochs", -1, "at least 0"),
    ("methods__LegoPET__noise_schedule", "quadratic", "one of linear, cosine"),
    ("methods__LegoPET__features", None, "a text"),
    ("variants", [], "a section with keys"),
    ("evaluation__models", [], "a list, of at least 1 entries, without repetitions"),
    ("evaluation__models", ["cDPM", "cDPM"], "without repetitions"),
    ("evaluation__uncertainty", None, "a text"),
    ("evaluation__sweeps__epochs__slices", 0, "at least 1"),
    ("evaluation__sweeps__epochs__sampling", [], "a list, of at least 1 entries"),
]


@pytest.mark.parametrize(("path", "value", "wanted"), BAD_VALUES, ids=str)
def test_bad_values_are_named_with_what_is_wanted(path, value, wanted):
    error = refusal(**{path: value})
    assert error.where == path.replace("__", ".")
    assert error.problem == f"is {value!r}"
    assert error.remedy.startswith("give ")
    assert wanted in error.remedy
    assert error.remedy.endswith(".")


def test_values_in_lists_are_named_by_their_position():
    error = refusal(network__multipliers=[1, 2, 0, 8])
    assert (error.where, error.problem) == ("network.multipliers.2", "is 0")
    assert "a whole number, at least 1, at most 64" in error.remedy
    error = refusal(methods__cGAN__conditioning=["sinogram", "pet"])
    assert (error.where, error.problem) == ("methods.cGAN.conditioning.1", "is 'pet'")
    assert "one of sinogram, line_integrals, fbp" in error.remedy


CONTRADICTIONS = {
    "subsets": (
        {"osem__subsets": 20},
        ("osem.subsets", "20 subsets do not divide the scanner's 252 views", "12, 14, 18, 21"),
    ),
    "volume": (
        {"slices__per_volume": 128},
        ("slices.per_volume", "128 slices asked for, the volume holds 127", "at most 127"),
    ),
    "ring": (
        {"slices__size": 320},
        ("slices.size", "320 pixels of 2.0863 mm reach 334 mm", "fewer or smaller pixels"),
    ),
    "trim": (
        {"scanner__radial_trim": 252},
        ("scanner.radial_trim", "252 leaves -1 radial bins", "choose"),
    ),
    "odd": (
        {"scanner__blocks": 55},
        ("scanner", "55 blocks x 9 crystals is an odd number", "choose an even number"),
    ),
    "padding": (
        {"network__size": 128},
        ("network.size", "128 differs from the images' 256 pixels", "the same value"),
    ),
    "sinograms": (
        {"network__size": 248, "slices__size": 248, "network__multipliers": [1, 2]},
        ("network.size", "248 is less than the sinograms' 252 views x 255", "images alone for all"),
    ),
    "adversarial": (
        {"network__size": 258, "slices__size": 258, "network__multipliers": [1, 2]},
        ("network.size", "258 does not suit the adversarial networks", "at least 24"),
    ),
    "encoder": (
        {"network__size": 264, "slices__size": 264},
        ("methods.DeepPET.convolutions", "5 stages halve 264 pixels 4 times", "fewer stages"),
    ),
    "average": (
        {"sampling__weights": "ema"},
        ("sampling.weights", "training.ema_decay is 0", "training.ema_decay"),
    ),
    "steps": (
        {"sampling__steps": 300},
        ("sampling.steps", "300 does not divide the 1000 timesteps of cDPM", "a divisor"),
    ),
    "patches": (
        {"network__patch": 3},
        (
            "network.patch",
            "4 stages halve 256 pixels in patches of 3 3 times",
            "a size that 24 divides",
        ),
    ),
    "validation": (
        {"training__validation_sampling__steps": 300},
        ("training.validation_sampling.steps", "300 does not divide the 1000", "a divisor"),
    ),
}


@pytest.mark.parametrize(("values", "wanted"), CONTRADICTIONS.values(), ids=list(CONTRADICTIONS))
def test_contradictions_are_named(values, wanted):
    check_refused(values, *wanted)


def test_networks_that_see_images_alone_may_be_smaller_than_sinograms():
    overlay = yaml.safe_load((ROOT / "config" / "lowdose.yaml").read_text())
    config = merged(changed(), overlay) | {"scanner": changed()["scanner"]}
    config["osem"]["subsets"] = 21
    check(config, SCHEMA)
    config["methods"]["DeepPET"]["conditioning"] = ["osem_input", "sinogram"]
    with pytest.raises(InputError, match="64 is less than the sinograms' 252 views x 255 radial"):
        check(config, SCHEMA)


def test_parallelproj_must_be_installed_if_asked_for(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name.startswith("parallelproj") else found(name, *rest),
    )
    error = refusal(projector="parallelproj")
    assert error.where == "projector"
    assert "'parallelproj' is not installed" in error.problem
    assert "projector: sparse" in error.remedy
    check(changed(projector="auto"), SCHEMA)


def table(folder, *rows):
    path = folder / "subjects.tsv"
    path.write_text("\n".join(["subject\tsplit\tlabels_sha256", *rows]) + "\n")
    return str(path)


def test_a_mark_within_the_path_of_a_scan_is_pointed_at(tmp_path):
    (tmp_path / "scan #1").mkdir()
    path = tmp_path / "scan #1" / "a.npy"
    path.touch()
    with pytest.raises(InputError, match="does not exist; # separates the name of") as no:
        check_scans({"head": {"sinogram": str(path)}})
    assert f"an array, here '1/a.npy', from '{tmp_path}/scan '" in no.value.problem
    assert no.value.where == str(path)
    assert "correct scans.head.sinogram" in no.value.remedy
    assert no.value.remedy.endswith("if # is part of the name of a folder or file, rename that")


def test_choices_are_listed_without_an_empty_one():
    error = refusal(scans={"head": {"sinogram": "a.npy", "patient_position": "HFX"}})
    assert error.where == "scans.head.patient_position"
    assert error.remedy.startswith("give one of HFS, HFP, FFS, FFP. ")


def test_missing_table_of_subjects_is_refused(tmp_path):
    error = refusal(subjects=str(tmp_path / "none.tsv"))
    assert error.where == str(tmp_path / "none.tsv")
    assert error.problem == "does not exist"
    assert "correct its path in the configuration" in error.remedy


def test_subject_in_two_splits_is_refused(tmp_path):
    rows = [f"subject04\t{split}\t{'0' * 64}" for split in ("train", "test")]
    error = refusal(subjects=table(tmp_path, *rows))
    assert "line 3" in error.where
    assert error.problem == "subject04 is in two splits, train and test"


def test_brainweb_needs_hashes_and_mni152_does_not(tmp_path):
    rows = ["subject04\ttrain\t-", "subject05\tvalidation\t-", "subject06\ttest\t" + "0" * 64]
    path = table(tmp_path, *rows)
    error = refusal(subjects=path)
    assert error.where == path
    assert error.problem == "gives no label hash for subject04, subject05"
    assert "data/subjects.tsv" in error.remedy
    assert len(check(changed(subjects=path, source="mni152"), SCHEMA)) == 3
