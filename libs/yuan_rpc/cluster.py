"""From a cluster manifest to connections and servers, so that no service and no command does it by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from yuan_events import InputError
from yuan_manifest import Cluster
from yuan_manifest.schema import SecuritySection, Services, ServiceSection
from yuan_rpc.audit import AuditLog
from yuan_rpc.callers import Caller, Limits, Tenant, moment_of
from yuan_rpc.client import Connection
from yuan_rpc.errors import Translations
from yuan_rpc.http_server import HTTP_SERVICES, HttpServer
from yuan_rpc.policy import UNARY_SECONDS
from yuan_rpc.security import Security, Tls
from yuan_rpc.server import Mount, RpcServer
from yuan_rpc.tracing import OFF, Tracing


def service_of(cluster: Cluster, name: str) -> ServiceSection:
    """Returns a service's section.

    Raises:
        InputError: if the cluster has none, naming those that it has.
    """
    known = {field.name: getattr(cluster.services, field.name) for field in fields(Services)}
    section: ServiceSection | None = known.get(name)
    if section is None:
        there = ", ".join(key for key, value in known.items() if value is not None) or "none"
        raise InputError(f"this cluster has no {name} service; it has: {there}; see cluster.services")
    return section


def security_of(section: SecuritySection) -> Security:
    """Returns the security that a cluster's section means; `~` in paths is the home folder."""
    tls = None
    if section.tls is not None:
        authority = _path(section.tls.authority)
        tls = Tls(
            certificate=_path(section.tls.certificate),
            key=_path(section.tls.key),
            authority=authority,
            client_authority=authority if section.tls.require_client_certificate else None,
            client_certificate=_path(section.tls.client_certificate),
            client_key=_path(section.tls.client_key),
        )
    return Security(_path(section.token_file), _path(section.tokens), tls=tls, plaintext=section.plaintext)


def tenants_of(section: SecuritySection) -> list[Tenant]:
    """Returns the tenants that a cluster's section names; their tokens are not read yet."""
    return [
        Tenant(
            Caller(
                name,
                tenant.role,
                Limits(tenant.requests_per_minute, tenant.tokens_per_minute, tenant.concurrent_requests),
            ),
            Path(tenant.token_file).expanduser(),
            moment_of(tenant.expires) if tenant.expires else None,
        )
        for name, tenant in section.tenants.items()
    ]


def audit_of(section: SecuritySection) -> AuditLog:
    """Returns the audit log that a cluster's section means; nothing is opened yet."""
    audit = section.audit
    return AuditLog(Path(audit.folder).expanduser(), file_bytes=int(audit.file_mib * 2**20), files=audit.files)


def connect(name: str, cluster: Cluster, *, timeout: float = UNARY_SECONDS) -> Connection:
    """Returns a connection to a service of a cluster; nothing is opened yet.

    Args:
        name: its key under `cluster.services`.
        cluster: where it is.
        timeout: deadline in seconds of unary calls that name none.

    Raises:
        InputError: if there is no such service, or its token or TLS files are wrong.
    """
    section = service_of(cluster, name)
    return Connection(name, section.host, section.port, security_of(cluster.security), timeout=timeout)


def health_of(name: str, cluster: Cluster) -> Connection | HttpServer:
    """Returns what can be asked whether a service of a cluster serves (`is_serving`), whatever it speaks.

    Raises:
        InputError: as `connect`.
    """
    if name not in HTTP_SERVICES:
        return connect(name, cluster)
    section = service_of(cluster, name)
    return HttpServer(name, section.host, section.port, security_of(cluster.security))


def server_of(
    name: str,
    cluster: Cluster,
    servicers: Iterable[Mount],
    *,
    translations: Translations | None = None,
    end_at_drain: Sequence[str] = (),
    drain_seconds: float = 30.0,
    tracing: Tracing = OFF,
) -> RpcServer:
    """Returns the server of a service, bound as the cluster says; nothing is opened yet.

    Args:
        name: its key under `cluster.services`.
        cluster: where it is.
        servicers: see `RpcServer`, as of the rest.
        translations: what errors of other layers mean on the wire.
        end_at_drain: full names of streams that may never end by themselves.
        drain_seconds: how long running calls may go on once the server is asked to stop.
        tracing: makes a span of each call.

    Raises:
        InputError: if there is no such service.
    """
    section = service_of(cluster, name)
    return RpcServer(
        name,
        section.bind or section.host,
        section.port,
        security_of(cluster.security),
        servicers,
        metrics_port=section.metrics_port,
        metrics_bind=section.metrics_bind,
        drain_seconds=drain_seconds,
        translations=translations,
        end_at_drain=end_at_drain,
        tenants=tenants_of(cluster.security),
        tracing=tracing,
        audit=audit_of(cluster.security),
    )


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None
