"""C++ compiled where it runs: `building` compiles, `runner` serves networks, `training` is part of a training step.

`runner` is imported from where it stands: it knows the network, which `training` is a part of.
"""

from yuan_model.native.building import NativeUnavailable, native_library
from yuan_model.native.drawing import native_draw, native_places

__all__ = ["NativeUnavailable", "native_draw", "native_library", "native_places"]
