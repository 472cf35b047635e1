"""What several tests of the workflow share beside the finished experiment: one of low counts."""

from pathlib import Path

import pytest
import yaml

from helpers.low_counts import FILES, OVERLAY
from helpers.workflow import snakemake, workplace


@pytest.fixture(scope="session")
def low_counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the workflow has run at several doses."""
    place = workplace(tmp_path_factory.mktemp("doses"))
    (place / "low.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
    result = snakemake(place, "--cores", "2", *FILES, tiny=False)
    assert result.returncode == 0, result.stdout[-4000:]
    return place
