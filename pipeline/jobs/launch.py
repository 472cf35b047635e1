"""Several processes that do one job together, on one computer or many, and how they know it.

What each is told are the environment variables of torchrun (``RANK``, ``LOCAL_RANK``,
``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``), whoever starts them.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping

from pipeline.storage.errors import InputError

STARTED = "LEGOPET_STARTED"
"""Set for processes that `start` has started: they must not start themselves again."""

OWN = "LEGOPET_OWN_PROCESSES"
"""Set where training starts its processes itself, without a launcher."""

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MASTER = ("MASTER_ADDR", "MASTER_PORT")

REMEDY = (
    f"as torchrun and srun do ({', '.join(NUMBERS)}, {', '.join(MASTER)}), or unset all of them"
)


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


def rank() -> int:
    """Tell which of the processes of a job this one is; 0 writes the files.

    Raises
    ------
    InputError
        As `adopt_launcher`.
    """
    if adopt_launcher():
        return int(os.environ["RANK"])
    # Those that training starts itself, on one computer, have no RANK.
    return int(os.environ.get("LOCAL_RANK", 0)) if OWN in os.environ else 0


def adopt_launcher() -> bool:
    """Complete what torchrun, srun or another launcher says in torchrun's variables.

    Returns
    -------
    bool
        Whether a launcher started this process, perhaps as the only one.

    Raises
    ------
    InputError
        If the variables contradict each other, or do not say enough.
    """
    if OWN in os.environ:  # the variables are those of training itself
        return False
    if not any(name in os.environ for name in NUMBERS):
        _adopt_srun()
    found = {name: _number(name) for name in NUMBERS if name in os.environ}
    if not found:
        return False
    if found.get("WORLD_SIZE") == 1:
        found = {"RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1} | found
    here = found.get("LOCAL_WORLD_SIZE")
    if here and here in (1, found.get("WORLD_SIZE")) and "RANK" in found:
        found.setdefault("LOCAL_RANK", found["RANK"] % here)
    _check_numbers(found)
    if found["WORLD_SIZE"] > 1:
        _check_master()
    os.environ.update({name: str(value) for name, value in found.items()})
    return True


def _number(name: str) -> int:
    """Read one of the variables; raises `InputError` unless it is a number of 0 or more."""
    text = os.environ.get(name, "")
    if not re.fullmatch("[0-9]+", text, re.ASCII):
        raise InputError(name, f"is {text!r} in the environment", f"give a whole number, {REMEDY}")
    return int(text)


def _check_numbers(found: Mapping[str, int]) -> None:
    if missing := [name for name in NUMBERS if name not in found]:
        said = ", ".join(f"{name}={value}" for name, value in found.items())
        problem = f"is missing in the environment, which has {said}"
        raise InputError(" and ".join(missing), problem, f"set it, {REMEDY}")
    for part, whole in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if found[part] >= found[whole]:
            problem = f"is {found[part]} in the environment, and {whole} {found[whole]}"
            raise InputError(part, problem, f"count from 0 to {whole} - 1, {REMEDY}")
    everywhere, here = found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]
    if everywhere % here:
        problem = f"is {here} in the environment, which does not divide WORLD_SIZE {everywhere}"
        raise InputError("LOCAL_WORLD_SIZE", problem, "start as many processes on each node")
    if found["RANK"] % here != found["LOCAL_RANK"]:
        problem = f"is {found['LOCAL_RANK']} in the environment, and RANK {found['RANK']} of nodes"
        remedy = f"number the processes node by node, {REMEDY}"
        raise InputError("LOCAL_RANK", f"{problem} with {here} processes each", remedy)


def _check_master() -> None:
    if not os.environ.get("MASTER_ADDR"):
        problem = "is missing or empty in the environment"
        remedy = f"give the address of the process of rank 0, {REMEDY}"
        raise InputError("MASTER_ADDR", problem, remedy)
    if not 0 < _number("MASTER_PORT") < 2**16:
        problem = f"is {os.environ['MASTER_PORT']} in the environment"
        raise InputError("MASTER_PORT", problem, "give a port from 1 to 65535")


def _adopt_srun() -> None:
    """Name what srun says by torchrun's variables, if this is one of several tasks of a step."""
    # Of the job, not the step, there may be several without any launcher: in an sbatch script.
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") == "1":
        return
    layout = _of_srun("STEP_TASKS_PER_NODE")  # "4(x2)", or "4,3" where they differ
    if "," in layout:
        problem = f"started {layout} processes on the nodes"
        raise InputError("srun", problem, "give it --ntasks-per-node")
    first_node = re.sub(r"\[([^],-]+)[^]]*]", r"\1", _of_srun("STEP_NODELIST")).split(",")[0]
    found = {
        "RANK": _of_srun("PROCID"),
        "LOCAL_RANK": _of_srun("LOCALID"),
        "GROUP_RANK": _of_srun("NODEID"),
        "WORLD_SIZE": _of_srun("STEP_NUM_TASKS"),
        "LOCAL_WORLD_SIZE": layout.split("(")[0],
        # Any port that all agree on, and that another job on the same node is unlikely to have.
        "MASTER_PORT": str(15000 + int(_of_srun("JOB_ID", "[0-9]+")) % 10000),
        "MASTER_ADDR": first_node,
    }
    os.environ.update(found | {key: os.environ[key] for key in MASTER if key in os.environ})


def _of_srun(name: str, form: str = ".+") -> str:
    """Read one of srun's variables; raises `InputError` unless it has a form."""
    name = f"SLURM_{name}"
    text = os.environ.get(name, "")
    if not re.fullmatch(form, text):
        problem = f"is {text!r} in the environment of one of several tasks of srun"
        raise InputError(name, problem, "hand all of srun's variables on, as into a container")
    return text
