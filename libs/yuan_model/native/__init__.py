"""The step of a network in C++, compiled where it runs: `building` compiles, `runner` calls."""

from yuan_model.native.building import NativeUnavailable, native_library
from yuan_model.native.drawing import native_draw, native_places
from yuan_model.native.runner import NativeRunner

__all__ = ["NativeRunner", "NativeUnavailable", "native_draw", "native_library", "native_places"]
