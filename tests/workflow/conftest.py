"""What several tests of the workflow share beside the finished experiment: one of low counts."""

from pathlib import Path

import pytest
import yaml

from helpers.low_counts import FILES, OVERLAY
from helpers.workflow import once, snakemake, workplace


@pytest.fixture(scope="session")
def low_counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the workflow has run at several doses."""

    def make(place: Path) -> None:
        workplace(place)
        (place / "low.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
        result = snakemake(place, "--cores", "2", *FILES, tiny=False)
        assert result.returncode == 0, result.stdout[-4000:]

    return once(tmp_path_factory, "doses", make)
