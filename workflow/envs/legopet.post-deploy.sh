#!/usr/bin/env bash
# Run by Snakemake in the folder of the workflow, inside the environment that it has just made.
set -euo pipefail
pip install --no-deps --editable .
