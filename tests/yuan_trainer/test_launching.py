"""A host's agent and what it hears and says, without ranks; what is refused before anything is started."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from yuan_events import InputError, Message, NullSink, WorkFailed
from yuan_manifest.schema import KubernetesSection, Launcher, Nodes, Topology
from yuan_trainer.hardware import visible_devices
from yuan_trainer.joining import FILE, NameUnknown, meeting_of_hosts, meeting_on_one_host, route_to
from yuan_trainer.launch_folder import Beacon, HostReader, HostReport, HostWriter, Launch, LaunchFolder, Watch, Word
from yuan_trainer.launcher import run_ranks
from yuan_trainer.launching import run_training
from yuan_trainer.link import LOST_PARENT_EXIT_CODE
from yuan_trainer.specification import Specification

LEASE_S = 4  # of which a busy machine may take some


@pytest.fixture
def folder(tmp_path: Path) -> LaunchFolder:
    launch = Launch(
        "specification.json", str(tmp_path / "logs"), ranks=3, devices=2, device="cpu", port=1, lease_seconds=LEASE_S
    )
    return LaunchFolder.make(tmp_path / "launch-1", launch)


def agent(folder: LaunchFolder) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "yuan_trainer.host", str(folder.path), "--index", "1", "--address", "host-a"]
    return subprocess.Popen(command)


def ready(folder: LaunchFolder) -> None:
    reader = HostReader(folder.events(1))
    deadline = time.monotonic() + 60
    while not reader.read_new():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_fill_hosts_in_order_and_the_last_may_have_fewer(folder: LaunchFolder) -> None:
    launch = folder.launch()
    assert launch.hosts == 2
    assert [(launch.share(host).first, launch.share(host).count) for host in range(2)] == [(0, 2), (2, 1)]


def test_an_agent_ends_when_the_run_is_silent_for_a_lease(folder: LaunchFolder) -> None:
    process = agent(folder)
    assert process.wait(60) == LOST_PARENT_EXIT_CODE


def test_an_agent_waits_for_a_run_that_beats_and_ends_when_it_says_so(folder: LaunchFolder) -> None:
    with Beacon(folder.control, Word.wait) as control:
        process = agent(folder)
        ready(folder)
        time.sleep(1.5 * LEASE_S)
        assert process.poll() is None
        control.say(Word.end)
        assert process.wait(60) == 0
    assert json.loads(folder.events(1).read_text().splitlines()[-1])["host_report"]["state"] == "ended"


def test_an_agent_that_somebody_else_ends_says_so(folder: LaunchFolder) -> None:
    with Beacon(folder.control, Word.wait):
        process = agent(folder)
        ready(folder)
        process.terminate()
        assert process.wait(60) == 1
    report = HostReader(folder.events(1)).read_new()[-1]
    assert isinstance(report, HostReport)
    assert report.failure is not None
    assert report.failure.text.startswith("host 1 (")
    assert "was told to end by SIGTERM" in report.failure.text


def test_a_folder_that_a_later_run_has_cleared_away_ends_an_agent(folder: LaunchFolder) -> None:
    watch = Watch(folder.control)
    assert watch.look() == Word.wait
    folder.control.unlink()
    time.sleep(0.6)
    assert watch.look() == Word.end


def test_events_arrive_whole_and_in_order(folder: LaunchFolder) -> None:
    writer, reader = HostWriter(folder.events(0)), HostReader(folder.events(0))
    writer.emit(Message("one"))
    assert reader.read_new() == [Message("one")]
    with folder.events(0).open("a") as file:
        file.write('{"host_report": {"state": "done",')
        file.flush()
        assert reader.read_new() == []
        file.write(' "name": "a", "step": 20}}\n')
    assert reader.read_new() == [HostReport("done", "a", 20)]


def test_the_meeting_of_one_host_is_a_file_without_a_name() -> None:
    with meeting_on_one_host() as meeting:
        assert not Path("/proc/self/fd", Path(meeting.environment[FILE]).name).readlink().exists()
        assert meeting.environment["GLOO_SOCKET_IFNAME"] == "lo"


def test_an_address_that_no_other_host_can_reach_is_refused() -> None:
    with pytest.raises(WorkFailed, match=r"^the first host, localhost, is .* which no other host can reach; give it"):
        meeting_of_hosts("localhost", 29500)
    with pytest.raises(NameUnknown, match=r"^the first host, no\.such\.invalid, is not known here"):
        meeting_of_hosts("no.such.invalid", 29500)


def test_the_interface_is_the_one_that_leads_to_the_first_host() -> None:
    assert route_to("127.0.0.1") == ("lo", "127.0.0.1")


@pytest.mark.parametrize(
    ("launcher", "tool"), [(Launcher.hostfile, "pdsh"), (Launcher.slurm, "sbatch"), (Launcher.kubernetes, "kubectl")]
)
def test_a_launchers_program_that_is_not_installed_is_named(
    launcher: Launcher, tool: str, specification: Specification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    topology = Topology(
        launcher=launcher,
        hostfile=str(tmp_path / "hosts"),
        kubernetes=KubernetesSection(claim="home"),
        nodes=Nodes(count=2, devices=1),
    )
    run = tmp_path / "runs" / "tiny-0a1"
    run.mkdir(parents=True)
    replace(specification, datasets=()).write(run / "specification.json")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError) as caught:
        run_training(
            run / "specification.json",
            topology,
            2,
            name="tiny",
            run=run,
            device="cpu",
            sink=NullSink(),
            should_stop=lambda: False,
        )
    assert str(caught.value) == (f"topology.launcher: {launcher} needs the program {tool}, which is not installed here")


def test_pods_cannot_see_what_is_outside_of_the_home(specification: Specification, tmp_path: Path) -> None:
    run = tmp_path / "home" / "runs" / "tiny-0a1"
    run.mkdir(parents=True)
    specification.write(run / "specification.json")
    topology = Topology(launcher=Launcher.kubernetes, kubernetes=KubernetesSection(claim="home"))
    with pytest.raises(InputError, match=r"^topology\.launcher: pods see cluster\.home, .*, alone, and .* is outside"):
        run_training(
            run / "specification.json",
            topology,
            1,
            name="tiny",
            run=run,
            device="cpu",
            sink=NullSink(),
            should_stop=lambda: False,
        )


@pytest.mark.parametrize(
    ("seen", "slots", "shown"),
    [
        (None, (1, 2), "1,2"),
        (None, (), ""),
        ("4,5,6", (1, 2), "5,6"),
        ("GPU-a,GPU-b,GPU-c", (2,), "GPU-c"),
        (None, (4, 6), "1,0"),  # of the second of two hosts with three devices each
        (None, (0, 1, 2, 3), "0,1,2"),
    ],
)
def test_a_job_is_shown_the_devices_that_it_has(
    monkeypatch: pytest.MonkeyPatch, seen: str | None, slots: tuple[int, ...], shown: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert visible_devices(slots) == shown


@pytest.mark.parametrize("visible", ["2,5", ""])
def test_ranks_see_the_devices_that_their_run_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    rank = tmp_path / "rank"
    rank.write_text('#!/bin/sh\necho "rank $LOCAL_RANK sees $CUDA_VISIBLE_DEVICES"\nexit 3\n')
    rank.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(rank))
    with pytest.raises(WorkFailed):
        run_ranks(
            tmp_path / "specification.json",
            2,
            device="cuda",
            visible_devices=visible,
            logs=tmp_path / "logs",
            sink=NullSink(),
            should_stop=lambda: False,
        )
    # The end of one ends the others, if need be before they have begun.
    told = "".join(path.read_text() for path in (tmp_path / "logs").glob("rank-*.log"))
    assert f"sees {visible or '7'}\n" in told
