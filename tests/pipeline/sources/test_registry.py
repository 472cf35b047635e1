"""A data source is its file and its line in the registry, and an unregistered one is refused."""

import pytest

from helpers.configurations import SCHEMA, changed
from helpers.paths import ROOT
from pipeline.jobs import memory
from pipeline.jobs.config import check
from pipeline.jobs.used_code import REFERENCE, code_hash
from pipeline.sources.registry import SOURCES, facts, load
from pipeline.storage.errors import InputError

MADE_UP = """
from pipeline.sources.base import Facts
from pipeline.storage.errors import InputError

def fetch(output, subject, config):
    output.write_text(f"{subject} {config['seed']}")

def _check(subjects, table):
    if "subject04" in subjects:
        raise InputError(table, "has subject04", "leave it out")

FACTS = Facts(shape=(2, 3, 5), bytes_per_voxel=10**6, decided_by=("seed",), check=_check)
"""


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A data source: its file, and its line in the registry."""
    (tmp_path / "a_made_up_source.py").write_text(MADE_UP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SOURCES, "made-up", "a_made_up_source:fetch")
    monkeypatch.chdir(ROOT)
    return "made-up"


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_states_its_facts(name):
    assert callable(load(name))
    assert len(facts(name).shape) == 3
    assert facts(name).bytes_per_voxel > 0
    assert REFERENCE.fullmatch(SOURCES[name])


def test_seeds_decide_demonstrations_alone():
    assert facts("mni152").decided_by == ("seed",)
    assert [name for name in SOURCES if "seed" in facts(name).decided_by] == ["mni152"]


def test_what_decides_a_source_is_of_the_configuration():
    for name in SOURCES:
        assert {*facts(name).decided_by} <= changed().keys()
    assert [name for name in SOURCES if facts(name).gives == "images"] == ["folder"]


def test_the_code_is_of_one_source():
    hashes = {code_hash("fetch.py", entry) for entry in SOURCES.values()}
    assert len(hashes) == len(SOURCES)
    assert code_hash("fetch.py") not in hashes


def test_a_new_source_is_known_everywhere(tmp_path, made_up):
    config = changed(source=made_up, slices__per_volume=1)
    with pytest.raises(InputError, match=r"data/subjects\.tsv: has subject04") as refused:
        check(config, SCHEMA)
    assert refused.value.remedy == "leave it out"
    assert memory.fetch(config) == memory.asked(memory.PLAIN_MB, 30e6)
    assert memory.phantom(config) == memory.asked(memory.IMAGES_MB, 19 * 30)
    load(made_up)(tmp_path / "labels", "subject05", config)
    assert (tmp_path / "labels").read_text() == f"subject05 {config['seed']}"


@pytest.mark.parametrize("asks", [load, facts])
def test_an_unregistered_source_is_refused(asks):
    with pytest.raises(InputError) as refused:
        asks("mni")
    assert refused.value.where == "source"
    assert refused.value.problem == "is 'mni'"
    assert refused.value.remedy == f"give one of {', '.join(SOURCES)}."
