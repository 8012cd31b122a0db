"""C++ compiled where it runs: `building` compiles it; `runner` is a served network's step, `training` parts of training.

`runner` is imported from where it stands: it knows the network, which `training` is a part of.
"""

from yuan_model.native.building import NativeUnavailable, native_library

__all__ = ["NativeUnavailable", "native_library"]
