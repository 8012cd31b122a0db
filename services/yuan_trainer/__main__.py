"""`python -m yuan_trainer run MANIFEST [key=value …]`."""

from yuan_jobs import Work, service_main
from yuan_manifest.schema import Kind
from yuan_trainer.work import pretrain_work

if __name__ == "__main__":
    service_main("trainer", {Kind.pretrain: Work(run=pretrain_work)})
