"""Frame of every script of the workflow: its log, its threads, and how it fails."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.jobs.launch import rank
from pipeline.storage.errors import InputError
from pipeline.storage.files import writing

FORMAT = "%(asctime)s %(message)s"


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing where the disk is full: the message on stderr says enough."""


def _log_to(path: str) -> None:
    with writing(path):
        handler = _LogFile(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.root.addHandler(handler)


@contextmanager
def job(snakemake: Any, joint: bool = False) -> Iterator[None]:
    """Run a rule's work: log to its log file and stderr, use no more threads than it was given.

    Bad input ends the process with its one-screen message and exit code 1; any other error with
    its traceback. Both reach the log file. Of several processes that do ``joint`` work, only the
    first writes it.
    """
    logging.basicConfig(level=logging.INFO, format=FORMAT, stream=sys.stderr, force=True)
    logging.captureWarnings(True)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(snakemake.threads)
    try:
        number = 0
        try:
            if joint:
                number = rank()
        finally:
            if number == 0:
                _log_to(snakemake.log[0])
        yield
    except InputError as error:
        logging.error("\nRule '%s' stopped.\n%s\n", snakemake.rule, error)
        sys.exit(1)
    except Exception:
        logging.error("\nRule '%s' failed.\n%s", snakemake.rule, traceback.format_exc())
        sys.exit(1)
