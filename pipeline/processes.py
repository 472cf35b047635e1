"""Several processes that do one job together, on one computer or many, and how they know it.

What each is told are the environment variables of torchrun (``RANK``, ``LOCAL_RANK``,
``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``), whoever starts them.
"""

import os
import re
import shlex
import sys

from pipeline.errors import InputError

STARTED = "LEGOPET_STARTED"
"""Set for processes that `start` has started: they must not start themselves again."""


def start(launcher: str) -> None:
    """Become ``launcher``, which runs this very script in several processes; return in those.

    Parameters
    ----------
    launcher : str
        Command before that of the script, as ``srun --ntasks=8``; if empty, nothing is done.

    Raises
    ------
    InputError
        If there is no such program.
    """
    if not launcher or STARTED in os.environ:
        return
    os.environ[STARTED] = "1"
    command = [*shlex.split(launcher), sys.executable, *sys.argv]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        problem = f"is '{launcher}', which cannot be started ({error.strerror})"
        raise InputError("resource mpi", problem, "correct it in the profile") from error


def adopt_srun() -> None:
    """Name what srun says by torchrun's variables, if this is one of several tasks of a step.

    Raises
    ------
    InputError
        If the nodes have different numbers of tasks.
    """
    step = {k.removeprefix("SLURM_"): v for k, v in os.environ.items() if k.startswith("SLURM_")}
    # Of the job, not the step, there may be several without any launcher: in an sbatch script.
    if "RANK" in os.environ or int(step.get("STEP_NUM_TASKS", 1)) == 1:
        return
    layout = step["STEP_TASKS_PER_NODE"]  # "4(x2)", or "4,3" where they differ
    if "," in layout:
        problem = f"started {layout} processes on the nodes"
        raise InputError("srun", problem, "give it --ntasks-per-node")
    first_node = re.sub(r"\[([^],-]+)[^]]*]", r"\1", step["STEP_NODELIST"]).split(",")[0]
    found = {
        "RANK": step["PROCID"],
        "LOCAL_RANK": step["LOCALID"],
        "GROUP_RANK": step["NODEID"],
        "WORLD_SIZE": step["STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": layout.split("(")[0],
    }
    os.environ.update(found)
    os.environ.setdefault("MASTER_ADDR", first_node)
    # Any port that all agree on, and that another job on the same node is unlikely to have.
    os.environ.setdefault("MASTER_PORT", str(15000 + int(step["JOB_ID"]) % 10000))


def is_first() -> bool:
    """Tell whether this process writes the files: it has rank 0, or is alone."""
    adopt_srun()
    # Those that Fabric starts itself, on one computer, have no RANK.
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", 0))) == 0
