"""The likelihoods of a task's choices, computed here with the model loaded once more."""

from collections.abc import Sequence
from typing import Any

import torch

from yuan_checkpoint import load_for_inference
from yuan_corpus import Tokenizer
from yuan_evaluator.endpoint import Endpoint
from yuan_evaluator.likelihood import Judged, judge
from yuan_evaluator.running import Plan
from yuan_evaluator.task import Choices
from yuan_events import Progress
from yuan_jobs import WorkContext
from yuan_manifest.schema import EvaluateJob


def judge_all(context: WorkContext[EvaluateJob], place: Endpoint, plan: Plan) -> list[tuple[Choices, Judged]]:
    """Returns every question's choices and what the model finds likeliest."""
    del place
    folder = context.inputs["model"].path
    model = load_for_inference(folder, str(context.topology.nodes.device))
    tokenizer = Tokenizer.load(folder / "tokenizer")

    def of(choices: Choices, continuations: Sequence[str]) -> list[float]:
        head = tokenizer.encode(choices.prompt)
        return [_logprob(model, head, tokenizer.encode(choices.prompt + text)) for text in continuations]

    make: Any = plan.task.likelihood
    found: list[tuple[Choices, Judged]] = []
    for number, question in enumerate(plan.questions):
        context.stop_if_asked()
        context.sink.emit(Progress(plan.task.name, number, len(plan.questions), "questions"))
        choices: Choices = make(question.item, plan.rules)
        found.append(
            (choices, judge(choices, of(choices, choices.continuations), of(choices, choices.all_continuations)))
        )
    context.sink.emit(Progress(plan.task.name, len(plan.questions), len(plan.questions), "questions"))
    return found


def _logprob(model: Any, head: Sequence[int], whole: Sequence[int]) -> float:
    same = next((at for at, (one, other) in enumerate(zip(head, whole, strict=False)) if one != other), len(head))
    with torch.inference_mode():
        logits = model(torch.tensor([whole[:-1]]))[0].float().log_softmax(-1)
    return float(sum(logits[at - 1, whole[at]] for at in range(max(1, same), len(whole))))
