"""Teaching requests of a stack, as a Python program sees them: file, edit, review, look; over gRPC.

Any job server of the cluster answers, as for jobs (`client.py`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from yuan_jobs.client import JobClient
from yuan_jobs.teaching import NewRequest, RequestState
from yuan_jobs.teaching_messages import request_state_numbers, text_message
from yuan_rpc.cotraining.v1 import cotraining_pb2, cotraining_pb2_grpc

_PAGE = 200


@dataclass(frozen=True)
class TeachingClient:
    """Calls the servers that a job client reaches.

    Attributes:
        jobs: that client; it is its owner's to close.
        by: who calls, where the token is the stack's own.
    """

    jobs: JobClient
    by: str = ""

    def file(self, asked: NewRequest) -> cotraining_pb2.TeachingRequest:
        """Files a request.

        Raises:
            RpcRefused: if something is wrong with it, or the same is asked for already.
        """
        with self.jobs.answering() as connection:
            stub = connection.stub(cotraining_pb2_grpc.CotrainingServiceStub)
            return stub.File(cotraining_pb2.FileRequest(text=text_message(asked), by=self.by)).request

    def edit(self, request_id: str, asked: NewRequest) -> cotraining_pb2.TeachingRequest:
        """Puts another text in place of a request's."""
        with self.jobs.answering() as connection:
            stub = connection.stub(cotraining_pb2_grpc.CotrainingServiceStub)
            message = cotraining_pb2.EditRequest(id=request_id, text=text_message(asked), by=self.by)
            return stub.Edit(message).request

    def review(self, request_id: str, revision: int, *, accept: bool, why: str) -> cotraining_pb2.TeachingRequest:
        """Accepts or rejects the revision of a request that was read."""
        with self.jobs.answering() as connection:
            stub = connection.stub(cotraining_pb2_grpc.CotrainingServiceStub)
            message = cotraining_pb2.ReviewRequest(id=request_id, accept=accept, why=why, revision=revision, by=self.by)
            return stub.Review(message).request

    def get(self, request_id: str) -> cotraining_pb2.TeachingRequest:
        """Returns a request, by its id or the unique beginning of it."""
        with self.jobs.answering() as connection:
            stub = connection.stub(cotraining_pb2_grpc.CotrainingServiceStub)
            return stub.Get(cotraining_pb2.GetRequest(id=request_id)).request

    def list(self, states: Iterable[RequestState] = ()) -> Iterator[cotraining_pb2.TeachingRequest]:
        """Yields requests, newest first."""
        message = cotraining_pb2.ListRequest(states=request_state_numbers(states), page_size=_PAGE)
        while True:
            with self.jobs.answering() as connection:
                reply = connection.stub(cotraining_pb2_grpc.CotrainingServiceStub).List(message)
            yield from reply.requests
            if not reply.next_page_token:
                return
            message.page_token = reply.next_page_token
