"""Time and memory of each rule, from the benchmark files that a run of the workflow has left.

python -m benchmarks.stages logs/paper
"""

import sys
from collections import defaultdict
from pathlib import Path

import pandas as pd


def stages(logs: Path) -> pd.DataFrame:
    """One row a rule: jobs, seconds (mean, longest, sum), CPU seconds and peak memory."""
    files = defaultdict(list)
    for path in sorted(logs.rglob("*.tsv")):
        files[_rule(path.relative_to(logs))].append(path)
    rows = []
    for rule, paths in sorted(files.items()):
        jobs = pd.concat([pd.read_csv(path, sep="\t") for path in paths])
        rows.append(
            {
                "rule": rule,
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


def _rule(path: Path) -> str:
    """Name the rule of a file ``<rule>/[<dose>/]...tsv`` or ``[<dose>/]<rule>.tsv``."""
    return next(part for part in path.with_suffix("").parts if not part.startswith("dose_"))


if __name__ == "__main__":
    print(stages(Path(sys.argv[1])).to_string(index=False))
