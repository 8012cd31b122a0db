"""Draws the next token of many sequences at once, and says how probable tokens were.

The common case (all greedy, nothing asked) is one pass over the logits; what only some ask for costs them alone.
Shape suffixes: b sequences, v vocabulary.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yuan_inference.engine.request import Sampling, TokenLogprob
from yuan_inference.engine.sequence import Sequence
from yuan_model.sampling import Draw, draw_tokens


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that was drawn, or why none could be.

    Attributes:
        token: its id.
        logprob: how probable it was; None: nobody asked.
        error: why there is none.
    """

    token: int
    logprob: TokenLogprob | None = None
    error: Exception | None = None


class Sampler:
    """Draws for one model."""

    def __init__(self, vocabulary: int, end_ids: frozenset[int]) -> None:
        """Args: vocabulary: ids that may be drawn; more logits only pad. end_ids: end a document."""
        self._vocabulary = vocabulary
        self.end_ids = end_ids
        self._end_ids = [token for token in end_ids if token < vocabulary]

    def draw(self, logits_bv: Tensor, sequences: Many[Sequence]) -> list[Drawn]:
        """Returns a token for each row of logits, which are left as they are."""
        logits_bv = logits_bv[:, : self._vocabulary]
        # By numpy: torch would share so small a thing between threads that the compiled step wants for itself.
        values_bv = logits_bv.numpy()
        likeliest_b = values_bv.argmax(axis=1)  # the first that is no number, if there is one
        finite: list[bool] = np.isfinite(values_bv[np.arange(len(values_bv)), likeliest_b]).tolist()
        tokens: list[int] = likeliest_b.tolist()
        errors: dict[int, Exception] = {}
        special = [number for number, one in enumerate(sequences) if finite[number] and not _is_plain(one)]
        if special:
            self._draw_special(logits_bv, sequences, special, tokens, errors)
        asked = [number for number, one in enumerate(sequences) if finite[number] and one.task.wants_score]
        logprobs = self.logprobs(
            logits_bv[asked],
            [tokens[number] for number in asked],
            [sequences[number].sampling.logprobs or 0 for number in asked],
        )
        told = dict(zip(asked, logprobs, strict=True))
        for number, is_finite in enumerate(finite):
            if not is_finite:
                errors[number] = FloatingPointError("the model computed no finite numbers for it")
        return [Drawn(token, told.get(number), errors.get(number)) for number, token in enumerate(tokens)]

    def candidates(self, logits_v: Tensor, sequence: Sequence, count: int) -> list[tuple[float, int, TokenLogprob]]:
        """Returns the likeliest tokens for a search, with log-probabilities of what is allowed.

        Raises:
            FloatingPointError: if the logits are no numbers.
            Exception: what makes nothing allowed.
        """
        logits_v = logits_v[: self._vocabulary]
        if not logits_v.max().isfinite():
            raise FloatingPointError("the model computed no finite numbers for it")
        scores_v = self._changed(logits_v.clone(), sequence).log_softmax(-1)
        best, ids = scores_v.topk(min(count, len(scores_v)))
        found = [(score, token) for score, token in zip(best.tolist(), ids.tolist(), strict=True) if score > -torch.inf]
        told = self.logprobs(
            logits_v.expand(len(found), -1),
            [token for _, token in found],
            [sequence.sampling.logprobs or 0] * len(found),
        )
        return [(score, token, one) for (score, token), one in zip(found, told, strict=True)]

    def logprobs(self, logits_bv: Tensor, tokens: Many[int], tops: Many[int]) -> list[TokenLogprob]:
        """Returns how probable tokens are by the logits as they are.

        Args:
            logits_bv: one row for each.
            tokens: whose log-probability is wanted.
            tops: how many of the likeliest are told with it.
        """
        if not tokens:
            return []
        logits_bv = logits_bv[:, : self._vocabulary]
        totals_b1 = logits_bv.logsumexp(dim=-1, keepdim=True)
        chosen_b1 = logits_bv.gather(1, torch.tensor(tokens)[:, None])
        ranks = ((logits_bv > chosen_b1).sum(dim=-1) + 1).tolist()
        values = (chosen_b1 - totals_b1).squeeze(1).tolist()
        most = min(max(tops), self._vocabulary)
        best_bk, ids_bk = logits_bv.topk(most, dim=-1) if most else (logits_bv[:, :0], logits_bv[:, :0].long())
        best, ids = (best_bk - totals_b1).tolist(), ids_bk.tolist()
        return [
            TokenLogprob(token, values[row], ranks[row], tuple(zip(ids[row][:top], best[row][:top], strict=True)))
            for row, (token, top) in enumerate(zip(tokens, tops, strict=True))
        ]

    def _draw_special(
        self,
        logits_bv: Tensor,
        sequences: Many[Sequence],
        special: list[int],
        tokens: list[int],
        errors: dict[int, Exception],
    ) -> None:
        """Draws for those who ask for more than the likeliest token, and writes into tokens and errors."""
        rows_bv = logits_bv[special]  # a copy
        for row, number in enumerate(special):
            if _changes(sequences[number]):
                try:
                    self._changed(rows_bv[row], sequences[number])
                except Exception as error:  # noqa: BLE001 - only this sequence's
                    errors[number] = error
                    rows_bv[row] = 0
        likeliest = rows_bv.argmax(dim=-1).tolist()
        for row, number in enumerate(special):
            tokens[number] = likeliest[row]
        random = [row for row, number in enumerate(special) if sequences[number].sampling.temperature > 0]
        if not random:
            return
        draws = [_draw_of(sequences[special[row]]) for row in random]
        for row, token in zip(random, draw_tokens(rows_bv[random], draws), strict=True):
            tokens[special[row]] = token

    def _changed(self, logits_v: Tensor, sequence: Sequence) -> Tensor:
        """Changes logits in place as a sequence asks: bias, penalties, what may not come."""
        sampling = sequence.sampling
        if sampling.logit_bias:
            ids, values = zip(*sampling.logit_bias, strict=True)
            logits_v[list(ids)] += torch.tensor(values)
        _penalise(logits_v, sequence, sampling)
        if sampling.forbidden_pairs:
            last = sequence.tokens[-1]
            logits_v[[token for before, token in sampling.forbidden_pairs if before == last]] = -torch.inf
        if sequence.new_tokens < sampling.min_tokens:
            logits_v[
                [*self._end_ids, *(token for token in sampling.stop_token_ids if token < len(logits_v))]
            ] = -torch.inf
        if sequence.matcher is not None:
            logits_v.masked_fill_(~sequence.matcher.allowed(), -torch.inf)
        if logits_v.max() == -torch.inf:
            raise ValueError("no token may follow: bias, structure and forbidden tokens leave none")
        return logits_v


def _penalise(logits_v: Tensor, sequence: Sequence, sampling: Sampling) -> None:
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(sequence.tokens)))
        seen = seen[seen < len(logits_v)]
        values = logits_v[seen]
        logits_v[seen] = torch.where(
            values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
        )
    if sequence.counts:
        ids = list(sequence.counts)
        times = torch.tensor([float(sequence.counts[token]) for token in ids])
        logits_v[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times


def _draw_of(sequence: Sequence) -> Draw:
    sampling = sequence.sampling
    return Draw(sequence.source.random(), sampling.temperature, sampling.top_k, sequence.top_p, sampling.min_p)


def _is_plain(sequence: Sequence) -> bool:
    return sequence.sampling.temperature == 0 and not _changes(sequence)


def _changes(sequence: Sequence) -> bool:
    sampling = sequence.sampling
    return bool(
        sampling.logit_bias
        or sampling.repetition_penalty != 1.0
        or sequence.counts
        or sampling.forbidden_pairs
        or sequence.matcher is not None
        or sequence.new_tokens < sampling.min_tokens
    )
