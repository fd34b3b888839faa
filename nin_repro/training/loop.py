"""The training loop, from top to bottom: `Trainer.run` makes attempts, an attempt is epochs, an epoch is steps."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nin_repro import rng
from nin_repro.data.batches import Batches, Pictures
from nin_repro.models.network import Network
from nin_repro.training import checkpoint
from nin_repro.training.capture import Answers, Capture, Replay, own_stream
from nin_repro.training.console import Console, epoch_line, silent_classes
from nin_repro.training.evaluate import Evaluation, evaluate, is_dead
from nin_repro.training.schedule import Rate
from nin_repro.training.sgd import SGD
from nin_repro.training.stop import STOP, Interrupted, NotFinite
from nin_repro.training.update import backward, backward_in_micro_batches, note
from nin_repro.words import duration

PROBE_EVERY = 100  # updates between looks at whether the network is alive
START = 2000  # updates at the start of an attempt that are recorded by the hundred: most deaths fall there


@dataclass(frozen=True)
class Limits:
    """What bounds a run beyond its schedule, and how often it looks up from its work."""

    key: str  # of the run, which its checkpoints carry
    data: str  # the digest of its images, which they carry too
    seed: int
    restarts: int
    restart_for_classes: bool  # a class that is dead at the end costs a start too, not only the whole network
    max_steps: int | None
    eval_every: int
    train_eval_every: int
    checkpoint_seconds: float


@dataclass
class Progress:
    """All that changes in a run except weights, momentum and the schedule. Plain values: it goes into checkpoints."""

    attempt: int = 0
    step: int = 0  # updates made in this attempt
    attempts: list[dict[str, Any]] = field(default_factory=list)  # those that died
    rows: list[dict[str, Any]] = field(default_factory=list)  # one per epoch, as in metrics.jsonl
    start: list[dict[str, Any]] = field(default_factory=list)  # the first updates of each attempt, see `_look`
    seconds: float = 0.0  # of all attempts, over all interruptions
    train_seconds: float = 0.0  # of these, outside of evaluations
    trained: int = 0  # images seen in them
    silent: list[int] = field(default_factory=list)  # classes that looked dead at the last probe
    reached: dict[str, float] = field(default_factory=dict)  # rate and momentum of the epoch that the weights are of


class Trainer:
    """Trains one run to its end.

    Args:
        network: initialised here, once for each attempt.
        optimizer: makes the optimizer of an attempt, momentum at zero.
        rate: makes the schedule of an attempt.
        evaluation: images [M, H, W, C] and labels [M] that an epoch's error is measured on.
        record_row: called with each epoch's row, in order.
        eval_name: what the evaluation images are called in rows: "test" or "validation".
        watched: images and labels whose loss decides when the run stops, for a schedule that asks for it.
        capture: makes one launch of an update's many, on a device where launches cost more than the work.
        micro_batch: images of a batch that an update goes through at a time; None: all of them.
        unattended: look up only where it is needed, at the start and between epochs, and do not make the device wait.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Callable[[Network], SGD],
        rate: Callable[[], Rate],
        batches: Batches,
        evaluation: tuple[Pictures, Tensor],
        limits: Limits,
        console: Console,
        checkpoint_path: Path,
        record_row: Callable[[dict[str, Any]], None],
        eval_name: str = "test",
        watched: tuple[Pictures, Tensor] | None = None,
        capture: Capture | None = None,
        micro_batch: int | None = None,
        unattended: bool = False,
    ) -> None:
        self.network, self.make_optimizer, self.make_rate = network, optimizer, rate
        self.batches, self.evaluation, self.limits = batches, evaluation, limits
        self.console, self.checkpoint_path, self.record_row = console, checkpoint_path, record_row
        self.eval_name, self.watched = eval_name, watched
        self.capture, self.micro_batch, self.unattended = capture, micro_batch, unattended
        self.device = batches.images.device
        self.progress = Progress()
        self.final: tuple[Evaluation, Evaluation] | None = None  # on evaluation and on training images, at the end
        self._begin_attempt()

    def run(self) -> str:
        """Train; returns "done", or "dead" when every attempt died.

        Raises:
            Interrupted: a signal came; the state is saved.
            NotFinite: the loss or a gradient was not finite, in a run that has no other starts.
        """
        with STOP.listening(), own_stream(self.device):
            try:
                return self._attempts()
            finally:
                self._forget()

    def _attempts(self) -> str:
        while died := self._attempt():
            again = self.progress.attempt < self.limits.restarts and (
                died != "classes" or self.limits.restart_for_classes
            )
            self._note_death(died, again)
            if not again:
                return "done" if died == "classes" else "dead"
            attempt = self.progress.attempt + 1
            self.progress = dataclasses.replace(self.progress, attempt=attempt, step=0, silent=[], reached={})
            self._forget()
            self._begin_attempt()
        return "done"

    def _forget(self) -> None:
        """Drop what was captured now: left to Python, it would go at any time, and while another run captures."""
        self.update.forget()
        self.answers.replay.forget()

    def _note_death(self, died: str, again: bool) -> None:
        progress, starts = self.progress, self.limits.restarts + 1
        epoch = self.rate.epoch + (died == "diverged" or self._within_an_epoch())
        progress.attempts.append({"attempt": progress.attempt, "died": died, "epoch": epoch, "step": progress.step})
        what = {"network": "the network is dead", "classes": f"classes {progress.silent} are silent"}
        what |= {"diverged": "the loss or the gradient is not finite"}
        then = f"start {progress.attempt + 2} of {starts}" if again else "this was the last start"
        if not again and progress.attempt + 1 < starts:
            then = "a run at a reduced budget does not start anew for that"
        self.console.line(f"{what[died]} at epoch {epoch}, step {progress.step}: {then}")

    def _begin_attempt(self) -> None:
        """Fresh weights, momentum, schedule and draws, all functions of (seed, attempt)."""
        seed, attempt = self.limits.seed, self.progress.attempt
        self.network.initialise(seed, attempt)
        self.network.train()
        self.now = torch.zeros(2, dtype=torch.int64, device=self.device)  # update, batch of the epoch; the device's own
        self.key = rng.seed_words("train", seed, attempt)
        self.network.clock.set(self.key, self.now[:1])
        sgd = self.make_optimizer(self.network)
        if self.device.type == "cuda":  # it may still copy the weights out of memory that goes with the one before
            torch.cuda.current_stream(self.device).synchronize()
        self.sgd = sgd
        self.rate = self.make_rate()
        self.totals = torch.zeros(3, dtype=torch.float64, device=self.device)  # summed loss, wrong, images of an epoch
        self.norms = torch.zeros(2, dtype=torch.float64, device=self.device)  # summed gradient norms, shortened ones
        self.window = torch.zeros(2, dtype=torch.float64, device=self.device)  # summed loss, largest gradient norm
        self.chosen: dict[str, Tensor] = {}  # the best weights so far, where the validation error decides
        self.saved_at = time.monotonic()
        self.update = Replay(self._update, self.capture, self.network.clock, self._not_captured)
        self.answers = Answers(self.network, self.capture, self._not_captured)

    def _not_captured(self, why: str) -> None:
        if self.capture is not None:
            self.capture = self.update.capture = self.answers.replay.capture = None
            self.console.line(f"no CUDA graphs, which is slower and gives the same numbers: {why}")

    def _attempt(self) -> str | None:
        """Train until the schedule ends; how the start died, "network", "classes" or "diverged", or None."""
        try:
            while not self.rate.finished and (self._within_an_epoch() or not self._out_of_steps()):
                if self._epoch():
                    break
        except NotFinite:
            self.progress.step = int(self.sgd.updates.item())
            if not self.chosen:
                if not self.limits.restarts:
                    raise
                if self.progress.attempt == self.limits.restarts:
                    self.final = self._final_evaluation()
                return "diverged"
            self.sgd.fault.zero_()
        if self.chosen:
            self.network.load_state_dict(self.chosen)
            self.rate.stopped = True  # also where it died or diverged since: nothing is trained on from these
        dead = is_dead(self.answers, self.batches.images, self.batches.labels)[0]
        if dead and self.progress.attempt < self.limits.restarts:
            return "network"
        if not dead:
            self.save()  # a dead network would be trained on from here
        self.final = self._final_evaluation()
        self.progress.silent = [silent for silent in self.final[0].silent if silent in self.final[1].silent]
        return "network" if dead else "classes" if self.progress.silent else None

    def _epoch(self) -> bool:
        """One pass over the training images, or what is left of it; True if the network died in it."""
        started = time.monotonic()
        before = dataclasses.replace(self.progress)

        def count_time() -> None:
            elapsed = time.monotonic() - started
            self.progress.seconds = before.seconds + elapsed
            self.progress.train_seconds = before.train_seconds + elapsed

        first = self.begin_epoch()
        for position in range(first, len(self.batches)):
            if self._out_of_steps():
                break
            self.step(position)
            dead = self._probes(position) and self._look()
            count_time()
            if dead:
                return True
            self._between_steps(started, position + 1 - first)
        self._check_fault()  # waits for the device
        count_time()
        images, seconds = self.progress.trained - before.trained, self.progress.train_seconds - before.train_seconds
        self._end_epoch(images / seconds if images else None)
        self.progress.seconds = before.seconds + time.monotonic() - started
        return False

    def begin_epoch(self) -> int:
        """Get ready for the epoch that is next, or for what is left of it; the position of its next batch."""
        momentum = self.rate.momentum(self.sgd.initial_momentum)
        if momentum != self.sgd.momentum:
            self.sgd.set_momentum(momentum)
            if self.sgd.flat is None:
                self.update.forget()  # the momentum is in it as a number
        self.batches.begin(self.key, self.rate.epoch)
        first = self.progress.step - self.rate.epoch * len(self.batches)
        self.now[0], self.now[1] = self.progress.step, first
        return first

    def step(self, position: int) -> None:
        """One update. Nothing here waits for the device."""
        self.network.clock.step = self.progress.step
        scale, size = self.rate.scale, self.batches.size(position)
        self.sgd.set_scale(scale, scale if self.rate.schedule.bias_drops else 1.0, self.progress.step)
        self.update(size)
        self.rate.end_step()
        self.progress.step += 1
        self.progress.trained += size

    def _update(self, size: int) -> None:
        """What the device does in an update with so many images: from tensors to the same tensors (capture.py)."""
        self.network.zero_grad()
        images, labels = self.batches.gather(self.now[1:], size, self.network.clock)
        if self.micro_batch is not None and self.micro_batch < size:
            loss, wrong = backward_in_micro_batches(self.network, images, labels, self.micro_batch)
        else:
            loss, wrong = backward(self.network(images), labels)
        self.sgd.step(loss)
        self.network.after_update()
        note(loss, wrong, self.sgd.norm, self.sgd.clip, size, self.totals, self.norms, self.window, self.now)

    def _probes(self, position: int) -> bool:
        """Whether to look at the network after this batch of the epoch."""
        if self.unattended and self.progress.step > START:
            return position == len(self.batches) - 1
        return self.progress.step % PROBE_EVERY == 0

    def _look(self) -> bool:
        """Note how the last updates went, and whether the network is dead."""
        self._check_fault()
        loss, norm = self.window.tolist()
        self.window.zero_()
        dead, self.progress.silent = is_dead(self.answers, self.batches.images, self.batches.labels)
        if self.progress.step <= START or dead:
            step, updates = self.progress.step, PROBE_EVERY
            if self.unattended and step > START:  # since the end of the last epoch, or of the start
                updates = step - max(START, self.rate.epoch * len(self.batches))
            found = {"attempt": self.progress.attempt, "step": step, "loss": round(loss / updates, 4)}
            found |= {"gradient_norm": round(norm, 4), "silent_classes": len(self.progress.silent)}
            self.progress.start.append(found)
        return dead

    def _between_steps(self, epoch_started: float, steps_done: int) -> None:
        """Faults, status line, checkpoint, stop requests. None of it changes what is trained."""
        if not self.unattended:  # after a fault nothing moves, so it may be found late
            self._check_fault()
        if self.console.due():
            self.console.status(*self._status(epoch_started, steps_done))
        if STOP.signal is not None:
            self.save()
        self._stop_if_asked()
        if time.monotonic() - self.saved_at >= self.limits.checkpoint_seconds:
            self.save()

    def _end_epoch(self, images_per_second: float | None) -> None:
        """Close the books of an epoch: one row of metrics, and the schedule moves on."""
        loss, wrong, seen = self.totals.tolist()
        norm, shortened = self.norms.tolist()
        self.totals.zero_(), self.norms.zero_()
        updates = self.progress.step - self.rate.epoch * len(self.batches)
        epoch = self.rate.epoch + 1
        row: dict[str, Any] = {
            "attempt": self.progress.attempt,
            "epoch": epoch,
            "step": self.progress.step,
            "rate": self.rate.scale,
            "train_loss": loss / seen,
            "train_error_running": 100 * wrong / seen,
            "gradient_norm": round(norm / updates, 4),
        }
        if self.sgd.clip < math.inf:
            row |= {"clipped": round(100 * shortened / updates, 2)}
        reached = {"rate": self.rate.scale, "momentum": self.sgd.momentum}
        self.rate.end_epoch(row["train_error_running"])
        stop = self.rate.schedule.stop
        if stop == "validation" or (self.limits.eval_every and epoch % self.limits.eval_every == 0):
            found = evaluate(self.answers, *self.evaluation)
            row |= {f"{self.eval_name}_loss": found.loss, f"{self.eval_name}_error": found.error}
            self.progress.silent = found.silent
        if stop == "likelihood" and self.watched is not None:
            row |= {"watched_loss": evaluate(self.answers, *self.watched).loss}
            self.rate.watch(row["watched_loss"])
        if stop == "validation":
            if self.rate.watch(row["validation_error"]):
                self.chosen = {name: values.clone() for name, values in self.network.state_dict().items()}
                self.progress.reached = reached
        else:
            self.progress.reached = reached
        if self.limits.train_eval_every and epoch % self.limits.train_eval_every == 0:
            found = evaluate(self.answers, self.batches.images, self.batches.labels)
            row |= {"train_error": found.error}
        row |= {"silent_classes": len(self.progress.silent), "seconds": round(self.progress.seconds, 3)}
        row |= {"images_per_second": images_per_second and round(images_per_second, 1)}
        # Weights may be finite and yet so large that the loss on other images is not, which JSON has no word for.
        row = {name: value if value is None or math.isfinite(value) else None for name, value in row.items()}
        self.progress.rows.append(row)
        self.record_row(row)
        self.console.line(epoch_line(row, self.rate.epochs, self.eval_name))

    def _final_evaluation(self) -> tuple[Evaluation, Evaluation]:
        """(on the evaluation images, on the training images), without dropout and augmentation."""
        training = self.batches.images, self.batches.labels
        count = len(self.evaluation[1]) + len(training[1])
        self.console.status(f"measuring the errors without dropout on {count:,} images", {})
        return (
            evaluate(self.answers, *self.evaluation, self._stop_if_asked),
            evaluate(self.answers, *training, self._stop_if_asked),
        )

    def _stop_if_asked(self) -> None:
        if STOP.signal is not None:
            raise Interrupted(STOP.signal, self._where())

    def _within_an_epoch(self) -> bool:
        return self.progress.step > self.rate.epoch * len(self.batches)

    def _out_of_steps(self) -> bool:
        return self.limits.max_steps is not None and self.progress.step >= self.limits.max_steps

    def _check_fault(self) -> None:
        if self.sgd.fault.item():
            rates = ", ".join(f"{group.lr * group.scale:g}" for group in self.sgd.groups)
            raise NotFinite(
                f"the loss or the gradient is not finite at epoch {self.rate.epoch + 1}, step "
                f"{self.sgd.updates.item() + 1}, learning rates {rates}: the update was not made"
                + f", and the last good state is in {self.checkpoint_path}"
                * self.checkpoint_path.exists()
            )

    def _where(self) -> str:
        return f"epoch {self.rate.epoch + (not self.rate.finished)}, step {self.progress.step}"

    def _status(self, epoch_started: float, steps_done: int) -> tuple[str, dict[str, float | int | None]]:
        """How far the run is, in words and in figures: error in %, seconds left (at most, where that is not known)."""
        loss, wrong, seen = self.totals.tolist()
        total = self.rate.epochs * len(self.batches)
        if self.limits.max_steps is not None:
            total = min(total, self.limits.max_steps)
        silent = silent_classes(len(self.progress.silent))
        text = (
            f"epoch {self.rate.epoch + 1}/{self.rate.epochs}  step {self.progress.step}/{total}  "
            f"loss {loss / seen:.4f}  error {100 * wrong / seen:.2f} %{silent}"
        )
        figures = {"epoch": self.rate.epoch + 1, "epochs": self.rate.epochs, "error": round(100 * wrong / seen, 2)}
        if steps_done == 1:  # which may have compiled kernels: that would be days left
            return text, figures | {"images_per_second": None, "left": None}
        per_step = (time.monotonic() - epoch_started) / steps_done
        speed, left = self.batches.batch_size / per_step, per_step * (total - self.progress.step)
        most = "at most " if self.rate.drops is None or self.rate.schedule.stop != "never" else ""
        text += f"  {speed:,.0f} images/s  {most}{duration(left)} left"
        return text, figures | {"images_per_second": round(speed, 1), "left": round(left)}

    def save(self) -> None:
        """Write a checkpoint of exactly this point. A state after a fault is never saved."""
        self._check_fault()
        checkpoint.save(self.checkpoint_path, self._state())
        self.saved_at = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "key": self.limits.key,
            "data": self.limits.data,
            "progress": self.progress.__dict__,
            "weights": self.network.state_dict(),
            "optimizer": self.sgd.state(),
            "rate": self.rate.state(),
            "totals": self.totals,
            "norms": self.norms,
            "window": self.window,
            "chosen": self.chosen,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `save` wrote. Raises UsageError if another version of this program did."""
        checkpoint.require_fields(self.checkpoint_path, state, self._state())
        self.progress = Progress(**state["progress"])
        self._begin_attempt()
        self.network.load_state_dict(state["weights"])
        self.sgd.load(state["optimizer"])
        self.rate.load(state["rate"])
        self.totals.copy_(state["totals"])
        self.norms.copy_(state["norms"])
        self.window.copy_(state["window"])
        self.chosen = {name: values.to(self.device) for name, values in state["chosen"].items()}
