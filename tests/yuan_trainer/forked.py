"""Ranks as forks of one process that has imported everything: a run in a second, where importing takes ten.

    python forked.py    takes lines of JSON, {"specification": PATH, "ranks": N, "logs": DIR, "environment": {}};
                        answers {"codes": [...]}

The ranks are the real ones (`yuan_trainer.rank`, gloo, DeepSpeed); only how they are started differs from the launcher,
which other tests run. Rank n writes its events to DIR/events-n.jsonl.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Serves until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print while they are imported
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "YUAN_LEASE_SECONDS": "900"}
    import yuan_trainer.engine
    import yuan_trainer.pretrain  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        codes = run(job["specification"], job["ranks"], Path(job["logs"]), job["environment"])
        print(json.dumps({"codes": codes}), file=answers, flush=True)


def run(specification: str, ranks: int, logs: Path, environment: dict[str, str]) -> list[int]:
    """Returns the exit codes of a run's ranks; the first that fails ends the others."""
    logs.mkdir(parents=True, exist_ok=True)
    meeting = os.memfd_create("meeting")
    children: dict[int, int] = {}
    alive, held = os.pipe()  # ranks end when this end is closed
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.close(held)
            os.environ |= environment | {"YUAN_CONTROL_FD": str(alive), "YUAN_MEETING_FILE": f"/proc/self/fd/{meeting}"}
            become(rank, ranks, specification, logs)
        children[child] = rank
    codes = [0] * ranks
    while children:
        child, status = os.wait()
        codes[children.pop(child)] = os.waitstatus_to_exitcode(status)
        if held >= 0 and codes.count(0) != ranks:
            os.close(held)
            held = -1
    for descriptor in (alive, meeting, *([held] if held >= 0 else [])):
        os.close(descriptor)
    return codes


def become(rank: int, ranks: int, specification: str, logs: Path) -> None:
    """Makes this process a rank; does not return."""
    events = os.open(logs / f"events-{rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    output = os.open(logs / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {
        "YUAN_EVENTS_FD": str(events),
        "GLOO_SOCKET_IFNAME": "lo",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
    }
    sys.argv[1:] = [specification]
    from yuan_trainer import rank as program

    program.main()


if __name__ == "__main__":
    main()
