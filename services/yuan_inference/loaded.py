"""A model together with the tokenizer that it was trained on, from an artifact or a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from yuan_checkpoint import open_for_inference
from yuan_corpus import Tokenizer
from yuan_events import InputError
from yuan_model import FolderWeights, ModelFolderError, NetworkWeights, Weights, Yuan, YuanConfig

TOKENIZER_FOLDER = "tokenizer"
"""Where a model artifact keeps its tokenizer."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}
"""Number formats by the names that manifests have for them; of int8 (weights alone), what it is computed with."""


@dataclass(frozen=True)
class LoadedModel:
    """What continuing text needs.

    Attributes:
        source: the network in eval mode, on its device; or a folder's weights, not read before they are needed.
        tokenizer: cuts prompts and spells answers.
        int8: its matrices are to be held in 8 bits, one scale an output, when it is served.
    """

    source: Yuan | FolderWeights
    tokenizer: Tokenizer
    int8: bool = False

    @cached_property
    def model(self) -> Yuan:
        """The network; read by the first who asks. Who packs weights does not.

        Raises:
            InputError: if a file cannot be read.
        """
        if isinstance(self.source, Yuan):
            return self.source
        try:
            return self.source.network()
        except ModelFolderError as error:
            raise InputError(str(error)) from error

    @cached_property
    def weights(self) -> Weights:
        """Its weights, one at a time."""
        return NetworkWeights(self.source) if isinstance(self.source, Yuan) else self.source

    def watched(self, watch: Callable[[float], None] | None) -> "LoadedModel":
        """Returns the same model; a function is called with the part of its weights that has been read."""
        if isinstance(self.source, FolderWeights):
            self.source.watch = watch
        return self

    @property
    def config(self) -> YuanConfig:
        """Of the network."""
        return self.source.config

    @property
    def context(self) -> int:
        """Tokens of prompt and continuation together, at most."""
        return self.config.max_position_embeddings

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a document."""
        own = self.config.eod_token_id
        return frozenset({self.tokenizer.eod_id} | (set() if own is None else {own}))


def load(
    folder: Path, tokenizer_path: Path | None = None, device: str = "auto", dtype: str | None = None
) -> LoadedModel:
    """Opens a model folder and loads its tokenizer; weights are read where they are needed.

    Args:
        folder: native or Hugging Face.
        tokenizer_path: a tokenizer folder or model file; None: `tokenizer/` in the model's folder, or the
            `tokenizer.model` beside its weights, where published models have it.
        device: as `open_for_inference` takes it.
        dtype: a key of `DTYPES`; None: fp32 on a processor, as stored on CUDA.

    Raises:
        InputError: if either is missing or wrong, or the model has fewer ids than the tokenizer.
    """
    tokenizer = Tokenizer.load(tokenizer_path or find_tokenizer(folder))
    weights = open_for_inference(folder, device, None if dtype is None else DTYPES[dtype])
    if tokenizer.vocab_size > weights.config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model only "
            f"{weights.config.vocab_size} (vocab_size); they do not belong together"
        )
    return LoadedModel(weights, tokenizer, int8=dtype == "int8")


def find_tokenizer(folder: Path) -> Path:
    """Returns the tokenizer folder that belongs to a model folder.

    Raises:
        InputError: if there is none.
    """
    for place in (folder / TOKENIZER_FOLDER, folder):
        if (place / "tokenizer.model").is_file():
            return place
    raise InputError(
        f"{folder}: has no {TOKENIZER_FOLDER}/tokenizer.model; put its tokenizer's folder there, or name it with "
        "--tokenizer PATH_OR_ARTIFACT (yuan generate)"
    )
