"""gRPC of the stack: generated stubs (`yuan_rpc.jobs.v1`, …), the server every service runs, the client that calls it.

    from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc

What a call does is not known here. Folders with a version in them are generated from `protos/` by `make protos`.
"""

import yuan_rpc.quiet  # noqa: F401  # pyright: ignore[reportUnusedImport] - before gRPC
from yuan_rpc.addresses import check_port, is_loopback, join_address, port_owner
from yuan_rpc.audit import AuditEntry, AuditLog, audited, read_audit
from yuan_rpc.callers import Caller, Callers, Limits, Tenant, current_caller
from yuan_rpc.client import Connection
from yuan_rpc.cluster import audit_of, connect, health_of, security_of, server_of, service_of, tenants_of
from yuan_rpc.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Translations,
    Unauthenticated,
    Unavailable,
)
from yuan_rpc.failures import RpcFailed, RpcRefused, StatusCode, failure_of
from yuan_rpc.http_server import HTTP_SERVICES, HttpServer
from yuan_rpc.security import Security, Tls, ensure_token_file, read_token
from yuan_rpc.server import Mount, RpcServer
from yuan_rpc.version import VERSION, VersionMismatch, check_version

__all__ = [
    "HTTP_SERVICES",
    "VERSION",
    "AlreadyExists",
    "AuditEntry",
    "AuditLog",
    "Caller",
    "Callers",
    "Connection",
    "FailedPrecondition",
    "HttpServer",
    "Internal",
    "InvalidArgument",
    "Limits",
    "Mount",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "RpcError",
    "RpcFailed",
    "RpcRefused",
    "RpcServer",
    "Security",
    "StatusCode",
    "Tenant",
    "Tls",
    "Translations",
    "Unauthenticated",
    "Unavailable",
    "VersionMismatch",
    "audit_of",
    "audited",
    "check_port",
    "check_version",
    "connect",
    "current_caller",
    "ensure_token_file",
    "failure_of",
    "health_of",
    "is_loopback",
    "join_address",
    "port_owner",
    "read_audit",
    "read_token",
    "security_of",
    "server_of",
    "service_of",
    "tenants_of",
]
