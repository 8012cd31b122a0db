"""What is handed to launchers, checked by the tools that read it: bash, shellcheck, Kubeflow Trainer's own models."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubeflow_trainer_api import models

from yuan_events import InputError
from yuan_launch import (
    Agents,
    kubernetes_manifest,
    kubernetes_name,
    parse_hostfile,
    read_hostfile,
    render,
    runner_command,
    slurm_script,
)
from yuan_manifest.schema import Device, KubernetesSection, Launcher, Nodes, Parallel, SlurmSection, Topology


def agents(folder: str = "/shared/yuan/runs/demo-0a1/launch-1", *, cuda: bool = True) -> Agents:
    return Agents("demo", Path(folder), hosts=2, devices=8, cuda=cuda, port=29500, python="/opt/yuan/bin/python")


# --- hostfile ----------------------------------------------------------------------------------------------------


def test_a_hostfile_has_comments_users_and_the_order_of_its_lines() -> None:
    found = parse_hostfile("# ours\n\nnode2 slots=8\n  yuan@node1  slots=4\n", "hosts")
    assert [(host.name, host.address, host.slots) for host in found] == [
        ("node2", "node2", 8),
        ("yuan@node1", "node1", 4),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a slots=8\nb 8\n", "2: expected HOST slots=N, found 'b 8'"),
        ("-oProxyCommand=x slots=8\n", "1: expected HOST slots=N, found '-oProxyCommand=x slots=8'"),
        ("a;reboot slots=8\n", "1: expected HOST slots=N, found 'a;reboot slots=8'"),
        ("a slots=8\na slots=8\n", "2: a stands there twice"),
    ],
)
def test_a_wrong_line_of_a_hostfile_is_named(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_hostfile(text, "hosts")
    assert str(caught.value) == f"topology.hostfile: hosts:{problem}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no such file or directory; expected a file of lines HOST slots=N"),
        ("a slots=8\n", "has 1 hosts, the run needs 2 (topology.nodes); list more, or use fewer"),
        (
            "a slots=8\nb slots=4\n",
            "b has 4 slots, fewer than topology.nodes.devices, 8; lower the latter, or list another host",
        ),
    ],
)
def test_a_hostfile_with_too_little_in_it_is_refused_in_one_line(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "hosts"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_hostfile(path, hosts=2, devices=8)
    assert str(caught.value) == f"topology.hostfile: {path}: {problem}"


def test_deepspeeds_runner_understands_its_command() -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    command = runner_command(agents(), Path("/shared/hosts"), "node1")
    parsed = runner.parse_args(command[command.index("deepspeed.launcher.runner") + 1 :])
    assert (parsed.hostfile, parsed.num_nodes, parsed.num_gpus, parsed.master_addr) == ("/shared/hosts", 2, 1, "node1")
    assert parsed.user_script == "yuan_trainer.host"
    assert parsed.user_args[0] == str(agents().folder)


def test_a_path_that_the_runner_would_hand_to_a_shell_is_refused() -> None:
    with pytest.raises(InputError, match=r"passes through a shell; set cluster\.home to a path of letters"):
        runner_command(agents("/home/a b/$(reboot)/launch-1"), Path("/shared/hosts"), "node1")


# --- slurm -------------------------------------------------------------------------------------------------------


def test_a_slurm_script_is_clean_shell(tmp_path: Path) -> None:
    section = SlurmSection("gpu", "lab", "1-00:00:00", ["--comment=it's $HOME; `x`", "--mem=0"], ["module load cuda"])
    script = tmp_path / "job.sh"
    script.write_text(slurm_script(agents("/sh ared/launch-1"), section))
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", str(script)], check=False, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_what_a_user_writes_into_a_slurm_script_stays_one_word(text: str) -> None:
    script = slurm_script(agents(f"/{text}/launch-1"), SlurmSection(options=[f"--comment={text}"]))
    options = [shlex.split(line.removeprefix("#SBATCH ")) for line in script.split("\n") if line.startswith("#SBATCH ")]
    assert all(len(words) == 1 for words in options)
    assert [f"--comment={text}"] in options
    command = shlex.split(script.partition("exec srun")[2].replace("\\\n", ""))
    assert command[command.index("yuan_trainer.host") + 1] == str(Path(f"/{text}/launch-1"))


def test_hosts_are_taken_whole_unless_options_share_them() -> None:
    assert "#SBATCH --exclusive\n" in slurm_script(agents(), SlurmSection())
    assert "--exclusive" not in slurm_script(agents(), SlurmSection(options=["--cpus-per-gpu=8"]))
    assert "#SBATCH --gpus-per-node=8\n" in slurm_script(agents(), SlurmSection())
    assert "gpus" not in slurm_script(agents(cuda=False), SlurmSection())


# --- kubernetes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuda", [True, False])
def test_a_kubernetes_manifest_is_what_kubeflow_trainers_models_take(cuda: bool) -> None:
    section = KubernetesSection(namespace="lab", image="registry.lab/yuan:1", claim="yuan-home")
    text = kubernetes_manifest(agents(cuda=cuda), section, "/shared/yuan", "yuan-demo-0a1")
    runtime, job = yaml.safe_load_all(text)
    # A key that the API does not know is dropped on the way, a value of another type refused.
    assert models.TrainerV1alpha1TrainingRuntime.from_dict(runtime).to_dict() == runtime
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert container["command"][-1] == "yuan-demo-0a1-node-0-0.yuan-demo-0a1"
    assert container.get("resources") == ({"limits": {"nvidia.com/gpu": 8}} if cuda else None)


def test_ranks_on_kubernetes_are_not_root_and_may_do_no_more_than_they_must() -> None:
    section = KubernetesSection(claim="yuan-home", user=4711)
    runtime, _ = yaml.safe_load_all(kubernetes_manifest(agents(), section, "/shared/yuan", "yuan-demo-0a1"))
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {4711}
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # What is written, with a root that is not: the home, temporary files, shared memory.
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    pytest.importorskip("kubernetes_validate", reason="the schemas are in the extra dev").validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "rank"}, "spec": pod}, "1.34.0", strict=True
    )


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True))
def test_a_jobs_name_becomes_a_name_that_pods_can_have(job: str) -> None:
    name = kubernetes_name(job, "0a1b2c3d-1-ffff")
    assert len(f"{name}-node-0-0") <= 63
    assert name.replace("-", "").isalnum()
    assert not name.endswith("-")


# --- any ---------------------------------------------------------------------------------------------------------


def test_a_local_topology_has_nothing_to_render() -> None:
    with pytest.raises(InputError, match=r"^topology\.launcher: local starts ranks itself"):
        render("demo", Topology(), Path("/shared"))


def test_only_hosts_that_ranks_fill_are_asked_for() -> None:
    topology = Topology(
        launcher=Launcher.slurm,
        nodes=Nodes(count=4, devices=8, device=Device.cuda),
        parallel=Parallel(pipeline=2, tensor=4, data=2),
    )
    assert "#SBATCH --nodes=2\n" in render("demo", topology, Path("/shared"))
