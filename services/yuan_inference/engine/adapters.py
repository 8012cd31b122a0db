"""LoRA adapters by name: low-rank additions that requests choose, computed in the same step as those without.

Read from what a fine-tuning of method lora leaves beside its merged model: `adapter.safetensors` (native names with
`lora_a` [rank, inputs] and `lora_b` [outputs, rank]) and `adapter_config.json` (rank, alpha).
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from yuan_events import InputError
from yuan_model import AdapterRunner, Factors, Runner, YuanConfig

ADAPTER_FILE = "adapter.safetensors"
CONFIG_FILE = "adapter_config.json"


class Adapters:
    """The adapters of one engine; to be changed in its thread, between steps.

    Attributes:
        folders: where each was read from, by name.
    """

    def __init__(self, runner: Runner, config: YuanConfig) -> None:
        """Args: runner: computes with them. config: of the model that they belong to."""
        self._runner, self._config = runner, config
        self._numbers: dict[str, int] = {}
        self.folders: dict[str, Path] = {}
        self._retired: list[int] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names that requests may ask for."""
        return tuple(sorted(self._numbers))

    def number(self, name: str) -> int | None:
        """Returns an adapter's number in the runner."""
        return self._numbers.get(name)

    def add(self, new: Mapping[str, list[Factors]]) -> dict[str, int]:
        """Gives adapters to the runner, all of them or none, and returns their numbers; nobody can ask for them yet.

        Raises:
            InputError: if the runner computes none.
        """
        runner = _able(self._runner)
        added: dict[str, int] = {}
        try:
            for name, layers in new.items():
                added[name] = runner.add_adapter(layers)
        except BaseException:
            for number in added.values():
                runner.remove_adapter(number)
            raise
        return added

    def change(self, folders: Mapping[str, Path], added: Mapping[str, int], used: Collection[int]) -> None:
        """Makes known what was added, and forgets what is wanted no more. Requests finish with what they began with.

        Args:
            folders: of all adapters that are wanted, by name.
            added: numbers of the new ones, in place of those that have their names.
            used: numbers that requests have.
        """
        for name in [name for name in self._numbers if name in added or name not in folders]:
            self._retired.append(self._numbers.pop(name))
        self._numbers |= added
        self.folders = dict(folders)
        self._free(used)

    def _free(self, used: Collection[int]) -> None:
        runner = _able(self._runner)
        for number in [number for number in self._retired if number not in used]:
            runner.remove_adapter(number)
            self._retired.remove(number)


def read_adapter(folder: Path, config: YuanConfig) -> list[Factors]:
    """Reads an adapter for a model.

    Raises:
        InputError: naming the file or tensor that is missing, unknown, or of another model's shape.
    """
    try:
        values: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        scale = float(values["alpha"]) / int(values["rank"])
        tensors = load_file(folder / ADAPTER_FILE)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: missing; {folder} holds no LoRA adapter") from error
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as error:
        raise InputError(f"{folder}: no readable LoRA adapter: {error}") from error
    shapes = _shapes(config)
    layers: list[Factors] = [{} for _ in range(config.num_hidden_layers)]
    for name, a in tensors.items():
        matrix, _, last = name.rpartition(".")
        parts = matrix.split(".", 3)
        known = len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[2].isdigit() and parts[3] in shapes
        if last not in {"lora_a", "lora_b"} or not known or int(parts[2]) >= len(layers):
            raise InputError(f"{folder / ADAPTER_FILE}: {name} belongs to no matrix of this model")
        if last == "lora_b":
            continue
        b = tensors.get(f"{matrix}.lora_b")
        outputs, inputs = shapes[parts[3]]
        if b is None or a.dim() != 2 or a.shape[1] != inputs or b.shape != (outputs, a.shape[0]):
            raise InputError(
                f"{folder / ADAPTER_FILE}: {matrix}: expected lora_b [{outputs}, r] and lora_a [r, {inputs}]"
            )
        layers[int(parts[2])][parts[3]] = (a.float(), scale * b.float())
    return layers


def _shapes(config: YuanConfig) -> dict[str, tuple[int, int]]:
    hidden, feed_forward = config.hidden_size, config.intermediate_size
    return {
        "self_attn.qk_proj": (2 * hidden, hidden),
        "self_attn.v_proj": (hidden, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.up_proj": (feed_forward, hidden),
        "mlp.gate_proj": (feed_forward, hidden),
        "mlp.down_proj": (hidden, feed_forward),
    }


def _able(runner: Runner) -> AdapterRunner:
    if not isinstance(runner, AdapterRunner):
        raise InputError(
            "adapters need the compiled step (g++, a processor, fp32, bf16 or int8); serve the merged model"
        )
    return runner
