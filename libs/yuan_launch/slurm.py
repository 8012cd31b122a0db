"""The batch script of a run under Slurm: one agent a host, whole hosts unless the options say otherwise.

Every value that a user gave stands quoted, but for the lines of `prologue`, which are shell by their nature.
"""

import re
import shlex

from yuan_launch.agents import MODULE, Agents
from yuan_manifest.schema import SlurmSection

_OWN_SHARE = re.compile(r"--(exclusive|oversubscribe|cpus-per-[a-z]+|mincpus|mem(-per-[a-z]+)?)(=|$)")

_TEMPLATE = """\
#!/bin/bash
# Yuan Stack: {what}.
{directives}
{prologue}
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun --kill-on-bad-exit=1 --cpu-bind=none \\
  {agent} --address "$first"
"""


def slurm_script(agents: Agents, section: SlurmSection) -> str:
    """Returns the script for `sbatch`."""
    options = {
        "job-name": f"yuan-{agents.name}",
        "nodes": agents.hosts,
        "ntasks": agents.hosts,
        "ntasks-per-node": 1,
        "gpus-per-node": agents.devices if agents.cuda else None,
        "partition": section.partition,
        "account": section.account,
        "time": section.time,
        # % begins a pattern in the names of Slurm's output files.
        "output": str(agents.folder / "slurm.log").replace("%", "%%"),
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    given += ["--open-mode=append", "--no-requeue"]  # Yuan Stack's own queue decides what is run again
    if not any(_OWN_SHARE.match(option) for option in section.options):
        given.append("--exclusive")
    return _TEMPLATE.format(
        what=f"{agents.name} on {agents.hosts} host{'s' if agents.hosts > 1 else ''}, {agents.devices} devices each",
        directives="\n".join(f"#SBATCH {shlex.quote(option)}" for option in [*given, *section.options]),
        prologue="\n".join(section.prologue),
        agent=shlex.join([agents.python, "-m", MODULE, str(agents.folder), "--index-from", "SLURM_NODEID"]),
    )
