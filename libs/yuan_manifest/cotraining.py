"""The sections of a co-training cycle's own jobs: gather, judge, release, answer.

What the cycle does between them (tokenize, finetune, evaluate) are jobs like any other.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from yuan_manifest.sections import ModelInput


@dataclass
class GatherSection:
    """How the accepted requests' examples are divided.

    Attributes:
        held_out: share of each request's examples that is kept from the training; one at least is, and one is not.
        seed: of the choice, which depends on nothing but it, the request's id and the examples.
    """

    held_out: float = 0.25
    seed: int = 1234


@dataclass
class RequestsOutputs:
    """Name of the artifact with the requests."""

    requests: str = MISSING


@dataclass
class JudgeInputs(ModelInput):
    """What is judged, and by what.

    Attributes:
        model: the new model artifact, fine-tuned from the old one.
        requests: that it was to learn.
        report: of the new model.
        baseline: report of the old model on the same tasks.
    """

    requests: str = MISSING
    report: str = MISSING
    baseline: str = MISSING


@dataclass
class GateSection:
    """When the new model is published. Scores are shares of 1; they are compared question by question.

    Attributes:
        worse_by: how far the new model's score may lie below the old one's, for each task that both reports have but
            `requests_learned`, which was trained on.
        tasks: the same for single tasks, by name, in place of that; below 0: it must be so much better.
        perplexity_rise: how far the new model's perplexity may lie above the old one's, as a share of it.
        confident: whether the lower end of the difference's 95 % interval must pass, instead of the difference.
    """

    worse_by: float = 0.0
    tasks: dict[str, float] = field(default_factory=dict[str, float])
    perplexity_rise: float = 0.0
    confident: bool = False


@dataclass
class ReleaseInputs(ModelInput):
    """The new model artifact, and what was judged of it.

    Attributes:
        model: the new model artifact.
        report: what kind judge said of it.
    """

    report: str = MISSING


@dataclass
class AnswerInputs:
    """The requests, and what became of the model that was to learn them.

    Attributes:
        requests: as gathered.
        report: what kind judge said.
    """

    requests: str = MISSING
    report: str = MISSING
