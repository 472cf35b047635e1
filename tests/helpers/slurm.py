"""A SLURM cluster of this computer alone, from Debian's packages, for a test."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel", "squeue")
# Where SLURM looks by itself: jobs are not told of any other place.
CONF = Path("/etc/slurm/slurm.conf")
MARK = "# Written by tests/helpers/slurm.py, which deletes it when the test ends.\n"
CPUS = max(2, os.cpu_count() or 0)

TEXT = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
# A job that was pre-empted waits as long before it starts again.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
# Seconds that jobs which ended are known: they are asked about once all others ended, too.
MinJobAge=86400
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# Jobs ask for what they need at the paper's scale, which this computer need not have.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000000
PartitionName=main Nodes={host} Default=YES PriorityTier=1
PartitionName=urgent Nodes={host} PriorityTier=2
"""


def obstacle() -> str | None:
    """Say why there can be no cluster here; install what is missing, where that may be done."""
    if os.geteuid() != 0:
        return "starting SLURM's daemons needs root"
    if CONF.exists() and not CONF.read_text(encoding="utf-8").startswith(MARK):
        return f"{CONF} belongs to another cluster"
    names = {path: path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")}
    for path, name in names.items():
        if name in ("slurmctld", "slurmd"):
            return f"{name} is running already (process {path.parent.name})"
    if all(map(shutil.which, PROGRAMS)):
        return None
    if not shutil.which("apt-get"):
        return f"{', '.join(PACKAGES)} are not installed, and there is no apt-get"
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return f"apt-get {arguments[0]} failed ({done.stderr.strip().splitlines()[-1]})"
    return None


@contextmanager
def cluster() -> Iterator[Path]:
    """Run munged, slurmctld and slurmd; give the folder of their logs."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munged asks for it
    host = socket.gethostname().split(".")[0]
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    munged = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed")]
    munged += [f"--socket={folder}/munge.socket", f"--log-file={folder}/munged.own.log"]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        CONF.parent.mkdir(exist_ok=True)
        stack.callback(CONF.unlink)
        ports = _free_ports(2)
        CONF.write_text(
            MARK + TEXT.format(host=host, folder=folder, cpus=CPUS, ports=ports), encoding="utf-8"
        )
        stack.enter_context(_daemon(folder, "munged", "--foreground", *munged))
        _wait_for(folder / "munge.socket", lambda: (folder / "munge.socket").exists())
        stack.enter_context(_daemon(folder, "slurmctld", "-D"))
        stack.enter_context(_daemon(folder, "slurmd", "-D"))
        _wait_for("an idle node", lambda: "idle" in output("sinfo", "--noheader", "--format=%T"))
        # Jobs that outlive the test would outlive slurmd, too.
        stack.callback(subprocess.run, ["scancel", "--user=root"], check=False)
        yield folder


def output(*command: str) -> str:
    """Give what a command prints; nothing if it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(what: object, there) -> None:
    deadline = time.monotonic() + 60
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not appear")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
