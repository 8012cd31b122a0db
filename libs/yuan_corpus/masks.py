"""Which predictions count in the loss, and positions within documents (YUAN_FACTS B5).

A sample of S + 1 tokens gives inputs `sample[:-1]` and labels `sample[1:]`; every array here has length S, and its
element i belongs to input i and label i.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

MaskArray = npt.NDArray[np.float32]


def pretraining_loss_mask(sample: npt.NDArray[Any], eod_id: int, eod_mask_loss: bool = False) -> MaskArray:
    """Returns the loss mask of pretraining: all ones, or zeros where the input is `<eod>`.

    Args:
        sample: integers [..., S + 1].
        eod_id: the id that ends a document.
        eod_mask_loss: do not predict across a document's end.

    Returns:
        float32 [..., S].
    """
    inputs = sample[..., :-1]
    mask = np.ones(inputs.shape, np.float32)
    if eod_mask_loss:
        mask[inputs == eod_id] = 0.0
    return mask


def finetuning_loss_mask(sample: npt.NDArray[Any], eod_id: int, sep_id: int) -> MaskArray:
    """Returns the loss mask of instruction tuning: no loss on instructions, which end at their first `<sep>`.

    The `<sep>` and `<eod>` labels count. A document without `<sep>` counts whole, so also the sample's beginning
    inside an answer. The sample's last, cut-off document is masked only where at least two others end before it and
    it reaches its `<sep>`: so the original has it.

    Args:
        sample: integers [S + 1].
        eod_id: the id that ends a document.
        sep_id: the id between instruction and answer.

    Returns:
        float32 [S].
    """
    labels = sample[1:]
    mask = np.ones(len(labels), np.float32)
    ends = np.flatnonzero(labels == eod_id).tolist()
    separators = np.flatnonzero(labels == sep_id)
    starts = [0, *(end + 1 for end in ends)]
    stops = [*ends, len(labels)]
    # The piece behind the last <eod> is the last pair; see above for when it is looked at.
    documents = list(zip(starts, stops, strict=True))[: None if len(ends) >= 2 else len(ends)]
    for start, stop in documents:
        first = int(np.searchsorted(separators, start))
        if first < len(separators) and int(separators[first]) < stop:
            mask[start : int(separators[first])] = 0.0
    return mask


def answer_flags(document: npt.NDArray[Any], eod_id: int, sep_id: int) -> npt.NDArray[np.bool_]:
    """Returns which tokens of a document a model is to learn to say: its answers.

    A document is one turn or several. A turn is a question, `<sep>`, an answer, `<eod>`. Where no `<eod>` stands
    between turns, question and answer change at every `<sep>`: the second one ends an answer and begins the next
    question. The `<sep>` and `<eod>` at both ends of an answer count (paper 3.5); a turn without `<sep>` has no answer.

    Args:
        document: integers [n], from its first token; a part of it that begins there will do.
        eod_id: the id that ends a turn.
        sep_id: the id between question and answer.

    Returns:
        bool [n].
    """
    separators = document == sep_id
    count = np.cumsum(separators)
    ends = np.flatnonzero(document == eod_id)
    # Those before the turn began; an <eod> belongs to the turn that it ends.
    earlier = np.concatenate([[0], count[ends]])[np.searchsorted(ends, np.arange(len(document)))]
    return ((count - earlier) % 2 == 1) | separators


def document_position_ids(sample: npt.NDArray[Any], eod_id: int) -> npt.NDArray[np.int64]:
    """Returns the position of every input in its document: it restarts at 0 after each `<eod>` of the inputs.

    Args:
        sample: integers [S + 1].
        eod_id: the id that ends a document.

    Returns:
        int64 [S].
    """
    inputs = sample[:-1]
    positions = np.arange(len(inputs), dtype=np.int64)
    starts = np.zeros(len(inputs), np.int64)
    after = np.flatnonzero(inputs[:-1] == eod_id) + 1
    starts[after] = after
    return positions - np.maximum.accumulate(starts)
