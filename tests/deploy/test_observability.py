"""What Prometheus and Grafana are given: expressions of metrics that the product has, in files that both take."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from yuan_gateway.metrics import GatewayMetrics
from yuan_inference.engine.metrics import EngineMetrics
from yuan_jobs.gauges import JobGauges
from yuan_jobs.registry import Registry
from yuan_rpc.metrics import CallMetrics
from yuan_trainer.gauges import GAUGES, RunGauges

SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def dashboards(repository: Path) -> dict[str, dict[str, Any]]:
    files = sorted((repository / "deploy" / "grafana" / "dashboards").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture(scope="module")
def rules(repository: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((repository / "deploy" / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def exported(folder: Path) -> dict[str, set[str]]:
    """Returns the samples that our servers export, with the names of their labels."""
    metrics = CollectorRegistry()
    registry = Registry.open(f"sqlite:///{folder / 'registry.db'}")
    CallMetrics(metrics), EngineMetrics(metrics), GatewayMetrics(metrics)
    metrics.register(JobGauges(registry, 1))
    history = folder / "metrics.jsonl"
    history.write_text(json.dumps({"step": 1, **dict.fromkeys(GAUGES, 1.0)}) + "\n")
    metrics.register(RunGauges(lambda: [("id", "name", history)]))
    found: dict[str, set[str]] = {"up": {"instance"}, "yuan_gateway_inference_up": set()}
    families: Iterator[Metric] = iter(metrics.collect())
    declared: dict[str, tuple[str, ...]] = {}
    for collector in {*metrics._collector_to_names}:  # pyright: ignore[reportPrivateUsage]
        own = vars(collector)
        if "_labelnames" in own:
            declared[own["_name"]] = own["_labelnames"]
    for family in families:
        labels = {*declared.get(family.name, ()), *vars(family).get("_labelnames", ())}
        for sample in family.samples:
            labels |= sample.labels.keys()
        for ending in SAMPLES[family.type]:
            found[family.name + ending] = {*labels, *(["le"] if ending == "_bucket" else [])}
    registry.close()
    # Prometheus adds where a sample came from, and renames a label `job` of ours that way.
    return {
        name: {"exported_job" if label == "job" else label for label in labels} | {"job", "instance"}
        for name, labels in found.items()
    }


def expressions(dashboards: dict[str, dict[str, Any]], rules: list[dict[str, Any]]) -> dict[str, str]:
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules}
    for name, dashboard in dashboards.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                found[f"{name}: {panel['title']} {target['refId']}"] = target["expr"]
    return found


METRIC = re.compile(r"\b(up|yuan_[a-z0-9_]+)\b(?:\{([^}]*)\})?")


def test_every_expression_is_of_metrics_and_labels_that_the_product_exports(
    dashboards: dict[str, dict[str, Any]], rules: list[dict[str, Any]], tmp_path: Path
) -> None:
    known = exported(tmp_path)
    for where, expression in expressions(dashboards, rules).items():
        metrics = METRIC.findall(expression)
        assert metrics, where
        labels: set[str] = set()
        for name, matchers in metrics:
            assert name in known, (where, name)
            matched = {text.strip() for text in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)}
            assert matched <= known[name], (where, name, matched)
            labels |= known[name]
        grouped = {
            word.strip() for text in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression) for word in text.split(",")
        }
        assert grouped - {"queue"} <= labels, (where, grouped)


def test_the_dashboards_are_what_their_program_writes(repository: Path, tmp_path: Path) -> None:
    program = repository / "deploy" / "grafana" / "dashboards.py"
    shutil.copy(program, tmp_path)
    subprocess.run([sys.executable, str(tmp_path / program.name)], check=True, timeout=60)
    for file in (tmp_path / "dashboards").iterdir():
        kept = program.parent / "dashboards" / file.name
        assert file.read_text() == kept.read_text(), f"run: python {program.relative_to(repository)}"


def test_grafanas_own_types_know_every_field_of_the_dashboards(dashboards: dict[str, dict[str, Any]]) -> None:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="it is in the extra dev")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    assert set(dashboards) == {"jobs", "training", "serving"}
    for name, dashboard in dashboards.items():
        back = json.loads(json.dumps(models.Dashboard.from_json(dashboard), cls=encoder.JSONEncoder))
        assert list(lost(dashboard, back, name)) == []
    assert list(lost({"title": "a", "titel": "b"}, {"title": "a"}, "x")) == ["x.titel"]


def lost(given: Any, back: Any, where: str) -> Iterator[str]:
    """Yields what a reader did not take over."""
    if isinstance(given, dict):
        for key, value in given.items():
            if key not in back:
                yield f"{where}.{key}"
            else:
                yield from lost(value, back[key], f"{where}.{key}")
    elif isinstance(given, list):
        for index, (one, other) in enumerate(zip(given, back, strict=True)):
            yield from lost(one, other, f"{where}[{index}]")
    elif given != back:
        yield where


def test_panels_lie_beside_each_other_and_have_names_of_their_own(dashboards: dict[str, dict[str, Any]]) -> None:
    for dashboard in dashboards.values():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = SimpleNamespace(**panel["gridPos"])
            cells = {(x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)}
            assert not cells & taken, panel["title"]
            assert place.x + place.w <= 24
            taken |= cells
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))


def test_grafana_is_provisioned_with_the_source_and_the_folder_that_the_dashboards_name(
    repository: Path, dashboards: dict[str, dict[str, Any]]
) -> None:
    grafana = repository / "deploy" / "grafana"
    (source,) = yaml.safe_load((grafana / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for one in dashboards.values() for panel in one["panels"]}
    assert used == {source["uid"]}
    services = yaml.safe_load((repository / "docker-compose.yml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert ":9090" in services["prometheus"]["ports"][0]
    (provider,) = yaml.safe_load((grafana / "provisioning/dashboards/yuan.yaml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_prometheus_reads_every_server_of_the_composed_stack(repository: Path) -> None:
    from yuan_manifest import load_cluster
    from yuan_stack.processes import Role, plan_of

    settings = yaml.safe_load((repository / "deploy" / "prometheus" / "prometheus.yaml").read_text())
    jobs = {one["job_name"]: one for one in settings["scrape_configs"]}
    targets = {target for job in ("yuan", "yuan-gateway") for target in jobs[job]["static_configs"][0]["targets"]}
    cluster = load_cluster(repository / "deploy" / "docker" / "cluster.yaml")
    servers = [process for process in plan_of(cluster).processes if process.role is Role.server]
    assert targets == {
        f"{process.section.host}:{process.section.metrics_port or process.section.port}" for process in servers
    }
    token = cluster.cluster.security.tenants["prometheus"].token_file
    for job in ("yuan", "yuan-gateway"):
        assert jobs[job]["authorization"] == {"credentials_file": token}


ALERTS = {
    "YuanServerDown": (['up{job="yuan", instance="data:9100"} 0x20'], "5m"),
    "YuanRegistryDown": (
        ['yuan_jobs_registry_up{instance="a"} 1x20', 'yuan_jobs_registry_up{instance="b"} 0x20'],
        "5m",
    ),
    "YuanCallsFail": (
        [
            'yuan_rpc_handled_total{grpc_service="s", grpc_code="OK"} 0+60x30',
            'yuan_rpc_handled_total{grpc_service="s", grpc_code="INTERNAL"} 0+6x30',
        ],
        "20m",
    ),
    "YuanJobsWithoutWorker": (
        ['yuan_jobs_queued{queue="data"} 2x20', 'yuan_jobs_workers{service="trainer"} 1x20'],
        "5m",
    ),
    "YuanQueueStands": (['yuan_jobs_oldest_queued_seconds{queue="trainer"} 30000x20'], "10m"),
    "YuanBrokerTakesNothing": (["yuan_jobs_unsent_messages 3x20"], "10m"),
    "YuanAttemptsLost": (['yuan_jobs_attempts_total{outcome="LOST"} 0+1x60'], "30m"),
    "YuanJobsFail": (['yuan_jobs_attempts_total{outcome="FAILED"} 0+1x60'], "30m"),
    "YuanWebhooksUntold": (["yuan_jobs_untold_webhooks 1x100"], "90m"),
    "YuanTrainingStands": (['yuan_trainer_step{exported_job="id", name="demo"} 7x100'], "60m"),
    "YuanLossIsNoNumber": (['yuan_trainer_loss{exported_job="id", name="demo"} NaN NaN NaN NaN NaN NaN NaN'], "5m"),
    "YuanLossRises": (['yuan_trainer_loss{exported_job="id", name="demo"} 2 2 2+0.5x60'], "60m"),
    "YuanInferenceUnreachable": (["yuan_gateway_inference_up 0x20"], "5m"),
    "YuanDeploymentFailed": (['yuan_jobs_deployments{state="FAILED"} 1x20'], "5m"),
    "YuanRequestsWait": (['yuan_num_requests_waiting{model_name="m"} 40x20'], "10m"),
    "YuanKvCacheFull": (
        ['yuan_kv_cache_usage_perc{model_name="m"} 1x30', 'yuan_num_preemptions_total{model_name="m"} 0+1x30'],
        "25m",
    ),
    "YuanFirstTokenSlow": (
        [
            'yuan_time_to_first_token_seconds_bucket{model_name="m", le="10"} 0+1x30',
            'yuan_time_to_first_token_seconds_bucket{model_name="m", le="30"} 0+9x30',
            'yuan_time_to_first_token_seconds_bucket{model_name="m", le="+Inf"} 0+9x30',
        ],
        "25m",
    ),
    "YuanGatewayErrors": (
        ['yuan_gateway_requests_total{status="200"} 0+60x30', 'yuan_gateway_requests_total{status="500"} 0+6x30'],
        "20m",
    ),
}
"""What each alert is for: series, a value a minute, and when it has fired by."""

WELL = [
    'up{job="yuan", instance="data:9100"} 1x100',
    'yuan_jobs_registry_up{instance="a"} 1x100',
    'yuan_rpc_handled_total{grpc_service="s", grpc_code="OK"} 0+60x100',
    'yuan_rpc_handled_total{grpc_service="s", grpc_code="NOT_FOUND"} 0+6x100',
    'yuan_jobs_queued{queue="data"} 2x100',
    'yuan_jobs_workers{service="data"} 1x100',
    'yuan_jobs_attempts_total{outcome="SUCCEEDED"} 0+1x100',
    'yuan_trainer_step{exported_job="id", name="demo"} 0+10x100',
    'yuan_trainer_loss{exported_job="id", name="demo"} 9-0.05x100',
    'yuan_kv_cache_usage_perc{model_name="m"} 1x100',
    'yuan_gateway_requests_total{status="503"} 0+60x100',
    "yuan_gateway_inference_up 1x100",
]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
def test_every_alert_fires_for_what_it_is_for_and_none_where_all_is_well(
    repository: Path, rules: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert {rule["alert"] for rule in rules} == ALERTS.keys()
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)

    def case(series: list[str], moment: str, firing: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
        parts = [line.partition("} ") if "}" in line else line.partition(" ") for line in series]
        inputs = [{"series": a + b.strip(), "values": values} for a, b, values in parts]
        question = {"expr": f"count(ALERTS{{{firing}}})", "eval_time": moment, "exp_samples": samples}
        return {"interval": "1m", "input_series": inputs, "promql_expr_test": [question]}

    fired = [{"labels": "{}", "value": 1}]
    cases = [
        case(series, moment, f'alertname="{name}", alertstate="firing"', fired)
        for name, (series, moment) in ALERTS.items()
    ]
    cases.append(case(WELL, "90m", 'alertname=~".+"', []))
    file = tmp_path / "cases.yaml"
    alerts = str(repository / "deploy" / "prometheus" / "alerts.yaml")
    file.write_text(yaml.safe_dump({"rule_files": [alerts], "evaluation_interval": "1m", "tests": cases}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
