"""What `yuan` alone says: what it is for, the first minutes, and where things are kept."""

COMMAND_NAMES = ("run", "validate", "artifacts", "show", "generate", "version")

HELP = """Train and serve language models of the Yuan 2.0 family, from raw text to generated answers.

\b
A manifest (a YAML file) says what to do; yuan does it and keeps what comes out as a versioned artifact:
  raw text -> tokenizer -> dataset -> model -> generated text

\b
Four things to do with it:
  yuan run MANIFEST            do what a manifest says; run again, it goes on or finds that it is done
  yuan validate MANIFEST       check a manifest and see what it comes to
  yuan artifacts, yuan show    see what was made, from what, and where it is
  yuan generate MODEL "…"      let a model go on from a prompt

\b
The first minutes:
  yuan run configs/pipelines/demo.yaml                        a small model, from text to answers
  yuan artifacts                                              what that made
  yuan generate demo "def main(" --stream                     ask the model yourself
  yuan run configs/jobs/pretrain-demo.yaml train.steps=50     any value can be changed on the way
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

SHOW_HELP = """Show one artifact: where it came from, its files, its uses.

\b
  yuan show model/demo
  yuan show model/demo@1 --verify
"""

GENERATE_HELP = """Let a model go on from a prompt; prints the continuation only.

\b
  yuan generate demo "def main(" --stream
"""
