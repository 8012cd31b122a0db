"""Celery as the stack uses it: it wakes a worker with a job's id, and decides nothing.

What it loses is sent again by the reconciler, what it delivers twice claims nothing: so messages are gone once they
are taken (`no_ack`), and neither results nor retries nor revocations of Celery's are used. With acknowledgements, one
that a dead broker could not take would block its worker for ever (seen with Celery 5.7: the message counts as held).
"""

from collections.abc import Sequence

# Celery ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from celery import Celery
from kombu.entity import Queue

from yuan_manifest import SERVICE_OF_KIND

TASK = "yuan.run"
_CONNECT_SECONDS = 3.0


def queue_name(service: str) -> str:
    """Returns the name of a service's queue at the broker."""
    return f"yuan.{service}"


def celery_app(url: str, services: Sequence[str]) -> Celery:
    """Returns an app at a broker for the queues of some services; nothing is opened yet."""
    app = Celery("yuan", broker=url, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_queues=[Queue(queue_name(service), no_ack=True) for service in services],
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="solo",
        worker_hijack_root_logger=True,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=_CONNECT_SECONDS,
        broker_transport_options={"socket_connect_timeout": _CONNECT_SECONDS, "socket_timeout": 30.0},
    )
    return app


class Publisher:
    """Sends messages; a broker that is down is an error at once, not a wait."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._app = celery_app(url, [service for service in SERVICE_OF_KIND.values() if service])
        self._app.conf.update(
            broker_transport_options={
                "socket_connect_timeout": _CONNECT_SECONDS,
                "socket_timeout": _CONNECT_SECONDS,
                "max_retries": 0,
            }
        )

    def send(self, service: str, job_id: str) -> None:
        """Tells some worker of a service of a job.

        Raises:
            OSError: if the broker does not take it.
        """
        try:
            self._app.send_task(TASK, args=[job_id], queue=queue_name(service), retry=False, ignore_result=True)
        except Exception as error:  # kombu, redis and the system each have errors of their own for this
            raise OSError(f"broker: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        """Closes the connections."""
        self._app.close()
