"""BrainWeb's volumes are small where its files are read and downloaded."""

import pytest

from helpers.volumes import SMALL
from pipeline.sources import brainweb


@pytest.fixture(autouse=True)
def small_volumes(monkeypatch):
    monkeypatch.setattr(brainweb, "SHAPE", SMALL)
