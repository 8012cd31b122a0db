"""`python -m yuan_data run MANIFEST [key=value …] | server | worker`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from yuan_data.gather import gather_work
from yuan_data.text import fingerprint_of_text
from yuan_data.tokenize_text import tokenize_part, tokenize_work
from yuan_data.train_tokenizer import tokenizer_work
from yuan_jobs import Work, service_main
from yuan_manifest.schema import Kind

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext
    from yuan_rpc import Mount


def _mounts(context: "ServerContext") -> "Sequence[Mount]":
    from yuan_data.server import mounts  # noqa: PLC0415 - loads gRPC

    return mounts(context)


# Whoever imports this file wants the functions, not the job.
if __name__ == "__main__":
    service_main(
        "data",
        {
            Kind.tokenizer: Work(run=tokenizer_work, fingerprint=fingerprint_of_text),
            Kind.gather: Work(run=gather_work),
            Kind.tokenize: Work(run=tokenize_work, fingerprint=fingerprint_of_text, part=tokenize_part),
        },
        mounts=_mounts,
    )
