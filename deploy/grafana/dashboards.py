"""Writes the dashboards of this folder: `python deploy/grafana/dashboards.py`. JSON edited by hand grows apart.

A panel is a title, a unit and its expressions. Grafana provisions what comes out (`provisioning/`); tests hold that the
files are what this writes, that every expression is one that Prometheus takes, and that its metrics are ours.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT, _STAT_HEIGHT = 24, 8, 4


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: above it.
        unit: Grafana's name of it: short, s, percentunit, reqps, bytes.
        lines: expressions of PromQL, each with the legend of its series.
        about: what one has to know to read it.
        stat: a number instead of a graph.
        width: of 24 columns.
    """

    title: str
    unit: str
    lines: Sequence[tuple[str, str]]
    about: str = ""
    stat: bool = False
    width: int = 12


@dataclass(frozen=True)
class Dashboard:
    """One dashboard.

    Attributes:
        name: of its file.
        title: above it.
        variables: name, label and query of what one chooses at its top.
        panels: in their order.
    """

    name: str
    title: str
    variables: Sequence[tuple[str, str, str]]
    panels: Sequence[Panel]


def stat(title: str, expression: str, unit: str = "short", about: str = "") -> Panel:
    """Returns a panel with one number."""
    return Panel(title, unit, ((expression, title),), about, stat=True, width=4)


def _quantiles(metric: str, by: str = "model_name", only: str = '{model_name=~"$model"}') -> list[tuple[str, str]]:
    rates = f"sum by (le, {by}) (rate({metric}_bucket{only}[$__rate_interval]))"
    return [(f"histogram_quantile({q / 100:g}, {rates})", f"p{q} {{{{{by}}}}}") for q in (50, 95, 99)]


_RUN = '{exported_job=~"$run"}'
_RUN_LEGEND = "{{name}} {{exported_job}}"
_MODEL = '{model_name=~"$model"}'

JOBS = Dashboard(
    "jobs",
    "Yuan Stack: jobs",
    (),
    [
        stat("Servers that answer", 'sum(up{job=~"yuan.*"})'),
        stat("Registry", "max(yuan_jobs_registry_up)", about="1: it answers."),
        stat("Running", 'sum(max by (kind) (yuan_jobs{state="RUNNING", kind!="pipeline"}))'),
        stat("Waiting for a worker", "sum(max by (queue) (yuan_jobs_queued))"),
        stat("Oldest of them", "max(yuan_jobs_oldest_queued_seconds)", "s"),
        stat("Workers", "sum(max by (service) (yuan_jobs_workers))"),
        Panel("Jobs by state", "short", [("sum by (state) (max by (kind, state) (yuan_jobs))", "{{state}}")]),
        Panel("Waiting for a worker", "short", [("max by (queue) (yuan_jobs_queued)", "{{queue}}")]),
        Panel(
            "Attempts that ended, an hour",
            "short",
            [("max by (outcome) (increase(yuan_jobs_attempts_total[1h]))", "{{outcome}}")],
            "LOST: the worker was gone; the job went to another one.",
        ),
        Panel(
            "Longest running", "s", [("max by (kind) (yuan_jobs_longest_running_seconds)", "{{kind}}")],
            "Since its first start, with the time that it was interrupted.",
        ),
        Panel("Workers", "short", [("max by (service) (yuan_jobs_workers)", "{{service}}")]),
        Panel(
            "Devices", "short",
            [("max(yuan_jobs_devices_in_use)", "in use"), ("max(yuan_jobs_devices)", "of the stack")],
            "Held by trainings and by deployments.",
        ),
        Panel(
            "Not sent yet", "short",
            [("max(yuan_jobs_unsent_messages)", "to the broker"), ("max(yuan_jobs_untold_webhooks)", "to webhooks")],
        ),
        Panel("Deployments", "short", [("max by (state) (yuan_jobs_deployments)", "{{state}}")]),
        Panel(
            "Calls of gRPC by service", "reqps",
            [("sum by (grpc_service) (rate(yuan_rpc_handled_total[$__rate_interval]))", "{{grpc_service}}")],
        ),
        Panel(
            "Calls that failed", "reqps",
            [
                (
                    "sum by (grpc_service, grpc_code) "
                    '(rate(yuan_rpc_handled_total{grpc_code!="OK"}[$__rate_interval]))',
                    "{{grpc_service}} {{grpc_code}}",
                )
            ],
        ),
        Panel(
            "How long calls take, 95th percentile", "s",
            _quantiles("yuan_rpc_handling_seconds", "grpc_method", "")[1:2],
            "A stream counts until its end.",
        ),
        Panel("Calls in progress", "short", [("sum by (grpc_service) (yuan_rpc_running)", "{{grpc_service}}")]),
    ],
)  # fmt: skip

TRAINING = Dashboard(
    "training",
    "Yuan Stack: training",
    (("run", "run", "label_values(yuan_trainer_step, exported_job)"),),
    [
        stat("Runs", "count(yuan_trainer_step)"),
        stat("Steps", f"max(yuan_trainer_step{_RUN})"),
        stat("Time left", f"max(yuan_trainer_seconds_left{_RUN})", "s"),
        stat("Tokens a second", f"sum(yuan_trainer_tokens_per_second{_RUN})"),
        stat("MFU", f"avg(yuan_trainer_mfu{_RUN})", "percentunit"),
        stat("Memory, GiB", f"max(yuan_trainer_memory_gib{_RUN})", about="The most that a rank has held."),
        Panel(
            "Loss", "short",
            [
                (f"yuan_trainer_loss{_RUN}", f"{_RUN_LEGEND} training"),
                (f"yuan_trainer_validation_loss{_RUN}", f"{_RUN_LEGEND} validation"),
            ],
            "Nats a token.",
        ),
        Panel("Validation perplexity", "short", [(f"yuan_trainer_validation_perplexity{_RUN}", _RUN_LEGEND)]),
        Panel("Learning rate", "sci", [(f"yuan_trainer_learning_rate{_RUN}", _RUN_LEGEND)]),
        Panel("Gradient norm", "short", [(f"yuan_trainer_gradient_norm{_RUN}", _RUN_LEGEND)], "Before clipping."),
        Panel("Tokens a second", "short", [(f"yuan_trainer_tokens_per_second{_RUN}", _RUN_LEGEND)], "Over all ranks."),
        Panel("MFU", "percentunit", [(f"yuan_trainer_mfu{_RUN}", _RUN_LEGEND)]),
        Panel("Memory, GiB", "short", [(f"yuan_trainer_memory_gib{_RUN}", _RUN_LEGEND)]),
        Panel("Steps", "short", [(f"yuan_trainer_step{_RUN}", _RUN_LEGEND)]),
    ],
)  # fmt: skip

SERVING = Dashboard(
    "serving",
    "Yuan Stack: serving",
    (("model", "model", "label_values(yuan_num_requests_running, model_name)"),),
    [
        stat("Inference", "max(yuan_gateway_inference_up)", about="1: the gateway reaches it."),
        stat("Running", f"sum(yuan_num_requests_running{_MODEL})"),
        stat("Waiting", f"sum(yuan_num_requests_waiting{_MODEL})"),
        stat("KV cache", f"max(yuan_kv_cache_usage_perc{_MODEL})", "percentunit"),
        stat("Tokens a second", f"sum(rate(yuan_generation_tokens_total{_MODEL}[$__rate_interval]))"),
        stat("Requests a second", f"sum(rate(yuan_request_success_total{_MODEL}[$__rate_interval]))", "reqps"),
        Panel(
            "Requests", "short",
            [
                (f"sum by (model_name) (yuan_num_requests_running{_MODEL})", "{{model_name}} running"),
                (f"sum by (model_name) (yuan_num_requests_waiting{_MODEL})", "{{model_name}} waiting"),
            ],
        ),
        Panel(
            "Tokens a second", "short",
            [
                (
                    f"sum by (model_name) (rate(yuan_{kind}_tokens_total{_MODEL}[$__rate_interval]))",
                    f"{{{{model_name}}}} {verb}",
                )
                for kind, verb in (("prompt", "read"), ("generation", "written"))
            ],
        ),
        Panel("Time to the first token", "s", _quantiles("yuan_time_to_first_token_seconds")),
        Panel("Time between tokens", "s", _quantiles("yuan_inter_token_latency_seconds")),
        Panel("Whole requests", "s", _quantiles("yuan_e2e_request_latency_seconds")),
        Panel(
            "Where the time goes, mean", "s",
            [
                (
                    f"sum(rate(yuan_request_{part}_time_seconds_sum{_MODEL}[$__rate_interval]))"
                    f" / sum(rate(yuan_request_{part}_time_seconds_count{_MODEL}[$__rate_interval]))",
                    text,
                )
                for part, text in (("queue", "waiting"), ("prefill", "prompt"), ("decode", "answer"))
            ],
        ),
        Panel("KV cache", "percentunit", [(f"yuan_kv_cache_usage_perc{_MODEL}", "{{model_name}} {{instance}}")]),
        Panel(
            "Prefix cache, share of the prompt that it held", "percentunit",
            [
                (
                    f"sum by (model_name) (rate(yuan_prefix_cache_hits_total{_MODEL}[$__rate_interval]))"
                    f" / sum by (model_name) (rate(yuan_prefix_cache_queries_total{_MODEL}[$__rate_interval]))",
                    "{{model_name}}",
                )
            ],
        ),
        Panel(
            "How requests ended", "reqps",
            [
                (
                    f"sum by (finished_reason) (rate(yuan_request_success_total{_MODEL}[$__rate_interval]))",
                    "{{finished_reason}}",
                )
            ],
        ),
        Panel(
            "Requests that began again", "short",
            [(f"sum by (model_name) (rate(yuan_num_preemptions_total{_MODEL}[$__rate_interval]))", "{{model_name}}")],
            "Blocks ran out: the youngest request gave its own back.",
        ),
        Panel(
            "Guessed tokens that were right", "percentunit",
            [
                (
                    f"sum(rate(yuan_spec_decode_num_accepted_tokens_total{_MODEL}[$__rate_interval]))"
                    f" / sum(rate(yuan_spec_decode_num_draft_tokens_total{_MODEL}[$__rate_interval]))",
                    "prompt lookup",
                )
            ],
        ),
        Panel(
            "HTTP by status", "reqps",
            [("sum by (status) (rate(yuan_gateway_requests_total[$__rate_interval]))", "{{status}}")],
        ),
        Panel("HTTP by route, 95th percentile", "s", _quantiles("yuan_gateway_request_seconds", "route", "")[1:2]),
        Panel("HTTP requests in progress", "short", [("sum(yuan_gateway_requests_running)", "gateway")]),
    ],
)  # fmt: skip

DASHBOARDS = (JOBS, TRAINING, SERVING)


def rendered(dashboard: Dashboard) -> dict[str, Any]:
    """Returns a dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    left, top, row = 0, 0, 0
    for number, panel in enumerate(dashboard.panels, 1):
        height = _STAT_HEIGHT if panel.stat else _HEIGHT
        if left + panel.width > _WIDTH:
            left, top, row = 0, top + row, 0
        panels.append(_rendered_panel(panel, number, {"h": height, "w": panel.width, "x": left, "y": top}))
        left, row = left + panel.width, max(row, height)
    return {
        "uid": f"yuan-{dashboard.name}",
        "title": dashboard.title,
        "tags": ["yuan-stack"],
        "timezone": "browser",
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 41,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_variable(*variable) for variable in dashboard.variables]},
        "panels": panels,
    }


def _rendered_panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    options: dict[str, Any] = (
        {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
        if panel.stat
        else {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    )
    return {
        "id": number,
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(65 + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend, "range": True}
            for index, (expression, legend) in enumerate(panel.lines)
        ],
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def text_of(dashboard: Dashboard) -> str:
    """Returns the file of a dashboard."""
    return json.dumps(rendered(dashboard), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in DASHBOARDS:
        (FOLDER / f"{one.name}.json").write_text(text_of(one), encoding="utf-8")
