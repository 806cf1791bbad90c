# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""
Mixed precision on the CPU: forward and backward passes in bfloat16 where this machine gains by it.

On a CPU with AMX it gives about twice the images, on one without it may cost much: it is measured
at the start of a run. Weights, losses, averages and what is exported stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Literal

import torch
from torch import nn

Precision = Literal['auto', 'float32', 'bfloat16']
_ROUNDS = 3
_WORTH = 1.1    # bfloat16 rounds: it has to pay


def choose_precision(wanted: Precision, network: nn.Module, images: torch.Tensor) -> tuple[bool, str]:
    """
    Return whether to compute in bfloat16, and why in a line for the log.

    :param network: in training mode; its buffers and gradients are left as they were.
    :param images: (N, 3, H, W) of a training batch, normalised.
    """
    if wanted != 'auto':
        return wanted == 'bfloat16', f'precision: {wanted}, as configured'
    state = {name: value.clone() for name, value in network.state_dict().items()}
    times = {False: [], True: []}
    try:
        # In turn, so that what else the machine does meets both; the first round warms up.
        for _ in range(_ROUNDS + 1):
            for half in times:
                times[half].append(_duration(lambda half=half: _pass(network, images, half)))
    finally:
        network.load_state_dict(state)
        network.zero_grad(set_to_none=True)
    single, half = (min(times[key][1:]) for key in (False, True))
    paid = single / half
    chosen = paid >= _WORTH
    return chosen, (f'precision: {"bfloat16" if chosen else "float32"} (forward and backward pass: '
                    f'{single * 1e3:.0f} ms in float32, {half * 1e3:.0f} ms in bfloat16)')


def autocast(enabled: bool) -> torch.autocast:
    """Return the context of a forward pass."""
    return torch.autocast('cpu', torch.bfloat16, enabled=enabled)


def _pass(network: nn.Module, images: torch.Tensor, half: bool) -> None:
    with autocast(half):
        outputs = network(images)
    sum(output.float().square().mean() for output in outputs).backward()


def _duration(call: Callable[[], None]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started
