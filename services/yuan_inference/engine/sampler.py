"""Draws the next token of many sequences at once, and says how probable tokens were.

One call of the compiled library draws for all; what only some ask for (bias, penalties, structure, log-probabilities)
costs them alone. Shape suffixes: b sequences, v vocabulary.
"""

import logging
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from yuan_events import YuanError
from yuan_inference.engine.changes import Logits
from yuan_inference.engine.request import TokenLogprob
from yuan_inference.engine.sequence import Sequence
from yuan_inference.engine.structure import StructureError
from yuan_model import NativeUnavailable, native_library
from yuan_model.native import native_draw, native_places
from yuan_model.sampling import LIKELIEST, Draw, torch_draw, torch_places

_LOGGER = logging.getLogger("yuan_inference.engine")


class NothingBeforeMinimum(YuanError):
    """min_tokens forbids every token that may come."""


@dataclass(slots=True)
class Drawn:
    """What was drawn.

    Attributes:
        tokens: one a row.
        logprobs: how probable tokens were, by place in `tokens`, of those who asked.
        errors: why there is none, by place.
    """

    tokens: list[int]
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict[int, TokenLogprob])
    errors: dict[int, Exception] = field(default_factory=dict[int, Exception])


class Sampler:
    """Draws for one model."""

    def __init__(self, vocabulary: int, end_ids: frozenset[int]) -> None:
        """Args: vocabulary: ids that may be drawn; more logits only pad. end_ids: end a document."""
        self._vocabulary = vocabulary
        self.end_ids = end_ids
        self._end_ids = [token for token in end_ids if token < vocabulary]
        try:
            native_library()
            self._draw, self._places = native_draw, native_places
        except NativeUnavailable as error:
            _LOGGER.warning("tokens are drawn by torch, several times slower than compiled: %s", error)
            self._draw, self._places = torch_draw, torch_places

    def draw(
        self, logits_bv: Tensor, rows: list[int], sequences: Many[Sequence], likeliest: Many[int] | None = None
    ) -> Drawn:
        """Returns a token for each of some rows of logits, which are left as they are.

        Args:
            logits_bv: of a step.
            rows: whose next token is drawn.
            sequences: whose they are.
            likeliest: of each row of logits, where that is known; -1 where they are no numbers.
        """
        logits_bv = logits_bv[:, : self._vocabulary]
        draws = [_draw_of(one) for one in sequences] if any(one.is_random for one in sequences) else None
        changed = [place for place, one in enumerate(sequences) if one.changes_logits]
        if draws is None and likeliest is not None:
            drawn = Drawn([likeliest[row] for row in rows])
        else:
            first = draws and [LIKELIEST if one.changes_logits else draws[place] for place, one in enumerate(sequences)]
            drawn = Drawn(self._draw(logits_bv, rows, first))
        if changed:
            copies_bv = logits_bv[[rows[place] for place in changed]]
            self._draw_changed(copies_bv, changed, sequences, draws, drawn)
        if min(drawn.tokens) < 0:
            for place, token in enumerate(drawn.tokens):
                if token < 0:
                    drawn.errors.setdefault(place, FloatingPointError("the model computed no finite numbers for it"))
        asked = [place for place, one in enumerate(sequences) if one.task.wants_score and place not in drawn.errors]
        if asked:
            told = self.logprobs(
                logits_bv,
                [rows[place] for place in asked],
                [drawn.tokens[place] for place in asked],
                [sequences[place].sampling.logprobs or 0 for place in asked],
            )
            drawn.logprobs = dict(zip(asked, told, strict=True))
        return drawn

    def _draw_changed(
        self, logits_bv: Tensor, changed: list[int], sequences: Many[Sequence], draws: list[Draw] | None, drawn: Drawn
    ) -> None:
        """Draws again for those who change their logits, of which copies are given, and writes into `drawn`."""
        finite: list[int] = []
        for copy, place in enumerate(changed):
            if drawn.tokens[place] < 0:
                continue
            try:
                self._change(logits_bv[copy].numpy(), sequences[place])
                finite.append(copy)
            except Exception as error:  # noqa: BLE001 - only this sequence's
                drawn.errors[place] = error
        places = [changed[copy] for copy in finite]
        tokens = self._draw(logits_bv, finite, draws and [draws[place] for place in places])
        for place, token in zip(places, tokens, strict=True):
            drawn.tokens[place] = token

    def _change(self, logits_v: Logits, sequence: Sequence) -> None:
        """Changes logits in place as a sequence asks: bias, penalties, what may not come."""
        if sequence.changes is not None:
            sequence.changes.apply(logits_v, sequence.tokens[-1])
        if sequence.is_early:
            logits_v[self._end_ids] = -np.inf
            logits_v[[token for token in sequence.sampling.stop_token_ids if token < len(logits_v)]] = -np.inf
        if sequence.matcher is not None:
            logits_v[~sequence.matcher.allowed().numpy()] = -np.inf
        if logits_v.max() == -np.inf:
            if sequence.is_early:
                raise NothingBeforeMinimum("all tokens that may come end the text, and min_tokens forbids that")
            raise StructureError("the structure cannot be followed: forbidden tokens leave none that it allows")

    def candidates(self, logits_v: Tensor, sequence: Sequence, count: int) -> list[tuple[float, int, TokenLogprob]]:
        """Returns the likeliest tokens for a search, with log-probabilities of what is allowed.

        Raises:
            FloatingPointError: if the logits are no numbers.
            Exception: what makes nothing allowed.
        """
        logits_v = logits_v[: self._vocabulary]
        if not logits_v.max().isfinite():
            raise FloatingPointError("the model computed no finite numbers for it")
        scores_v = logits_v.clone()
        self._change(scores_v.numpy(), sequence)
        best, ids = scores_v.log_softmax(-1).topk(min(count, len(scores_v)))
        found = [(score, token) for score, token in zip(best.tolist(), ids.tolist(), strict=True) if score > -torch.inf]
        told = self.logprobs(
            logits_v[None],
            [0] * len(found),
            [token for _, token in found],
            [sequence.sampling.logprobs or 0] * len(found),
        )
        return [(score, token, one) for (score, token), one in zip(found, told, strict=True)]

    def logprobs(self, logits_bv: Tensor, rows: list[int], tokens: Many[int], tops: Many[int]) -> list[TokenLogprob]:
        """Returns how probable tokens are by the logits as they are.

        Args:
            logits_bv: of a step.
            rows: of which, one for each token.
            tokens: whose log-probability is wanted.
            tops: how many of the likeliest are told with it.
        """
        if not tokens:
            return []
        logits_bv = logits_bv[:, : self._vocabulary]
        totals, ranks = self._places(logits_bv, rows, tokens)
        values_bv = logits_bv.numpy()
        told: list[TokenLogprob] = []
        for row, token, top, total, rank in zip(rows, tokens, tops, totals, ranks, strict=True):
            likeliest: tuple[tuple[int, float], ...] = ()
            if top:
                best, ids = logits_bv[row].topk(min(top, self._vocabulary))
                likeliest = tuple(zip(ids.tolist(), (best - total).tolist(), strict=True))
            told.append(TokenLogprob(token, float(values_bv[row, token] - np.float32(total)), rank, likeliest))
        return told


def _draw_of(sequence: Sequence) -> Draw:
    if not sequence.is_random:
        return LIKELIEST
    sampling = sequence.sampling
    return Draw(sequence.source.random(), sampling.temperature, sampling.top_k, sequence.top_p, sampling.min_p)
