"""Which calls a client may repeat, and how long it waits for an answer.

Only unary calls that change nothing are here: repeating one after UNAVAILABLE cannot do anything twice. `Submit` is
not, since a forced one starts a job each time; whoever gives it an idempotency key may repeat it. Health is not either:
it is asked to learn whether a server is there, and who waits for one asks again of itself.
"""

import json

IDEMPOTENT: dict[str, tuple[str, ...]] = {
    "yuan.converter.v1.ConverterService": ("InspectCheckpoint",),
    "yuan.cotraining.v1.CotrainingService": ("Get", "List"),
    "yuan.data.v1.DataService": ("DescribeDataset", "Tokenize", "Detokenize"),
    "yuan.inference.v1.InferenceService": (
        "Tokenize",
        "Detokenize",
        "GetModelInfo",
        "GetServerInfo",
        "GetLoads",
        "GetMetrics",
    ),
    "yuan.jobs.v1.JobService": ("Get", "List", "ListArtifacts", "GetArtifact", "GetStatus"),
}
"""Methods by service that change nothing."""

UNARY_SECONDS = 30.0
"""Deadline of a unary call that names none."""

SECONDS: dict[str, float] = {
    # A whole continuation, and weights of any size, take as long as they take; callers that know better say so.
    "/yuan.inference.v1.InferenceService/Generate": 600.0,
    "/yuan.inference.v1.InferenceService/Score": 600.0,
    "/yuan.inference.v1.InferenceService/LoadModel": 1800.0,
}
"""Deadlines of methods that take longer, by full name."""


def service_config() -> str:
    """Returns gRPC's service config: idempotent calls are tried up to four times within about a second."""
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [{"service": service, "method": method} for service, methods in IDEMPOTENT.items() for method in methods]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy, "waitForReady": False}]})
