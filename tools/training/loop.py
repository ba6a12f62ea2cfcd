"""One training loop for every network: AdamW, an exponential moving average, a log, and a checkpoint to go on from."""

import csv
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

WARM_UP = 200
# Of all steps; the rate is constant before, so that a run can go on with more steps than first planned.
COOL_DOWN = 0.25


class Task(NamedTuple):
    """What to train: `loss(network, generator)` of one random batch, and `validate(network)` of what is held back."""
    name: str
    network: torch.nn.Module
    loss: Callable[[torch.nn.Module, torch.Generator], torch.Tensor]
    validate: Callable[[torch.nn.Module], float]
    average_decay: float = 0.999


def workers() -> tuple[int, int]:
    """(rank, number) of this process among those that share every batch."""
    return (torch.distributed.get_rank(),
            torch.distributed.get_world_size()) if torch.distributed.is_initialized() else (0, 1)


def own_part(*batches: Sequence) -> list[Sequence]:
    """This process's part of a batch, which all of them draw alike."""
    rank, number = workers()
    return [batch[rank::number] for batch in batches]


def gathered(part: list) -> list:
    """The list of which each process has its `own_part`."""
    parts = [part] * workers()[1]
    if len(parts) > 1:
        torch.distributed.all_gather_object(parts, part)
    return [item for items in zip_longest(*parts) for item in items if item is not None]


def has_bfloat16(device: torch.device) -> bool:
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16, where the processor has it: emulated, a step takes ten times as long."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def average_gradients(network: torch.nn.Module):
    gradients = [parameter.grad for parameter in network.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / workers()[1]).split([gradient.numel() for gradient in gradients])):
        gradient.copy_(mean.view(gradient.shape))


def rate_factor(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def train(task: Task, folder: Path, steps: int, learning_rate: float, seed: int, device: torch.device,
          every: int = 500) -> torch.nn.Module:
    """The averaged network after `steps` optimiser steps.

    Every `every` steps it writes `<name>.pt` in `folder`, from which the next call with the same arguments goes on, and
    `<name>.csv` with the mean training loss since the last line and the averaged network's value on what is held back.
    """
    checkpoint, (rank, number) = folder / f"{task.name}.pt", workers()
    network = task.network.to(device).requires_grad_(True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(task.average_decay))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    first, rows, seconds = 0, [], 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        for part, name in ((network, "network"), (average, "average"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        first, rows, seconds = state["step"], state["rows"], state["seconds"]

    losses, started = [], time.time() - seconds
    for step in tqdm(range(first, steps), task.name, initial=first, total=steps, disable=rank > 0):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_factor(step, steps)
        loss = task.loss(network, torch.Generator().manual_seed(seed * 1_000_003 + step))
        loss.backward()
        if number > 1:
            average_gradients(network)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(network)
        losses.append(loss.detach())
        if rank == 0 and ((step + 1) % every == 0 or step + 1 == steps):
            with torch.inference_mode():
                validation = task.validate(average.module)
            rows.append({"step": step + 1, "seconds": round(time.time() - started),
                         "loss": torch.stack(losses).mean().item(),
                         "held_back": validation})
            losses = []
            save(checkpoint, network=network.state_dict(), average=average.state_dict(),
                 optimizer=optimizer.state_dict(), step=step + 1, rows=rows, seconds=time.time() - started)
            write_log(folder / f"{task.name}.csv", rows)
    return average.module.requires_grad_(False)


def save(path: Path, **state):
    """Never leaves half a checkpoint behind."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def write_log(path: Path, rows: list[dict]):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
