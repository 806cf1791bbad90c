# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Several processes that train one network together, started by torchrun.

Each computes its share of every batch; the gradients are averaged, so that all take the same step.
The trainer computes on the CPU, therefore the backend is gloo and `LOCAL_RANK`, which would choose a
GPU, is not read. Without torchrun, or with one process, nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import datetime
import os

import torch
from torch import nn

from kd_perception.errors import TrainingError

# The others wait while the first detects in all images or validates. A process that dies is noticed at
# once, by its closed connection; this limit is for one that hangs.
_TIMEOUT = datetime.timedelta(hours=12)


@dataclasses.dataclass(frozen=True)
class Processes:
    """
    This process among those of a run.

    All but `share` and `is_main` wait for the other processes: every process must call them in the same
    order. They raise TrainingError where another process has stopped.

    :param rank: number of this process, from 0; `count`: number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Processes:
        """
        Read torchrun's `RANK` and `WORLD_SIZE`; without `WORLD_SIZE` there is one process.

        :raises TrainingError: a variable is no number, or out of range.
        """
        count = _number(environment, 'WORLD_SIZE', '1')
        if count == 1:
            return cls()
        rank = _number(environment, 'RANK', '')
        if not 0 <= rank < count:
            raise TrainingError(f'RANK={rank}, WORLD_SIZE={count}: expected a RANK below WORLD_SIZE, as set '
                                'by torchrun')
        return cls(rank, count)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.rank == 0

    def share(self, batch: int, step: int = 0) -> range:
        """
        Return the numbers of this process's samples in the batch of a step (counted from 0).

        :param batch: samples of all processes together; step k's batch is k * batch ... (k + 1) * batch - 1.
        :raises TrainingError: the batch cannot be divided evenly.
        """
        if batch % self.count:
            raise TrainingError(f'batch: {batch} cannot be shared evenly by {self.count} processes')
        own = batch // self.count
        first = step * batch + self.rank * own
        return range(first, first + own)

    @contextlib.contextmanager
    def joined(self, batch: int) -> Iterator[None]:
        """
        Be connected with the other processes inside the `with` block.

        :param batch: samples of a step, of all processes together; checked before anything starts.
        :raises TrainingError: see `share`; or the processes cannot find one another.
        """
        self.share(batch)
        if self.count == 1:
            yield
            return
        from torch import distributed
        try:
            distributed.init_process_group('gloo', rank=self.rank, world_size=self.count, timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:  # ValueError: MASTER_ADDR or MASTER_PORT is missing
            raise TrainingError(f'process {self.rank} of {self.count} cannot join the others '
                                f'({_first_line(error)}); start with torchrun') from error
        try:
            yield
        finally:
            distributed.destroy_process_group()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """
        Replace each gradient by its mean over the processes, with the same bits everywhere.

        A gradient that is None counts as 0, and stays None only where it is None in all processes.

        :param parameters: float32, the same ones in the same order in all processes.
        """
        if self.count == 1:
            return
        parameters = list(parameters)
        given = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
        flat = torch.cat([given, *((torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
                                   for p in parameters)])
        self._all_reduce(flat)
        given, *means = flat.split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, somewhere, mean in zip(parameters, given.tolist(), means):
            # In the parameter's own memory layout: the optimiser's fused step reads both in memory order,
            # and the norm adds up in that order in every process.
            parameter.grad = torch.empty_like(parameter).copy_(
                mean.view(parameter.shape) / self.count) if somewhere else None

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means over the processes; not finite where a value of any process is not."""
        if self.count == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        self._all_reduce(total)
        return dict(zip(values, (total / self.count).tolist()))

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors by those of the main process."""
        if self.count == 1:
            return
        from torch import distributed
        with self._all_alive():
            for tensor in tensors:
                dense = tensor.detach().contiguous()
                distributed.broadcast(dense, src=0)
                tensor.copy_(dense)

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            self._all_reduce(torch.zeros(1))

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go through the `with` block before the others enter: it makes their files."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:  # not after an error: its end then ends the waiting of the others
            self.barrier()

    def _all_reduce(self, values: torch.Tensor) -> None:
        from torch import distributed
        with self._all_alive():
            distributed.all_reduce(values)

    @contextlib.contextmanager
    def _all_alive(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo: connection closed by peer, or timed out
            raise TrainingError(f'process {self.rank} of {self.count}: stopped, because another process did '
                                f'({_first_line(error)})') from error


def _number(environment: Mapping[str, str], name: str, default: str) -> int:
    text = environment.get(name, default)
    if not (text.isascii() and text.isdigit()) or (name == 'WORLD_SIZE' and int(text) == 0):
        raise TrainingError(f'{name}={text!r}: expected a number, as set by torchrun')
    return int(text)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
