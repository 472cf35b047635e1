"""The paper's configuration with changes, and what is said against them."""

from pathlib import Path

import pytest
import yaml

from pipeline.config import check
from pipeline.errors import InputError

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
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
