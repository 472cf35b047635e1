"""The paper's configuration with changes, and what is said against them."""

import copy

import pytest
import yaml

from helpers.paths import ROOT
from models.configuration import schema
from pipeline.jobs.config import check
from pipeline.storage.errors import InputError

SCHEMA = schema()
PAPERS = ("PnPNet", "cDPM", "LegoPET", "DeepPET", "cGAN", "Pix2Pix")
"""Methods that the configurations here evaluate, in the order of the registry."""

DELETE = object()


def changed(**values):
    """Return the paper's configuration with some keys, as in ``slices__size``, changed."""
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    for path, value in values.items():
        *sections, key = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        if value is DELETE:
            del section[key]
        else:
            section[key] = value
    return config


def refusal(**values):
    with pytest.raises(InputError) as caught:
        check(changed(**values), SCHEMA)
    return caught.value


def check_refused(values, where, problem, remedy):
    error = refusal(**values)
    assert error.where == where
    assert problem in error.problem
    assert remedy in error.remedy


def merged(base, overlay):
    result = copy.copy(base)
    for key, value in overlay.items():
        deeper = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if deeper else value
    return result
