"""A real Slurm on this machine, for as long as a test needs one: munged, slurmctld and slurmd out of one folder."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Container, Mapping
from contextlib import ExitStack
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "scancel", "squeue")
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"})

# cred_expire: a requeued job waits until its old credentials are void, two minutes by default
# config_overrides: a node may claim more cores than the machine has, and several nodes share it
# MinJobAge: without slurmdbd the controller's memory is the only record of a finished job
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=1
PriorityType=priority/basic
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=5
MinJobAge=86400
{nodes}
PartitionName=test Nodes=ALL Default=YES OverSubscribe=FORCE:4 MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here, or None. Installs it where INSTALL_SLURM=1 asks for that."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    remedy = f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    if os.environ.get("INSTALL_SLURM") == "1":
        with Path(__file__).open() as own:
            fcntl.flock(own, fcntl.LOCK_EX)  # pytest-xdist's workers come here together
            if _absent():
                failure = _run(f"apt-get update && {remedy} --yes -o DPkg::Lock::Timeout=300")
                if failure:
                    return f"Slurm was not installed: {failure}"
    return f"no {', '.join(_absent())} on PATH; Debian: {remedy}" if _absent() else None


class SlurmCluster:
    """Nodes of `num_cpus` cores each, all on this machine and up within `with`; all files lie in `folder`."""

    def __init__(self, folder: Path, num_cpus: int, num_nodes: int = 1) -> None:
        self.folder = folder
        self.num_cpus = num_cpus
        # Slurm refuses a second node beside localhost; other names are no hosts', hence MASTER_ADDR
        self.nodes = ["localhost"] if num_nodes == 1 else [f"node{number}" for number in range(1, num_nodes + 1)]
        # a job that these tests run in, or a user's defaults, would be obeyed; the tests' variables curvtool refuses
        ours = re.compile("SLURM|SBATCH|SRUN|SCANCEL|CURVTOOL_")
        clean = {name: value for name, value in os.environ.items() if not ours.match(name)}
        self.environment = clean | {"SLURM_CONF": str(folder / "slurm.conf")}
        if num_nodes > 1:
            self.environment["MASTER_ADDR"] = "localhost"
        self._ending = ExitStack()

    def __enter__(self) -> SlurmCluster:
        with ExitStack() as self._ending:
            self._configure()
            self._start("munged", "--foreground", "--force", *self._munge_files())
            self._until((self.folder / "munge.socket").exists, 20, "munged has its socket")
            self._start("slurmctld", "-D", "-c")
            self._until(lambda: "is UP" in self._call("scontrol", "ping", check=False), 30, "slurmctld answers")
            for node in self.nodes:
                self._start("slurmd", "-D", "-N", node)
            self._until(self._idle, 30, "every node is idle")
            self._ending.callback(self._cancel_all)  # the steps' own processes would outlive slurmd
            self._ending = self._ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def sbatch(self, script: Path, *args: str | Path, options: str = "", env: Mapping[str, str] | None = None) -> str:
        """Hand in `script` with its arguments; `options` are sbatch's. The job's number."""
        words = ["sbatch", "--parsable", *options.split(), str(script), *map(str, args)]
        return self._call(*words, env=env).strip()

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job or, as `12_1`, of a task of an array."""
        return dict(re.findall(r"(\S+?)=(\S*)", self._call("scontrol", "--oneliner", "show", "job", job)))

    def wait(self, job: str, timeout: float, states: Container[str] = ENDED) -> str:
        """The job's state once it is among `states`, by default one that it does not leave by itself."""
        self._until(lambda: self.show(job)["JobState"] in states, timeout, f"job {job} is {states}")
        return self.show(job)["JobState"]

    def signal(self, job: str, name: str, *options: str) -> None:
        """Send a signal to the job's steps; with --batch to its batch shell alone, with --full to both."""
        self._call("scancel", f"--signal={name}", *options, job)

    def requeue(self, job: str) -> None:
        """Stop the job and put it back into the queue."""
        self._call("scontrol", "requeue", job)

    def cancel(self, job: str) -> None:
        """Stop the job for good."""
        self._call("scancel", job)

    def output(self, job: str) -> str:
        """What the batch script, and what ran under it, has written so far."""
        path = Path(self.show(job)["StdOut"])
        return path.read_text() if path.exists() else ""

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        port, *node_ports = _free_ports(1 + len(self.nodes))
        common = f"NodeHostname=localhost NodeAddr=127.0.0.1 CPUs={self.num_cpus} State=UNKNOWN"
        nodes = [f"NodeName={node} Port={own} {common}" for node, own in zip(self.nodes, node_ports, strict=True)]
        text = CONFIGURATION.format(folder=self.folder, port=port, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(text)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)  # munged refuses a key that others may read
        key.write_bytes(secrets.token_bytes(1024))

    def _munge_files(self) -> list[str]:
        kinds = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
        return [f"--{option}={self.folder}/munge.{ending}" for option, ending in kinds.items()]

    def _start(self, program: str, *args: str) -> None:
        """Start a daemon as a child of this process, which so knows its number; it is ended with the cluster."""
        with (self.folder / f"{program}.log").open("a") as log:
            daemon = subprocess.Popen(
                [program, *args],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for pytest, which then ends the daemons in order
            )
        self._ending.callback(_end, daemon)

    def _call(self, *words: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        environment = self.environment | dict(env or {})
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def _idle(self) -> bool:
        return self._call("scontrol", "--oneliner", "show", "node").count("State=IDLE ") == len(self.nodes)

    def _cancel_all(self) -> None:
        self._call("scancel", "--user=root")
        self._until(lambda: not self._call("squeue", "--noheader"), 30, "no job is left")

    def _until(self, true: Callable[[], bool], timeout: float, what: str) -> None:
        end = time.monotonic() + timeout
        while not true():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))
                raise TimeoutError(f"not within {timeout:g} s: {what}\n{self._call('squeue', check=False)}\n{logs}")
            time.sleep(0.1)


def _run(command: str) -> str | None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout).strip()[-500:] if done.returncode else None


def _absent() -> list[str]:
    return [program for program in PROGRAMS if not shutil.which(program)]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:  # all at once, or the same one could be given twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
