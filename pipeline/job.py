"""Frame of every script of the workflow: its log, its threads, and how it fails."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import InputError


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a rule's work: log to its log file and stderr, use no more threads than it was given.

    Bad input ends the process with its one-screen message and exit code 1; any other error with
    its traceback. Both reach the log file.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers.append(logging.FileHandler(snakemake.log[0], mode="w"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True
    )
    logging.captureWarnings(True)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(snakemake.threads)
    try:
        yield
    except InputError as error:
        logging.error("\nRule '%s' stopped.\n%s\n", snakemake.rule, error)
        sys.exit(1)
    except Exception:
        logging.error("\nRule '%s' failed.\n%s", snakemake.rule, traceback.format_exc())
        sys.exit(1)
