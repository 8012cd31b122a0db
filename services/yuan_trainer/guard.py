"""What is done about a step that went wrong: its loss or gradient is not finite, or its loss leaps.

Every rank asks with the same numbers and so comes to the same answer. What the guard has seen belongs into the training
state: a run that is taken up judges as if it had never stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yuan_events import WorkFailed
from yuan_manifest.schema import BadStep, GuardSection

FEWEST = 10
"""Losses without which nothing is called a leap."""


@dataclass
class Guard:
    """Judges steps before they are taken.

    Attributes:
        section: what is wanted.
        steps: of the run, which is how many windows of data there are.
        losses: of the last good steps, newest last.
        skipped: steps left out in a row.
        rollbacks: so far.
        left_out: data that is not met again, as runs (first, last) of the windows that were rolled back over; a window
            is the data of one step, numbered from 0 in the order of the blend.
        scales_loss: gradients that are not finite are how fp16's loss scale is found, and nothing wrong by themselves.
    """

    section: GuardSection
    steps: int
    scales_loss: bool = False
    losses: list[float] = field(default_factory=list[float])
    skipped: int = 0
    rollbacks: int = 0
    left_out: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _wrong: str = ""
    _action: BadStep = BadStep.ignore

    def accept(self, loss: float, gradient_norm: float) -> bool:
        """Says whether a step is to be taken; `action` and `wrong` tell what else is to be done.

        Args:
            loss: of the whole step, nats per token.
            gradient_norm: before clipping; infinite where the engine has dropped the gradients already.
        """
        self._wrong, self._action = self._judge(loss, gradient_norm)
        if self._action != BadStep.ignore:
            return False
        self.skipped = 0
        self.losses = [*self.losses, loss][-self.section.spike_window :]
        return True

    @property
    def wrong(self) -> str:
        """What is wrong with the step that was judged last; empty: nothing."""
        return self._wrong

    def action(self) -> BadStep:
        """Returns what is to be done about the step that was judged last, and counts it.

        A step that is skipped or rolled back too often is one to stop at.
        """
        action, most = self._action, self.section.most
        if action == BadStep.skip:
            self.skipped += 1
            if self.skipped > most:
                self._wrong += f"; {most} steps before it were left out (train.guard.most)"
                return BadStep.stop
        if action == BadStep.rollback:
            self.rollbacks += 1
            if self.rollbacks > most:
                self._wrong += f"; {most} times it was gone back before (train.guard.most)"
                return BadStep.stop
        return action

    def window(self, step: int) -> int:
        """Returns which window of the data a step takes, from 0.

        It is the order of the blend without what was left out. Where the end of it comes before that of the run, it
        begins again.

        Raises:
            WorkFailed: if nothing is left.
        """
        remaining = self.steps - sum(last - first + 1 for first, last in self.left_out)
        if remaining <= 0:
            raise WorkFailed("all data was rolled back over (train.guard); lower optimizer.lr, or look at the data")
        window = (step - 1) % remaining
        for first, last in self.left_out:
            if window < first:
                break
            window += last - first + 1
        return window

    def go_back(self, step: int, state_step: int, saved: Mapping[str, Any]) -> None:
        """Goes on from an earlier state, with the data behind that of the step that went wrong.

        Args:
            step: that went wrong.
            state_step: of the state.
            saved: what `state` said then.
        """
        windows = {self.window(number) for number in range(state_step + 1, step + 1)}
        for first, last in self.left_out:
            windows.update(range(first, last + 1))
        rollbacks = self.rollbacks
        self.restore(saved)
        self.left_out, self.rollbacks = _runs(windows), rollbacks

    def state(self) -> dict[str, Any]:
        """Returns what belongs into a training state, as JSON's types."""
        return {
            "losses": self.losses,
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "left_out": [list(run) for run in self.left_out],
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Takes up what `state` said."""
        self.losses = [float(loss) for loss in saved.get("losses", [])]
        self.skipped = int(saved.get("skipped", 0))
        self.rollbacks = int(saved.get("rollbacks", 0))
        self.left_out = [(int(first), int(last)) for first, last in saved.get("left_out", [])]

    def _judge(self, loss: float, gradient_norm: float) -> tuple[str, BadStep]:
        if not math.isfinite(loss):
            return f"its loss is {loss}", self.section.nonfinite
        if not math.isfinite(gradient_norm) and not self.scales_loss:
            return "its gradient is not finite", self.section.nonfinite
        if self.section.spike != BadStep.ignore and len(self.losses) >= min(FEWEST, self.section.spike_window):
            mean = sum(self.losses) / len(self.losses)
            if loss > self.section.spike_factor * mean:
                told = f"its loss of {loss:.3f} is {loss / mean:.1f} times the mean of the last {len(self.losses)}"
                return told, self.section.spike
        return "", BadStep.ignore


def _runs(numbers: set[int]) -> list[tuple[int, int]]:
    """Returns numbers as runs (first, last), in order."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
