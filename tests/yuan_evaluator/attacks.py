"""Programs that try to break out, what must become of each, and a command that runs them all; stdlib and ours alone.

`python attacks.py BACKEND|SOCKET` runs as any user: the tests start it as one who is not root.
"""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from yuan_evaluator.sandbox.backends import Backend
from yuan_evaluator.sandbox.limits import Limits, Verdict
from yuan_evaluator.sandbox.pool import Sandbox

SECRET = "a-token-of-the-parent-9d1c"
LIMITS = Limits(wall_seconds=20, cpu_seconds=20, memory_mib=256, processes=20, file_mib=8, output_mib=4)
SHORT = Limits(wall_seconds=1.5, cpu_seconds=20, memory_mib=256, processes=20, file_mib=8, output_mib=4)

ATTACKS = {
    "forks without end": """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        count += 1
except OSError:
    print("stopped at", count)
""",
    "forks that fork": "import os\nwhile True:\n    os.fork()\n",
    "allocates 100 GB": "bytearray(100 << 30)",
    "allocates by many hands": """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(b"x") * (100 << 20)
        time.sleep(600)
time.sleep(600)
""",
    "fills the disk": """
import itertools
written = 0
try:
    for number in itertools.count():
        with open(f"file{number}", "wb") as file:
            for _ in range(7):
                file.write(bytes(1 << 20))
                written += 1 << 20
            file.flush()
        if written > 10 << 30: break
except OSError as error:
    print("stopped at", written >> 20)
""",
    "writes a large file": "open('large', 'wb').write(bytes(20 << 20))",
    "opens sockets": """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17, 40):
    for kind in (1, 2, 3):
        try:
            made = socket.socket(family, kind)
            if (family, kind) == (socket.AF_INET, 1):
                made.connect(("127.0.0.1", PORT))
            print("BREACH", family, kind)
        except OSError:
            pass
""",
    "reads what is not its own": """
import glob
others = [path for kind in ("environ", "mem") for path in glob.glob(f"/proc/[0-9]*/{kind}")]
for name in ["/etc/shadow", "/root/.bashrc", SECRET_FILE, *others]:
    try:
        with open(name, "rb") as file:
            print(file.read(100_000))
    except (OSError, ValueError):
        pass
import os
print(dict(os.environ))
""",
    "kills its parent": """
import os, signal
for target in (os.getppid(), 1, PARENT):
    try:
        if target: os.kill(target, signal.SIGKILL)
    except OSError:
        pass
""",
    "kills everyone": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "ignores SIGTERM": """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
time.sleep(600)
""",
    "writes outside": """
import os
for folder in ("/", "/usr", "/usr/bin", "/etc", "/var", "/root", "/home", "/work", "/run", "/run/sandbox", OUTSIDE,
               "/proc/sys/kernel"):
    try:
        with open(os.path.join(folder, "breach"), "w") as file:
            file.write("x")
        print("BREACH", folder)
    except OSError:
        pass
""",
    "prints 10 GB": "import sys\nfor _ in range(10_000): sys.stdout.write('x' * (1 << 20))",
    "leaves a daemon": """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(INTERPRETER, ["left-behind-MARK", "-I", "-S", "-c", "import time; time.sleep(600)"])
    os._exit(0)
time.sleep(0.3)
""",
    "leaves a word in shared memory": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, arguments in (("shmget", (4711, 4096, 0o1666)), ("msgget", (4711, 0o1666)), ("semget", (4711, 1, 0o1666)),
                        ("mq_open", (b"/breach", 0o102, 0o666, None))):
    if getattr(libc, name)(*arguments) >= 0:
        print("BREACH", name)
""",
    "asks for privileges": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, arguments in (("unshare", (0x10000000,)), ("mount", (None, b"/", None, 0, None)), ("chroot", (b"/",)),
                        ("ptrace", (16, 1, 0, 0)), ("setuid", (0,)), ("sethostname", (b"x", 1))):
    if getattr(libc, name)(*arguments) == 0:
        print("BREACH", name)
""",
}


def run_all(sandbox: Sandbox, *without: str) -> dict[str, dict[str, object]]:
    """Runs every attack but some; returns the verdicts, with what was found outside afterwards."""
    folder = Path(tempfile.mkdtemp())
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    found: dict[str, dict[str, object]] = {}
    mark = f"MARK-{os.getpid()}"
    for name, text in ATTACKS.items():
        if name in without:
            continue
        constants = {"PORT": 1, "SECRET_FILE": str(secret), "PARENT": os.getpid(), "OUTSIDE": str(folder)}
        head = "".join(f"{key} = {value!r}\n" for key, value in constants.items())
        head += "import sys; INTERPRETER = sys.executable or '/proc/self/exe'\n"
        limits = SHORT if name in ("ignores SIGTERM", "forks that fork") else LIMITS
        verdict: Verdict = sandbox.run(head + text.replace("MARK", mark), limits)
        found[name] = {"outcome": verdict.outcome, "detail": verdict.detail, "output": verdict.output}
        found[name]["seconds"] = verdict.seconds
        after = sandbox.run("print('alive')", LIMITS)
        found[name]["lives"] = after.passed and after.output == "alive\n"
    found["outside"] = {"left": _left(mark), "files": sorted(path.name for path in folder.iterdir())}
    return found


def _left(mark: str) -> list[str]:
    end = time.monotonic() + 5
    while True:
        left = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if mark in (text := path.read_bytes().decode("utf-8", "replace")):
                    left.append(text)
            except OSError:
                pass
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.1)


if __name__ == "__main__":
    os.environ["PARENT_SECRET"] = SECRET
    where = sys.argv[1]
    with Sandbox(Backend.user, where) if "/" in where else Sandbox(Backend(where)) as sandbox:
        reason = sandbox.probe()
        for _ in range(60):  # what else a user runs counts for no program's limit
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
        sys.stdout.write(json.dumps({"refused": reason} if reason else run_all(sandbox)))
