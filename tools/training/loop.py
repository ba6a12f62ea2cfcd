"""One training loop for every network: AdamW, an exponential moving average, a log, and a checkpoint to go on from."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

WARM_UP = 200
# Of all steps; the rate is constant before, so that a run can go on with more steps than first planned.
COOL_DOWN = 0.25
HELD_BACK_BATCHES = 32


class Task(NamedTuple):
    """What to train, where it has gradients: `loss(network, samples, generator)` is that of one random batch of the
    samples `training`, or `held_back`.
    """
    name: str
    network: torch.nn.Module
    loss: Callable[[torch.nn.Module, Any, torch.Generator], torch.Tensor]
    training: Any
    held_back: Any
    average_decay: float = 0.999


def train(task: Task, folder: Path, steps: int, learning_rate: float, every: int = 500) -> torch.nn.Module:
    """The averaged network after `steps` optimizer steps.

    Every `every` steps it writes `<name>.pt` in `folder`, from which the next call with the same arguments goes on, and
    `<name>.csv` with the mean training loss since the last line and the averaged network's loss on what is held back.
    """
    checkpoint, network = folder / f"{task.name}.pt", task.network
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(task.average_decay))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    parts = {"network": network, "average": average, "optimizer": optimizer}
    rows, first, started = [], 0, time.time()
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        rows = state["rows"]
        first, started = rows[-1]["step"], started - rows[-1]["seconds"]

    losses = []
    for step in tqdm(range(first, steps), task.name, initial=first, total=steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))
        loss = task.loss(network, task.training, torch.Generator().manual_seed(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(network)
        losses.append(loss.detach())
        if (step + 1) % every == 0 or step + 1 == steps:
            rows.append({"step": step + 1, "seconds": round(time.time() - started),
                         "loss": torch.stack(losses).mean().item(), "held_back": held_back_loss(task, average.module)})
            losses = []
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"rows": rows}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)  # so that no half a checkpoint is left behind
            with (folder / f"{task.name}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
    return average.module.requires_grad_(False)


def held_back_loss(task: Task, network: torch.nn.Module) -> float:
    """Mean over batches that are always the same."""
    with torch.inference_mode():
        losses = [task.loss(network, task.held_back, torch.Generator().manual_seed(seed))
                  for seed in range(HELD_BACK_BATCHES)]
    return torch.stack(losses).mean().item()


def save_network(network: torch.nn.Module, path: Path):
    """In float16, as shipped."""
    save_file({name: tensor.cpu().half().contiguous() for name, tensor in network.state_dict().items()}, path)
