"""Time and memory of each rule, from the benchmark files that a run of the workflow has left.

python -m benchmarks.stages logs/paper
"""

import sys
from pathlib import Path

import pandas as pd


def stages(logs: Path) -> pd.DataFrame:
    """One row a rule: jobs, seconds (mean, longest, sum), CPU seconds and peak memory."""
    rows = []
    for folder in sorted(path for path in logs.iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.tsv"))
        if not files:
            continue
        jobs = pd.concat([pd.read_csv(file, sep="\t") for file in files])
        rows.append(
            {
                "rule": folder.name,
                "jobs": len(jobs),
                "mean_s": jobs["s"].mean(),
                "longest_s": jobs["s"].max(),
                "sum_s": jobs["s"].sum(),
                "cpu_s": jobs["cpu_time"].sum(),
                # Snakemake samples memory; jobs shorter than its first sample have none.
                "peak_mb": pd.to_numeric(jobs["max_rss"], errors="coerce").max(),
            }
        )
    return pd.DataFrame(rows).round(1)


if __name__ == "__main__":
    print(stages(Path(sys.argv[1])).to_string(index=False))
