"""Keeps gRPC's C core from writing on stderr what calls report anyway; to be imported before `grpc` is.

A client whose TLS handshake fails would print four lines of the core's log before its one line. The core reads the
variable once, when it is loaded; a GRPC_VERBOSITY that is set already stays.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
