"""A server has room for more connections than a shell gives it."""

import subprocess
import sys

PROGRAM = """
import resource
from yuan_rpc.open_files import allow_many_connections
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
limit = allow_many_connections()
assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0], limit
assert limit > 64
assert limit == hard or limit == 65536
assert allow_many_connections() == limit
"""


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
