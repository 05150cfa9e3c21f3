"""Several processes by torch.distributed: NCCL between CUDA tensors, gloo between those on the CPU."""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from curvtool import device
from curvtool.cluster.place import Place, place_of
from curvtool.cluster.solo import Solo
from curvtool.errors import EXIT_RANK_LOST, CurvtoolError, RankLost, from_data, is_out_of_memory, to_data
from curvtool.words import counted

Result = TypeVar("Result")
TIMEOUT_SECONDS = 600.0
_BEAT_SECONDS = 2.0  # between two looks at how the others are
_WORDS_SECONDS = 6.0  # that a rank waits for the reason why another one went away
_SILENT_SECONDS = 10.0  # before it is said what is waited for
_GRACE_SECONDS = 20.0  # that a rank has to come to its own end after another one failed
_FAILED = "failed"
# torch 2.13 has other names for the same
_ALL_GATHER = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def join(timeout: float = TIMEOUT_SECONDS) -> Solo:
    """The group that torchrun's or Slurm's variables tell of; `Solo` where there are none.

    Args:
        timeout: seconds that a rank waits for the others, at the start and in every collective.

    Raises:
        UsageError: CT003, variables that contradict each other.
        RankLost: CT060, the others did not come.
    """
    place = place_of()
    return Solo() if place is None else ProcessGroup(place, timeout)


class ProcessGroup(Solo):
    """A rank of several.

    A rank that fails says so to the others, which end with its message. One that goes away without a word, or hangs,
    ends them within `timeout`, and they name it.

    Args:
        place: which rank this is, and where the others are.
        timeout: seconds that it waits for them.
    """

    def __init__(self, place: Place, timeout: float = TIMEOUT_SECONDS) -> None:
        super().__init__()
        self.rank, self.size, self.local_rank = place.rank, place.size, place.local_rank
        self.timeout, self.num_calls = timeout, 0
        os.environ.setdefault("MASTER_ADDR", place.address)
        os.environ.setdefault("MASTER_PORT", str(place.port))
        own = device.take(self.local_rank)
        both = own is not None and dist.is_backend_available(own.partition(":")[2])
        patience = threading.Timer(_SILENT_SECONDS, self._say_what_is_waited_for, [place])
        patience.daemon = True
        patience.start()
        try:
            wait = datetime.timedelta(seconds=timeout)
            store, _, _ = next(rendezvous("env://", rank=self.rank, world_size=self.size, timeout=wait))
            self._store = PrefixStore("curvtool", store)
            backend = f"cpu:gloo,{own}" if both else "gloo"
            dist.init_process_group(
                backend, store=PrefixStore("torch", store), rank=self.rank, world_size=self.size, timeout=wait
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise RankLost(
                "CT060",
                f"the {self.size} processes did not find each other",
                expected=f"all of them at {place.address}:{place.port} within {timeout:g} s",
                received=_first_line(error),
                remedy="look at the other processes' logs; MASTER_ADDR and MASTER_PORT name another place",
            ) from error
        finally:
            patience.cancel()
        self._store.set(f"calls/{self.rank}", "0")
        machines = self.gather_objects(socket.gethostname())
        self.local_size = machines.count(machines[self.rank])
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def _say_what_is_waited_for(self, place: Place) -> None:
        told = f"rank {self.rank} of {self.size}: waiting for the others at {place.address}:{place.port}"
        sys.stderr.write(f"{told}, {self.timeout:g} s at most (--rank-timeout)\n")
        sys.stderr.flush()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks, in place."""
        self.traffic.summed += tensor.nbytes
        self._call(lambda: dist.all_reduce(tensor))
        return tensor

    def scatter_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's piece of the sum over the ranks: (size * n,) to (n,)."""
        self.traffic.scattered += tensor.nbytes
        piece = tensor.new_empty(len(tensor) // self.size)
        self._call(lambda: _REDUCE_SCATTER(piece, tensor.contiguous()))
        return piece

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """All ranks' tensors of one shape: (size, *shape)."""
        whole = tensor.new_empty(self.size, *tensor.shape)
        self.traffic.gathered += whole.nbytes
        self._call(lambda: _ALL_GATHER(whole.view(-1), tensor.contiguous().view(-1)))
        return whole

    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's value, in their order; by JSON, so that nothing but data comes in."""
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [int(n) for n in self.gather(torch.tensor([len(own)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(own)] = own
        rows = self.gather(padded)
        return [json.loads(bytes(row[:length].tolist())) for row, length in zip(rows, lengths, strict=True)]

    def first(self, do: Callable[[], Result]) -> Result:
        """What the first rank alone does, as reading or writing a file: its result (data that JSON can hold) on all.

        Raises:
            CurvtoolError: what came of it, on all ranks.
        """
        result: Any = None
        error: CurvtoolError | None = None
        if self.is_first:
            try:
                result = do()
            except CurvtoolError as raised:
                error = raised
        told, result_told = self.gather_objects([error and to_data(error), result])[0]
        if told is not None:
            raise error or from_data(told)
        return cast(Result, result if self.is_first else result_told)

    def any(self, flag: bool) -> bool:
        """Whether it is so on one rank at least."""
        return bool(self.sum(torch.tensor([float(flag)])) > 0)

    def least(self, number: int) -> int:
        """The least of the ranks' numbers."""
        told = torch.tensor([number])
        self._call(lambda: dist.all_reduce(told, op=dist.ReduceOp.MIN))
        return int(told)

    def barrier(self) -> None:
        """Waits for all ranks."""
        self.any(False)

    def tell_failure(self, message: str) -> bool:
        """Lets the others know why this rank ends; whether none of them has said the same before."""
        words = json.dumps([self.rank, message])
        try:
            rank, said = json.loads(self._store.compare_set(_FAILED, "", words))
            return rank == self.rank or said != message
        except (RuntimeError, OSError):  # the rank that keeps the store is gone
            return True

    def stop_watching(self) -> None:
        """Before the process ends: a thread that is within the library then would abort it."""
        self._closing.set()
        self._watcher.join(_WORDS_SECONDS)

    def close(self) -> None:
        """Takes leave of the others, all of which have come to their end."""
        self.stop_watching()
        try:
            self.barrier()
            dist.destroy_process_group()
        except (RankLost, RuntimeError):
            return

    def _call(self, collective: Callable[[], Result]) -> Result:
        self.num_calls += 1
        begin = time.monotonic()
        try:
            return collective()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise self._lost(error, time.monotonic() - begin) from error

    def _lost(self, error: RuntimeError, waited: float) -> RankLost:
        """What a collective that failed tells of the others."""
        told = self._failure()
        until = time.monotonic() + _WORDS_SECONDS
        while told is None and time.monotonic() < until:
            time.sleep(0.2)
            told = self._failure()
        if told is not None:
            return _failed(*told)
        if waited < 0.9 * self.timeout and "timeout" not in str(error).lower():
            return RankLost(
                "CT060",
                "another rank has gone away without a word",
                expected=f"all {counted(self.size, 'rank')}",
                received=_first_line(error),
                remedy="look at the other ranks' logs: killed for memory, or its machine went down?",
            )
        late = self._late()
        return RankLost(
            "CT061",
            f"waited {waited:.0f} s for {_listed(late) if late else 'the other ranks'}",
            expected=f"every rank at the same call within {self.timeout:g} s",
            received=_first_line(error),
            remedy="look at what it does (py-spy dump --pid …); --rank-timeout is the limit",
        )

    def _late(self) -> list[int]:
        """The ranks that have made fewer calls than this one."""
        try:
            calls = {rank: int(self._store.get(f"calls/{rank}")) for rank in range(self.size) if rank != self.rank}
        except (RuntimeError, OSError, ValueError):
            return []
        return [rank for rank, number in calls.items() if number < self.num_calls]

    def _failure(self) -> tuple[int, str] | None:
        """Which rank failed and why; None where none said so."""
        try:
            if not self._store.check([_FAILED]):
                return None
            rank, message = json.loads(self._store.get(_FAILED))
        except (RuntimeError, OSError, ValueError):
            return None
        return (rank, message) if rank != self.rank else None

    def _watch(self) -> None:
        """Tells how far this rank is, and ends it some time after another one failed: it may be waiting for it."""
        since: float | None = None
        while not self._closing.wait(_BEAT_SECONDS):
            try:
                self._store.set(f"calls/{self.rank}", str(self.num_calls))
            except (RuntimeError, OSError):
                return  # the rank that keeps the store is gone, and collectives with it fail by themselves
            failure = self._failure()
            if failure is None:
                continue
            since = since or time.monotonic()
            if time.monotonic() - since > _GRACE_SECONDS and not self._closing.is_set():
                sys.stderr.write(f"rank {self.rank}: {_failed(*failure).message}\n")
                sys.stderr.flush()
                os._exit(EXIT_RANK_LOST)


def _failed(rank: int, message: str) -> RankLost:
    return RankLost("CT060", f"rank {rank} failed: {message}", remedy=f"see what rank {rank} says")


def _listed(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
