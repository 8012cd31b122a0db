"""Weights by their native names, one at a time: of a network in memory, or of a folder, read as they are asked for.

Who packs weights goes from one to the next and keeps none, so that a model is never in memory twice. A rank of several
reads its part alone; which dimension of what is divided is `yuan_parallel`'s to say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from yuan_model.config import YuanConfig
from yuan_model.folder import ModelFolder, parameter_shapes
from yuan_model.model import Yuan

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Division:
    """Which part of every divided matrix a rank has.

    Attributes:
        size: ranks that share the matrices.
        rank: this one among them.
        dimension: along which a parameter is divided, by its native name; None: every rank has it whole.
    """

    size: int = 1
    rank: int = 0
    dimension: Callable[[str], int | None] = lambda name: None

    def rows(self, vocabulary: int) -> tuple[int, int]:
        """Returns the first token whose logits this rank computes, and the one behind its last."""
        return vocabulary * self.rank // self.size, vocabulary * (self.rank + 1) // self.size


WHOLE = Division()
"""One process has everything."""


class Weights(Protocol):
    """What a network's numbers are read from.

    Attributes:
        config: of the whole network.
        division: this rank's part; the embedding is whole, since every rank looks tokens up.
    """

    config: YuanConfig
    division: Division

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in."""
        ...

    @property
    def device(self) -> torch.device:
        """Where."""
        ...

    def tensor(self, name: str) -> Tensor:
        """Returns (this rank's part of) a parameter in `dtype` on `device`."""
        ...

    def embedding(self) -> Tensor:
        """Returns the whole embedding [v, h], whose numbers are those of `dtype`, if held in fewer bits."""
        ...


class NetworkWeights:
    """The weights of a whole network in memory."""

    def __init__(self, model: Yuan) -> None:
        self.config = model.config
        self.division = WHOLE
        self._parameters = dict(model.named_parameters())

    @property
    def dtype(self) -> torch.dtype:
        """Of the embedding."""
        return self._parameters[EMBEDDING].dtype

    @property
    def device(self) -> torch.device:
        """Of the embedding."""
        return self._parameters[EMBEDDING].device

    def tensor(self, name: str) -> Tensor:
        """Returns a parameter; not a copy."""
        return self._parameters[name].detach()

    def embedding(self) -> Tensor:
        """Returns the embedding; not a copy."""
        return self.tensor(EMBEDDING)


class FolderWeights:
    """The weights of a folder, mapped into memory: what is not looked at takes none, what is given back is free again.

    Attributes:
        folder: where they are.
        watch: called with the part of all bytes that have been asked for, 0 to 1, after each tensor.
    """

    def __init__(
        self,
        folder: ModelFolder,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        division: Division = WHOLE,
    ) -> None:
        """Reads nothing yet.

        Args:
            folder: checked.
            dtype: to compute in; None: each as stored.
            device: where tensors go.
            division: this rank's part.
        """
        self.folder, self.config, self.division = folder, folder.config, division
        self.watch: Callable[[float], None] | None = None
        self._dtype, self._device = dtype, torch.device(device)
        self._bytes = {name: shape.numel() for name, shape in parameter_shapes(self.config).items()}
        self._left = dict(self._bytes)

    @property
    def dtype(self) -> torch.dtype:
        """As asked for, else that of the stored embedding."""
        return self._dtype or self.folder.dtype(EMBEDDING)

    @property
    def device(self) -> torch.device:
        """As asked for."""
        return self._device

    def tensor(self, name: str) -> Tensor:
        """Returns this rank's part of a parameter; of what needs no conversion, the file's own bytes.

        Raises:
            ModelFolderError: if the file cannot be read any more.
        """
        division, dimension = self.division, self.division.dimension(name)
        if division.size == 1 or dimension is None or name == EMBEDDING:
            read = self.folder.tensor(name)
        else:
            part = parameter_shapes(self.config)[name][dimension] // division.size
            read = self.folder.part(name, dimension, division.rank * part, (division.rank + 1) * part).contiguous()
        self._tell(name)
        return read.to(device=self._device, dtype=self._dtype)

    def embedding(self) -> Tensor:
        """Returns the whole embedding: stays mapped, so that only rows of tokens that come take memory.

        Raises:
            ModelFolderError: if the file cannot be read any more.
        """
        stored = self.folder.tensor(EMBEDDING)
        widened = stored.dtype == torch.bfloat16 and self.dtype == torch.float32
        return stored if widened and self._device.type == "cpu" else stored.to(device=self._device, dtype=self.dtype)

    def network(self) -> Yuan:
        """Returns the whole network in eval mode.

        Raises:
            ModelFolderError: if a file cannot be read.
        """
        with torch.inference_mode(False):  # read while decoding, it must serve training too
            model = empty_network(self.config)
            model.load_state_dict({name: self.tensor(name) for name in self._bytes}, strict=True, assign=True)
        return model.eval()

    def _tell(self, name: str) -> None:
        self._left.pop(name, None)
        if self.watch is not None:
            self.watch(1.0 - sum(self._left.values()) / sum(self._bytes.values()))


def empty_network(config: YuanConfig) -> Yuan:
    """Returns a network without memory and without random numbers: every parameter is to be assigned."""
    with torch.device("meta"):
        return Yuan(config)
