"""A table of metrics that several tests read."""

import pandas as pd
import pytest

from helpers.table1 import METHODS, rows_of
from models.evaluation.metrics_table import COLUMNS, write_table


@pytest.fixture
def metrics(tmp_path):
    rows = [*rows_of("FBP", 20), *rows_of("OSEM", 25, references=("truth",))]
    for seed, (model, psnr_db) in enumerate(METHODS.items()):
        rows += rows_of(model, psnr_db, seed=seed)
    rows += rows_of("LegoPET-fbp", 36, seed=9)
    rows += [row for model in ("cDPM", "LegoPET") for row in rows_of(model, 40, "mean", 8)]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    write_table([table], tmp_path / "metrics.csv.gz")
    return tmp_path / "metrics.csv.gz"
