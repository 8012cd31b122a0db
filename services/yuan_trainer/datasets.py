"""What a run must know of its datasets before it starts, and who says it.

In a stack the data service is asked (`DescribeDataset`): it answers for datasets, and one that it does not know as the
run does is refused before any rank starts. Without a stack the dataset's own files say the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

from yuan_corpus import DatasetStatistics
from yuan_events import InputError
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import Cluster, TrainingJob

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class DatasetFacts:
    """What decides whether a dataset fits a run.

    Attributes:
        reference: `dataset/name@version`.
        tokenizer_digest: digest of the tokenizer artifact that cut it.
        vocab_size: every id is below it.
    """

    reference: str
    tokenizer_digest: str
    vocab_size: int


def read_facts(context: WorkContext[TrainingJob]) -> list[DatasetFacts]:
    """Returns the facts of a run's datasets, in the manifest's order.

    Raises:
        InputError: if the data service knows a dataset as another one, or not at all.
        RpcFailed: if the data service cannot be asked.
    """
    if context.cluster is None:
        return [_facts_of_files(dataset) for dataset in context.datasets]
    return _facts_of_service(context.cluster, context.datasets, context.should_stop)


def _facts_of_files(dataset: ArtifactHandle) -> DatasetFacts:
    return DatasetFacts(
        reference=dataset.reference,
        tokenizer_digest=dataset.metadata["inputs"]["tokenizer"]["digest"],
        vocab_size=DatasetStatistics.read(dataset.path).vocab_size,
    )


def _facts_of_service(
    cluster: Cluster, datasets: tuple[ArtifactHandle, ...], should_stop: Callable[[], bool]
) -> list[DatasetFacts]:
    from yuan_rpc import connect  # noqa: PLC0415 - a run without a stack needs no gRPC
    from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc  # noqa: PLC0415

    found: list[DatasetFacts] = []
    with connect("data", cluster) as connection:
        # A server that is just being restarted is no reason to fail a job; one that stays away is, in the call below.
        connection.wait_until_serving(PATIENCE_SECONDS, give_up=should_stop)
        stub = connection.stub(data_pb2_grpc.DataServiceStub)
        for dataset in datasets:
            with connection.errors():
                said = stub.DescribeDataset(data_pb2.DescribeDatasetRequest(dataset=dataset.reference))
            if said.digest != dataset.digest:
                raise InputError(
                    f"inputs.datasets: the data service at {connection.server} has another {dataset.reference} than "
                    "this worker: their registries or stores differ; see cluster.registry and cluster.store of both"
                )
            found.append(DatasetFacts(said.reference, said.tokenizer_digest, said.vocab_size))
    return found
