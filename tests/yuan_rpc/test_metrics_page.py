"""Metrics are read on this machine by anybody, from elsewhere by those who have a token."""

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from tests.machine import own_address

from yuan_events import InputError
from yuan_rpc import Security, Tls, ensure_token_file
from yuan_rpc.callers import Caller, Callers, Tenant
from yuan_rpc.metrics_page import MetricsPage


def other_address() -> str:
    address = own_address()
    if address == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    return address


def read(url: str, token: str | None = None, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own page
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("yuan_test_total", "A count.", registry=registry).inc(3)
    return registry


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    for name in ("the-stack's", "prometheus", "old"):
        (tmp_path / name).write_text(f"{name}-token\n")
        (tmp_path / name).chmod(0o600)
    tenants = [
        Tenant(Caller("prometheus"), tmp_path / "prometheus"),
        Tenant(Caller("old"), tmp_path / "old", datetime(2001, 1, 1, tzinfo=UTC)),
    ]
    return Callers("data", Security(token_file=tmp_path / "the-stack's"), tenants)


@pytest.fixture
def page(registry: CollectorRegistry, callers: Callers) -> Iterator[MetricsPage]:
    page = MetricsPage(registry, "data", 0, "0.0.0.0", callers=callers)  # noqa: S104
    yield page
    page.close()


def test_on_this_machine_metrics_need_no_token(page: MetricsPage) -> None:
    status, text = read(f"http://127.0.0.1:{page.port}/metrics")
    assert status == 200
    assert "yuan_test_total 3.0" in text


def test_from_elsewhere_metrics_are_for_those_with_a_token_that_holds(page: MetricsPage) -> None:
    url = f"http://{other_address()}:{page.port}/metrics"
    for token in (None, "guessed", "old-token"):
        status, text = read(url, token)
        assert status == 401, token
        assert "yuan_test" not in text
    for token in ("prometheus-token", "the-stack's-token"):
        status, text = read(url, token)
        assert status == 200, token
        assert "yuan_test_total 3.0" in text


def test_a_page_for_this_machine_alone_is_at_no_other_address(registry: CollectorRegistry) -> None:
    page = MetricsPage(registry, "data", 0)
    try:
        assert read(f"http://127.0.0.1:{page.port}/metrics")[0] == 200
        with pytest.raises(urllib.error.URLError):
            read(f"http://{other_address()}:{page.port}/metrics")
    finally:
        page.close()


def test_where_the_stack_has_tls_the_open_page_has_it_too(
    registry: CollectorRegistry, callers: Callers, tls: Tls
) -> None:
    own = Tls(certificate=tls.certificate, key=tls.key, authority=tls.authority)
    page = MetricsPage(registry, "data", 0, "0.0.0.0", callers=callers, tls=own)  # noqa: S104
    try:
        # One that says nothing holds up nobody.
        with socket.create_connection(("127.0.0.1", page.port), timeout=30):
            context = ssl.create_default_context(cafile=own.authority)
            status, text = read(f"https://localhost:{page.port}/metrics", context=context)
        assert (status, "yuan_test_total 3.0" in text) == (200, True)
        with pytest.raises((urllib.error.URLError, OSError)):
            read(f"http://127.0.0.1:{page.port}/metrics")
    finally:
        page.close()


def test_clear_text_beyond_loopback_has_to_be_meant(tmp_path: Path) -> None:
    ensure_token_file(tmp_path / "token")
    security = Security(token_file=tmp_path / "token")
    with pytest.raises(InputError, match=r"metrics of data would listen on 0\.0\.0\.0 in clear text"):
        security.check_server("metrics of data", "0.0.0.0")  # noqa: S104


def test_a_page_comes_back_on_its_port_at_once_after_it_was_read(registry: CollectorRegistry) -> None:
    first = MetricsPage(registry, "data", 0)
    assert read(f"http://127.0.0.1:{first.port}/metrics")[0] == 200
    first.close()
    again = MetricsPage(registry, "data", first.port)
    try:
        assert read(f"http://127.0.0.1:{again.port}/metrics")[0] == 200
    finally:
        again.close()
