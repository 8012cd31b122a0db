"""Who may call what: one table of all methods, which every server's interceptor and the gateway go by.

A method that stands in no row is the admin's. A row also says whether a call changes anything, and which fields of its
request and reply name what it is about: that is what the audit log tells.
"""

from dataclasses import dataclass

from yuan_manifest.schema import Role

_RANKS = {Role.viewer: 0, Role.operator: 1, Role.admin: 2}


@dataclass(frozen=True)
class Rule:
    """What holds for one method.

    Attributes:
        role: that a caller needs at least.
        changes: whether a call that goes well has changed something that others see.
        about: paths of fields that name its object (`job.name`), of the request, else of the reply; those are told
            that are there and not empty.
    """

    role: Role
    changes: bool = False
    about: tuple[str, ...] = ()


_READ = Rule(Role.viewer)
# Looks into any folder that the server sees, not only into what is published.
_LOOK = Rule(Role.operator)

UNKNOWN = Rule(Role.admin, changes=True)
"""Of methods without a row."""

HEALTH = "/grpc.health.v1.Health/"
"""Methods that need no token: probes of container engines have none."""

_SERVICES: dict[str, dict[str, Rule]] = {
    "yuan.jobs.v1.JobService": {
        "Submit": Rule(Role.operator, changes=True, about=("job.id", "job.kind", "job.name")),
        "Get": _READ,
        "List": _READ,
        "Watch": _READ,
        "StreamLogs": _READ,
        "Cancel": Rule(Role.operator, changes=True, about=("id",)),
        "Resume": Rule(Role.operator, changes=True, about=("id",)),
        "PutSchedule": Rule(Role.operator, changes=True, about=("schedule.name", "job.kind", "job.name")),
        "ListSchedules": _READ,
        "DeleteSchedule": Rule(Role.operator, changes=True, about=("name",)),
        "ListArtifacts": _READ,
        "GetArtifact": _READ,
        "CollectGarbage": Rule(Role.admin, changes=True, about=("dry_run",)),
        "GetStatus": _READ,
    },
    "yuan.cotraining.v1.CotrainingService": {
        # Anybody may ask; what somebody else asked for is edited by operators alone.
        "File": Rule(Role.viewer, changes=True, about=("request.id",)),
        "Edit": Rule(Role.viewer, changes=True, about=("request.id",)),
        "Review": Rule(Role.operator, changes=True, about=("request.id", "accept")),
        "Get": _READ,
        "List": _READ,
    },
    "yuan.data.v1.DataService": {
        "DescribeDataset": _READ,
        "SampleDataset": _READ,
        "Tokenize": _READ,
        "Detokenize": _READ,
    },
    "yuan.trainer.v1.TrainerService": {"WatchMetrics": _READ},
    "yuan.converter.v1.ConverterService": {"InspectCheckpoint": _LOOK, "DiffCheckpoints": _LOOK},
    "yuan.evaluator.v1.EvaluatorService": {"ListTasks": _READ, "GetLeaderboard": _READ},
    "yuan.inference.v1.InferenceService": {
        "Generate": _READ,
        "GenerateStream": _READ,
        "Score": _READ,
        "Tokenize": _READ,
        "Detokenize": _READ,
        # Only one's own.
        "Abort": _READ,
        "GetModelInfo": _READ,
        "GetServerInfo": _READ,
        "GetLoads": _READ,
        "GetMetrics": _READ,
        "LoadModel": Rule(Role.operator, changes=True, about=("artifact", "name")),
        "UnloadModel": Rule(Role.operator, changes=True, about=("model",)),
    },
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _READ},
}

RULES: dict[str, Rule] = {
    f"/{service}/{method}": rule for service, methods in _SERVICES.items() for method, rule in methods.items()
}
"""Rules by full name of the method, `/yuan.jobs.v1.JobService/Submit`."""


def rule_of(method: str) -> Rule:
    """Returns what holds for a method, by its full name."""
    return RULES.get(method, UNKNOWN)


def may(role: Role, needed: Role) -> bool:
    """Returns whether one role may what another may."""
    return _RANKS[role] >= _RANKS[needed]
