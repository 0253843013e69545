"""What every training part shares: a budget of seconds, a moving average, a checkpoint, a record.

Under `torchrun` several processes train one network: each has data of its own, their gradients are
averaged, and the first one's clock, probes and checkpoint are those of all.

A part stops when its seconds are used up, not after a number of steps, because the card's time is
what is scarce. The learning rate follows the share of the budget that is used, so a run that is
interrupted and resumed walks the same curve as one that is not.
"""

import copy
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from omniavatar.errors import InputError
from omniavatar.memory import computes_bfloat16

logger = logging.getLogger(__name__)

RECORDS = "training.json"
"""Beside exported weights: how each part was made."""

MAY_DIFFER = ("batch", "clips", "hours", "new_clips_a_step", "processes")
"""Settings that a later call may change: how much there is to learn from, and how much at once."""

Network = TypeVar("Network", bound=nn.Module)


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def in_bfloat16(device: torch.device) -> torch.autocast:
    """Compute in bfloat16, but not on a CPU without instructions for it, where it takes minutes."""
    able = device.type != "cpu" or computes_bfloat16()
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def join_others(device: torch.device) -> torch.device:
    """Meet the other processes that `torchrun` started, if it did; this one's share of `device`."""
    if "RANK" not in os.environ:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one part is optimised.

    Attributes:
        learning_rate: the highest.
        final_share: what is left of it at the end of the cosine.
        warm_up: share of the budget in which it rises.
        decay: of the moving average that is kept as the result.
        clip: largest norm of the gradient.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    final_share: float = 0.02
    warm_up: float = 0.02
    decay: float = 0.999
    clip: float = 1.0

    def rate(self, progress: float) -> float:
        """Learning rate after this share of the budget, 0..1."""
        if progress < self.warm_up:
            return self.learning_rate * max(progress / self.warm_up, 1e-3)
        turn = (min(progress, 1.0) - self.warm_up) / (1 - self.warm_up)
        cosine = 0.5 * (1 + math.cos(math.pi * turn))
        return self.learning_rate * (self.final_share + (1 - self.final_share) * cosine)


@dataclass(slots=True, kw_only=True)
class Record:
    """What a part did: the source of the tables in the model card."""

    part: str
    device: str = ""
    torch: str = torch.__version__
    seconds: float = 0.0
    preparation_seconds: float = 0.0
    steps: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path, part: str) -> dict[str, Any]:
    """What a part noted beside its checkpoint.

    Raises:
        FileNotFoundError: the part has not run.
    """
    path = folder / f"{part}.json"
    if not path.exists():
        raise FileNotFoundError(_run_first(path))
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _run_first(path: Path) -> str:
    command = path.stem.replace("-further", " --further")
    return f"{path} is missing. Run `python -m omniavatar.nano {command}` first."


def read_records(weights: Path) -> dict[str, Any]:
    """What is kept beside exported weights of how each part was made, by its name."""
    file = weights / RECORDS
    records: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return records


def write_records(weights: Path, records: dict[str, Any]) -> None:
    """Keep such records."""
    (weights / RECORDS).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


class Trainer(Generic[Network]):
    """Optimises one network for a budget of seconds.

    Args:
        part: its name; checkpoint and record are `folder/part.pt` and `folder/part.json`.
        network: on its device. A checkpoint in `folder` is read into it.
        seconds: the whole budget, over all calls.
        deadline: value of `time.monotonic()` at which to leave off; a later call goes on.
        settings: for the record. All but `MAY_DIFFER` have to be the checkpoint's, if there is one.

    Attributes:
        kept: tensors that the run needs beside the network, and finds again when it goes on.

    Raises:
        InputError: the checkpoint in `folder` was made with other settings.
    """

    def __init__(
        self,
        part: str,
        network: Network,
        recipe: Recipe,
        *,
        folder: Path,
        seconds: float,
        deadline: float | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.recipe = recipe
        self._folder = folder
        self._seconds = seconds
        self._deadline = math.inf if deadline is None else deadline
        self._device = next(network.parameters()).device
        self._parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
        self._averaged: list[Tensor] = [
            average
            for average, trained in zip(
                self.average.parameters(), network.parameters(), strict=True
            )
            if trained.requires_grad
        ]
        self._optimiser = torch.optim.AdamW(
            _groups(network, recipe.weight_decay),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            fused=self._device.type == "cuda",
        )
        self._loss_sum = torch.zeros((), device=self._device)
        self._loss_count = 0
        self.kept: dict[str, Tensor] = {}
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        self.record = Record(part=part, device=name, settings=settings or {})
        folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._load()
        self.record.settings["processes"] = processes()
        self._begin_alike()
        self._started = time.monotonic() - self.record.seconds
        self._saved = time.monotonic()
        # Values on the host need a way of their own, beside the gradients'.
        self._clocks = dist.new_group(backend="gloo") if processes() > 1 else None
        self._told = (self.record.seconds, False)

    @property
    def _checkpoint(self) -> Path:
        return self._folder / f"{self.record.part}.pt"

    @property
    def elapsed_seconds(self) -> float:
        """Spent on training so far, over all calls; of all processes the first one's."""
        return self._told[0] if processes() > 1 else time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the whole budget that is spent, 0..1."""
        return min(self.elapsed_seconds / self._seconds, 1.0)

    @property
    def running(self) -> bool:
        """True while there is time left in this call."""
        overdue = self._told[1] if processes() > 1 else time.monotonic() >= self._deadline
        return self.elapsed_seconds < self._seconds and not overdue

    def prepared(self) -> None:
        """Start the clock now: what came before was preparation, and is recorded as such."""
        spent = time.monotonic() - self._started - self.record.seconds
        self.record.preparation_seconds += spent
        self._started += spent
        self._told = self._read_clock()

    def step(self, loss: Tensor, *, log_every: int = 100, save_every_seconds: float = 120) -> None:
        """Take one step down the loss."""
        loss.backward()
        if processes() > 1:
            self._average_gradients()
            self._told = self._read_clock()
        torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip)
        rate = self.recipe.rate(self.progress)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.record.steps += 1
        self._update_average()
        self._loss_sum += loss.detach()
        self._loss_count += 1
        if self.record.steps % log_every == 0:
            self._log(rate)
        if time.monotonic() - self._saved > save_every_seconds:
            self.save()

    def probe(self, **values: float) -> None:
        """Note a measurement beside the losses."""
        rounded = {name: round(value, 4) for name, value in values.items()}
        self.record.probes.append(
            {"seconds": round(self.elapsed_seconds, 1), "step": self.record.steps, **rounded}
        )
        logger.info("%s at %.0f s: %s", self.record.part, self.elapsed_seconds, rounded)

    def save(self) -> None:
        """Write checkpoint and record; a checkpoint is complete or not there."""
        if rank():
            return
        self.record.seconds = round(self.elapsed_seconds, 1)
        partial = self._checkpoint.with_suffix(".partial")
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "kept": self.kept,
            "record": json.dumps(
                {name: getattr(self.record, name) for name in self.record.__dataclass_fields__}
            ),
        }
        torch.save(state, partial)
        partial.replace(self._checkpoint)
        self.record.write(self._folder / f"{self.record.part}.json")
        self._saved = time.monotonic()

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        record = json.loads(state["record"])
        self._check_settings(record["settings"])
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.kept = state.get("kept", {})
        for name, value in record.items():
            setattr(self.record, name, value)
        logger.info("%s goes on at %.0f s", self.record.part, self.record.seconds)

    def _check_settings(self, stored: dict[str, Any]) -> None:
        # As they come back from JSON, which knows no tuples.
        asked = json.loads(json.dumps(self.record.settings))
        for name in asked.keys() & stored.keys():
            if name not in MAY_DIFFER and asked[name] != stored[name]:
                raise InputError(
                    f"{self._checkpoint} was made with {name} {stored[name]}, and {asked[name]} is "
                    "asked for. Go on as it began, or move it away to begin anew."
                )

    def _begin_alike(self) -> None:
        """Take the first process's weights: fitted ones differ a little on each card."""
        if processes() > 1:
            for network in (self.network, self.average):
                for tensor in network.state_dict().values():
                    dist.broadcast(tensor, 0)

    def _average_gradients(self) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        parts = together.div_(processes()).split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        )

    def _read_clock(self) -> tuple[float, bool]:
        """Seconds so far, and whether this call's time is over: what the first process says."""
        now = time.monotonic()
        told = torch.tensor([now - self._started, float(now >= self._deadline)], dtype=torch.double)
        if self._clocks is not None:
            dist.broadcast(told, 0, group=self._clocks)
        return told[0].item(), bool(told[1])

    def _update_average(self) -> None:
        steps = self.record.steps
        decay = min(self.recipe.decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_(self._averaged, self._parameters, 1 - decay)

    def _log(self, rate: float) -> None:
        loss = self._loss_sum.item() / self._loss_count
        self._loss_sum.zero_()
        self._loss_count = 0
        self.record.losses.append(
            {
                "seconds": round(self.elapsed_seconds, 1),
                "step": self.record.steps,
                "loss": round(loss, 5),
            }
        )
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.record.part}: the loss is {loss}")
        logger.info(
            "%s %5.0f s, step %6d, loss %.4f, rate %.1e",
            self.record.part,
            self.elapsed_seconds,
            self.record.steps,
            loss,
            rate,
        )


def train(
    trainer: Trainer[Network],
    loss: Callable[[], Tensor],
    *,
    probe: Callable[[], dict[str, float]] | None = None,
    probe_seconds: Iterable[float] = (),
) -> None:
    """Step until the time is over, probe at the given seconds and at the end, and save."""
    due = sorted(s for s in probe_seconds if s > trainer.elapsed_seconds)
    is_first = rank() == 0
    while trainer.running:
        trainer.step(loss())
        if probe is not None and is_first and due and trainer.elapsed_seconds >= due[0]:
            due.pop(0)
            trainer.probe(**probe())
    if probe is not None and is_first:
        trainer.probe(**probe())
    trainer.save()


def read_average(path: Path, network: Network) -> Network:
    """Fill a network with the moving average of a checkpoint.

    Raises:
        FileNotFoundError: the part that makes the checkpoint has not run.
    """
    network.load_state_dict(read_average_state(path))
    return network.eval().requires_grad_(False)


def read_average_state(path: Path) -> dict[str, Tensor]:
    """The tensors of that average by their names.

    Raises:
        FileNotFoundError: the part that makes the checkpoint has not run.
    """
    if not path.exists():
        raise FileNotFoundError(_run_first(path))
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["average"]
    return state


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay towards zero; biases, norms and tables do not."""
    trained = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.squeeze().dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.squeeze().dim() < 2], "weight_decay": 0.0},
    ]
