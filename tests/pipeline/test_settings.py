"""Settings are frozen, and their fields are the keys of their section in the schema."""

from dataclasses import FrozenInstanceError, fields

import pytest

from helpers.configurations import SCHEMA, changed
from models.settings import FinalSampling, Network, Sampling, Sweep, Training
from pipeline.fbp import FbpSettings
from pipeline.import_scan import Scan
from pipeline.osem import OsemSettings
from pipeline.phantom import Texture
from pipeline.tomography.forward_model import Simulation
from pipeline.tomography.geometry import SliceSettings
from pipeline.tomography.scanners import ParallelBeam, Ring, scanner_from

SECTIONS = {
    "properties.texture": Texture,
    "properties.slices": SliceSettings,
    "$defs.ring": Ring,
    "$defs.parallel": ParallelBeam,
    "$defs.scan": Scan,
    "properties.simulation": Simulation,
    "properties.osem": OsemSettings,
    "properties.fbp": FbpSettings,
    "properties.network": Network,
    "properties.training": Training,
    "properties.training.properties.validation_sampling": Sampling,
    "properties.sampling": FinalSampling,
    "$defs.sweep": Sweep,
}

OTHERS = {"$defs.scan": {"images"}, "properties.simulation": {"doses"}}
"""Keys that say which files are made, and nothing of how."""


@pytest.mark.parametrize("section", SECTIONS)
def test_fields_are_the_keys_of_the_schema(section):
    schema = SCHEMA
    for key in section.split("."):
        schema = schema[key]
    names = {field.name for field in fields(SECTIONS[section])}
    required = {"sinogram"} if section == "$defs.scan" else schema["properties"].keys()
    assert required == set(schema["required"])
    assert names == schema["properties"].keys() - {"geometry"} - OTHERS.get(section, set())


@pytest.mark.parametrize("name", ["texture", "slices", "simulation", "osem", "fbp"])
def test_settings_hold_what_the_configuration_says_for_good(name):
    others = OTHERS.get(f"properties.{name}", set())
    section = {key: value for key, value in changed()[name].items() if key not in others}
    settings = SECTIONS[f"properties.{name}"](**section)
    for key, value in section.items():
        assert getattr(settings, key) == value
        with pytest.raises(FrozenInstanceError):
            setattr(settings, key, value)


def test_a_scanner_is_what_its_section_says_for_good():
    section = changed()["scanner"]
    ring = scanner_from(section)
    assert isinstance(ring, Ring)
    assert ring.gaps == ()
    for key, value in section.items():
        assert key in ("geometry", "gaps") or getattr(ring, key) == value
    with pytest.raises(FrozenInstanceError):
        ring.blocks = 3
