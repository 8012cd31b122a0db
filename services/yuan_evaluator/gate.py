"""The gate of a co-training cycle: how far a new model's scores may lie below the old one's. Pure arithmetic."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yuan_evaluator import scores
from yuan_evaluator.suite import shares_of
from yuan_events import InputError
from yuan_manifest.schema import GateSection
from yuan_manifest.suites import OF_REQUESTS, PERPLEXITY

_LEARNED = OF_REQUESTS[1]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Result:
    """How the new model stands to the old one in one task.

    Attributes:
        task: its name; `perplexity` is one, too.
        title: for people.
        old: the old model's score (a share of 1), or its perplexity.
        new: the new one's.
        difference: new - old; of perplexity as a share of the old one's.
        low: lower end of the difference's 95 % interval; None: there is none.
        high: upper end.
        p_value: of the sign test; None: there is none.
        items: questions that both were asked.
        allowed: how much worse it may be; None: it is only shown.
        passed: whether the gate lets it through.
        told: one line.
    """

    task: str
    title: str
    old: float
    new: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    items: int
    allowed: float | None
    passed: bool
    told: str

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        return asdict(self)


def judge_all(
    gate: GateSection, old: Mapping[str, Any], old_folder: Path, new: Mapping[str, Any], new_folder: Path
) -> list[Result]:
    """Compares two reports task by task.

    Args:
        gate: what is allowed.
        old: the old model's report.
        old_folder: where its items lie.
        new: the new model's.
        new_folder: where its items lie.

    Raises:
        InputError: if they have no task in common, or not one that the gate names.
    """
    common = [name for name in new["suite"] if name in old["suite"]]
    for name in gate.tasks:
        if name not in common:
            raise InputError(f"gate.tasks.{name}: not in both reports, which have {', '.join(common) or 'nothing'}")
    if not [name for name in common if name != _LEARNED]:
        raise InputError("the reports of the old and the new model have no task in common; give both the same suite")
    found: list[Result] = []
    for name in common:
        if name == PERPLEXITY:
            found.append(_perplexity(gate, old["suite"][name], new["suite"][name]))
        else:
            found.append(_task(gate, name, new, old_folder, new_folder))
    return found


def _task(gate: GateSection, name: str, new: Mapping[str, Any], old_folder: Path, new_folder: Path) -> Result:
    settings = new["settings"]
    theirs, ours = shares_of(old_folder, name), shares_of(new_folder, name)
    compared = scores.compare(ours, theirs, int(settings["bootstrap"]), int(settings["seed"]))
    if compared is None:
        raise InputError(f"{name}: the two reports have no question in common; evaluate both models on the same data")
    allowed = gate.tasks.get(name, None if name == _LEARNED else gate.worse_by)
    counted = compared.difference
    if gate.confident and compared.low is not None:
        counted = compared.low
    passed = allowed is None or counted >= -allowed - _ROUNDING
    title = str(new["suite"][name]["title"])
    told = f"{title}: {100 * compared.theirs:.1f} % -> {100 * compared.ours:.1f} % ({100 * compared.difference:+.1f})"
    if not passed:
        bound = f"{100 * -allowed:+.1f}" if allowed is not None else ""
        kind = ", lower end of its 95 % interval" if gate.confident else ""
        told = f"{told}; the gate wants {bound} at least, found {100 * counted:+.1f}{kind}"
    return Result(
        name, title, compared.theirs, compared.ours, compared.difference, compared.low, compared.high,
        compared.p_value, compared.items, allowed, passed, told,
    )  # fmt: skip


def _perplexity(gate: GateSection, old: Mapping[str, Any], new: Mapping[str, Any]) -> Result:
    before, now = float(old["perplexity"]), float(new["perplexity"])
    rise = now / before - 1
    passed = rise <= gate.perplexity_rise + _ROUNDING
    told = f"Perplexity: {before:.2f} -> {now:.2f} ({100 * rise:+.1f} %)"
    if not passed:
        told = f"{told}; the gate allows {100 * gate.perplexity_rise:+.1f} %"
    return Result(
        PERPLEXITY, "Perplexity", before, now, rise, None, None, None, int(new["samples"]), gate.perplexity_rise,
        passed, told,
    )  # fmt: skip
