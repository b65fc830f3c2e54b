"""Graphs of real small processes: restarts, giving up, the order of the end, no orphans, logs."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pld_core.errors import ConfigError
from pld_ros.launching import launcher
from pld_ros.launching.child import HEADING, Child
from pld_ros.launching.process import NEVER, ON_FAILURE, Graph, Process, Restart
from pld_ros.launching.status_view import StatusView
from pld_ros.launching.supervisor import GraphError, Supervisor
from pld_ros.node import RHYTHM_PRIORITY

FOREVER = "import time\nprint('here', flush=True)\ntime.sleep(600)"
QUICK = Restart(first_delay_s=0.05, longest_delay_s=0.4, well_after_s=30.0, quick_deaths=4)


def program(name: str, code: str, **more: object) -> Process:
    return Process(name, command=(sys.executable, "-I", "-S", "-c", textwrap.dedent(code)), **more)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class Run:
    """A supervisor on a thread, and what it said."""

    def __init__(self, tmp_path: Path, *processes: Process, main: str = "", domain: int = 0) -> None:
        self.lines: list[str] = []
        self.folder = tmp_path
        self.supervisor = Supervisor(Graph("test", processes, tmp_path, domain, main=main), self.lines.append)
        self.status: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.status = self.supervisor.run()
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(30.0)
        assert not self._thread.is_alive()

    def said(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def log(self, name: str) -> str:
        """What the process wrote."""
        return "\n".join(line for line in self.whole_log(name).splitlines() if not line.startswith(HEADING))

    def whole_log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def run(tmp_path: Path, domain: int) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*processes: Process, main: str = "") -> Run:
        runs.append(Run(tmp_path, *processes, main=main, domain=domain))
        return runs[-1]

    yield start
    for each in runs:
        each.supervisor.request_stop(0)
        each.supervisor.request_kill()
        each.join()


def test_the_end_of_the_main_process_ends_the_graph_in_order(run: Callable[..., Run]) -> None:
    robot, controller = program("robot", FOREVER), program("controller", FOREVER)
    done = run(robot, controller, program("learner", "print('learnt')", restart=ON_FAILURE), main="learner")
    done.join()
    assert done.status == 0
    assert done.lines[-3:] == ["learner: finished", "controller: stopped (SIGINT)", "robot: stopped (SIGINT)"]
    assert "learnt" in done.log("learner")


def test_some_may_stop_at_the_same_time_and_the_arm_is_last(run: Callable[..., Run]) -> None:
    slow = "import signal, sys, time\nsignal.signal(2, lambda *_: (time.sleep(1.0), sys.exit()))\n" + FOREVER
    middle = [program(name, slow, stops_with_others=True) for name in ("camera", "reward", "logger")]
    graph = run(program("robot", FOREVER), *middle, program("controller", FOREVER))
    wait_until(lambda: all("here" in graph.log(name) for name in ("robot", "camera", "reward", "logger", "controller")))
    began = time.monotonic()
    graph.supervisor.request_stop(0)
    graph.join()
    assert time.monotonic() - began < 2.9
    stopped = [line.partition(":")[0] for line in graph.lines if "stopped" in line]
    assert (stopped[0], stopped[-1], len(stopped)) == ("controller", "robot", 5)


def test_a_process_that_dies_starts_again_ever_later(run: Callable[..., Run], tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        import time
        begun = Path({str(tmp_path / "begun")!r})
        with begun.open("a") as file: print(time.monotonic(), file=file)
        n = len(begun.read_text().split())
        print("try", n, flush=True)
        if n < 4: raise SystemExit(3)
        time.sleep(600)
    """
    restart = Restart(first_delay_s=0.1, longest_delay_s=0.8)
    graph = run(program("node", code, restart=restart))
    wait_until(lambda: "try 4" in graph.log("node"))
    told = [line for line in graph.lines if "exit status 3" in line]
    assert [line.rpartition(" in ")[2] for line in told] == ["0.1 s", "0.2 s", "0.4 s"]
    begun = [float(at) for at in (tmp_path / "begun").read_text().split()]
    waited = [late - early for early, late in itertools.pairwise(begun)]
    assert all(seconds >= delay for seconds, delay in zip(waited, (0.1, 0.2, 0.4), strict=True))
    assert restart.delay_s(4) == restart.delay_s(5) == restart.longest_delay_s
    assert graph.said("started again") == 3
    assert graph.whole_log("node").count(HEADING) == 4, "one heading for each start"
    assert graph.supervisor.children[0].deaths == 3


def test_a_process_that_ran_well_is_forgiven(run: Callable[..., Run]) -> None:
    restart = Restart(first_delay_s=0.01, longest_delay_s=0.02, well_after_s=0.2, quick_deaths=2)
    graph = run(program("node", "import time; time.sleep(0.3); raise SystemExit(1)", restart=restart))
    wait_until(lambda: graph.said("started again") >= 3)
    assert graph.error is None


def test_it_gives_up_with_the_end_of_the_log(run: Callable[..., Run]) -> None:
    graph = run(program("other", FOREVER), program("node", "raise SystemExit('the cable is out')", restart=QUICK))
    graph.join()
    assert isinstance(graph.error, GraphError)
    assert "4 times in a row" in str(graph.error)
    assert "the cable is out" in str(graph.error)
    assert graph.said("other: stopped") == 1


def test_a_process_that_is_not_essential_is_left_alone(run: Callable[..., Run]) -> None:
    graph = run(
        program("monitor", "raise SystemExit(1)", restart=QUICK, essential=False),
        program("rviz", "pass", restart=NEVER, essential=False),
        program("learner", "import time; time.sleep(2)", restart=ON_FAILURE),
        main="learner",
    )
    graph.join()
    assert graph.status == 0
    assert graph.said("is left alone") == 1
    assert graph.said("rviz: finished") == 1


@pytest.mark.parametrize("status", [1, 2])
def test_a_learner_that_fails_starts_again_unless_that_is_hopeless(run: Callable[..., Run], status: int) -> None:
    restart = Restart(after_success=False, hopeless=(2,), first_delay_s=0.01, quick_deaths=2)
    graph = run(program("learner", f"raise SystemExit({status})", restart=restart), main="learner")
    graph.join()
    assert isinstance(graph.error, GraphError)
    assert f"exit status {status}" in str(graph.error)
    assert graph.said("started again") == (1 if status == 1 else 0)


def test_who_does_not_listen_is_killed_and_that_may_be_asked_for(run: Callable[..., Run]) -> None:
    deaf = "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n" + FOREVER
    graph = run(program("deaf", deaf, patience_s=0.2), program("deafer", deaf, patience_s=60.0))
    wait_until(lambda: "here" in graph.log("deaf") and "here" in graph.log("deafer"))
    graph.supervisor.request_stop(130)
    graph.supervisor.request_stop(129)
    time.sleep(0.3)
    assert not graph.said("stopped"), "asked for a second time it is as patient"
    graph.supervisor.request_kill()
    graph.join()
    assert graph.status == 130
    assert graph.said("stopped (SIGKILL)") == 2


def test_what_a_process_started_ends_with_it(run: Callable[..., Run]) -> None:
    code = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", {FOREVER!r}])
        print("child", child.pid, flush=True)
        raise SystemExit(1)
    """
    graph = run(program("parent", code, restart=NEVER, essential=False), program("other", FOREVER))
    wait_until(lambda: graph.said("is left alone"))
    child = int(next(line for line in graph.log("parent").splitlines() if line.startswith("child")).split()[1])
    wait_until(lambda: not is_alive(child))


def test_two_launchers_do_not_share_a_folder(run: Callable[..., Run], tmp_path: Path) -> None:
    first = run(program("node", FOREVER))
    wait_until(lambda: "here" in first.log("node"))
    second = run(program("node", FOREVER))
    second.join()
    assert isinstance(second.error, ConfigError)
    assert str(tmp_path) in str(second.error)


def test_a_program_that_does_not_exist(run: Callable[..., Run]) -> None:
    graph = run(Process("node", command=("/no/such/program",), restart=NEVER))
    graph.join()
    assert "cannot start /no/such/program: No such file or directory" in str(graph.error)


def test_nice_and_environment_reach_the_process(run: Callable[..., Run], domain: int) -> None:
    code = "import os; print(os.nice(0) - int(os.environ['BEFORE']), os.environ['ROS_DOMAIN_ID'])"
    more = {"BEFORE": str(os.nice(0))}
    graph = run(program("node", code, nice=3, environment=more, restart=ON_FAILURE), main="node")
    graph.join()
    assert f"3 {domain}" in graph.log("node")


def test_a_full_disk_costs_the_heading_only() -> None:
    process = program("node", "pass")
    child = Child(process, process.argv(), dict(os.environ), Path("/dev/full"))
    child.start()
    wait_until(child.has_ended)
    assert child.exit_status == 0


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the handlers of signals back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Asked:
    """What signals ask of a supervisor."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.kills = 0

    def request_stop(self, status: int) -> None:
        self.statuses.append(status)

    def request_kill(self) -> None:
        self.kills += 1


@pytest.mark.usefixtures("handlers")
def test_only_a_second_ctrl_c_ends_the_patience() -> None:
    asked = Asked()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    launcher._handle_signals(asked)  # type: ignore[arg-type]
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    assert asked.statuses == [129, 143, 129, 130, 143]
    assert asked.kills == 0
    signal.raise_signal(signal.SIGINT)
    assert asked.kills == 1


@pytest.mark.usefixtures("handlers")
def test_under_nohup_the_graph_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    launcher._handle_signals(Asked())  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


class GoneTerminal(io.StringIO):
    """What writing to a terminal is once its window was closed, or to a pipe that nobody reads."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error
        self.gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise self._error
        return super().write(text)


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), BrokenPipeError()], ids=["tty", "pipe"])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_lost_terminal_does_not_disturb_the_supervisor(
    error: OSError, live: bool, from_the_start: bool, tmp_path: Path
) -> None:
    supervisor = Supervisor(Graph("test", (program("node", FOREVER),), tmp_path, main="node"))
    supervisor.children[0].log.parent.mkdir()
    supervisor.children[0].log.write_text("a line\n")
    terminal = GoneTerminal(error)
    terminal.gone = from_the_start
    with StatusView(terminal, live) as view:
        terminal.gone = True
        view.refresh(supervisor)
        view.line("node: stopped")


def test_the_priority_that_the_nodes_ask_for_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def permit(pid: int, policy: int, param: os.sched_param) -> None:
        if param.sched_priority >= RHYTHM_PRIORITY:
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", permit)
    assert f"rtprio {RHYTHM_PRIORITY}'" in launcher.real_time_problem()


LAUNCHER = """
    import sys
    from pathlib import Path
    from pld_ros.launching.launcher import run
    from pld_ros.launching.process import Graph, Process
    code = sys.argv[2]
    processes = tuple(Process(n, command=(sys.executable, "-I", "-S", "-c", code)) for n in ("first", "second"))
    sys.exit(run(Graph("orphans", processes, Path(sys.argv[1]))))
"""
# A process with a child of its own, one of them deaf to SIGTERM: nobody may survive.
FAMILY = """
import os, signal, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid(), flush=True)
time.sleep(600)
"""


def pids(folder: Path) -> list[int]:
    lines = [line for log in folder.glob("logs/*.log") for line in log.read_text().splitlines()]
    return [int(line.split()[1]) for line in lines if line.startswith("pid ")]


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(LAUNCHER), str(tmp_path), FAMILY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as popen:
        wait_until(lambda: len(pids(tmp_path)) == 4 or popen.poll() is not None)
        assert popen.poll() is None, popen.communicate()
        yield popen
        popen.kill()


def test_nobody_survives_a_launcher_that_is_killed(launched: subprocess.Popen[str], tmp_path: Path) -> None:
    launched.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def test_ctrl_c_ends_everything_in_order_with_its_own_exit_status(
    launched: subprocess.Popen[str], tmp_path: Path
) -> None:
    launched.send_signal(signal.SIGINT)
    output, _ = launched.communicate(timeout=30)
    assert launched.returncode == 128 + signal.SIGINT
    assert output.index("second: stopped") < output.index("first: stopped")
    assert not any(map(is_alive, pids(tmp_path)))
