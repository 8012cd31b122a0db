"""What `yuan` alone says: what it is for, the first minutes, and where things are kept."""

COMMAND_NAMES = (
    "run",
    "validate",
    "plan",
    "artifacts",
    "show",
    "convert",
    "inspect",
    "generate",
    "data",
    "deploy",
    "undeploy",
    "chat",
    "bench",
    "evaluate",
    "up",
    "down",
    "status",
    "doctor",
    "submit",
    "apply",
    "jobs",
    "logs",
    "cancel",
    "resume",
    "wait",
    "lineage",
    "diff",
    "gc",
    "backup",
    "restore",
    "upgrade",
    "schedule",
    "schedules",
    "unschedule",
    "token",
    "audit",
    "request",
    "version",
)

HELP = """Train and serve language models of the Yuan 2.0 family, from raw text to generated answers.

\b
A manifest (a YAML file) says what to do; yuan does it and keeps what comes out as a versioned artifact:
  raw text -> tokenizer -> dataset -> model -> generated text

\b
The four things it is for, with a stack of services on this machine (yuan up --detach; yuan status; yuan down):
  yuan submit MANIFEST --watch          put a job on the queue and see what happens; Ctrl-C leaves it at work
  yuan deploy MODEL, yuan generate "…"  serve a model, ask it over gRPC; yuan chat talks, yuan bench loads it
  make compose-up                       the same stack with docker-compose: -f configs/clusters/compose.yaml
  yuan resume JOB topology.…=…          go on under another topology; yuan up again after editing services

\b
What became of it:
  yuan jobs, yuan show JOB              what was submitted, and how it stands
  yuan wait JOB, yuan logs -f JOB       follow it: its events, what its processes print
  yuan cancel JOB, yuan resume JOB      end it; go on from its last checkpoint
  yuan artifacts, yuan show ARTIFACT    what was made, from what, and where it is
  yuan data show|sample|report DATASET  what is in a dataset, token by token where you like
  yuan lineage ARTIFACT, yuan diff J J  where it comes from; in what two jobs differ
  yuan request new|list|show|accept     what a model should learn, taken up by a monthly cycle
  yuan gc --dry-run                     what is not kept any longer
  yuan doctor                           what is wrong with this machine or its stack, and the mend
  yuan token new NAME, yuan audit       who else may call, with which role; who did what

\b
Without a stack, in the foreground:
  yuan run configs/pipelines/demo.yaml                        a small model from text, and its loss curve
  yuan generate demo "def main(" --stream                     ask the model yourself
  yuan run configs/jobs/pretrain-demo.yaml train.steps=50     any value can be changed on the way
  yuan evaluate demo --suite yuan --data FOLDER               benchmarks, scored; programs run in a sandbox
  yuan validate MANIFEST                                      check a manifest and see what it comes to
  yuan plan MANIFEST                                          predict a training: memory, time, days, and what to mend
  yuan convert SOURCE --to megatron --tensor 2 --out FOLDER   a checkpoint in another layout or division
  yuan inspect CHECKPOINT                                     what a checkpoint is, whatever its layout
  cp configs/jobs/pretrain-demo.yaml mine.yaml                the start of your own

\b
Where things are:
  configs/      manifests: jobs, models, pipelines, clusters; a cluster manifest (-f) says where to run
  ~/.yuan       everything made: store/ (artifacts), runs/ (checkpoints, logs), registry.db
                another place: export YUAN_HOME=FOLDER

Exit codes: 0 done, 1 it failed, 2 bad input, 130 interrupted.
"""

RUN_HELP = """Run a job or a pipeline here and now, and wait for it.

What was done before with the same recipe and inputs is not done again; what failed or was interrupted goes on.

\b
  yuan run configs/pipelines/demo.yaml
  yuan run configs/pipelines/demo.yaml pretrain.train.steps=50
  yuan run configs/jobs/pretrain-demo.yaml topology.parallel.pipeline=2 topology.parallel.stages=[1,3]
"""

SHOW_HELP = """Show one artifact (where it came from, its files, its uses) or one job (how it stands, its recipe).

\b
  yuan show model/demo
  yuan show model/demo@1 --verify
  yuan show pretrain-demo-1kj4
"""
