"""`pld export` and `pld import`: what is found, what is refused, and what an upload sends."""

from __future__ import annotations

import dataclasses
import http.server
import json
import re
import threading
from pathlib import Path

import pytest
from test_episode_store import make_episode
from test_lerobot import filmed

from pld_core.cli import main as cli
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.lerobot import LeRobotReader, layout
from pld_core.errors import ConfigError, StorageError
from pld_core.stages.export import ExportConfig, export, import_dataset


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of point_reach with a store of three probes, one of them voided, and nothing else."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("task: point_reach\nrobot: none\n")
    store = EpisodeStore(folder / "probe")
    for k in range(3):
        store.append(dataclasses.replace(filmed(k), voided=k == 1), attempt=k)
    return folder


def test_voided_episodes_are_left_out_and_counted(run, tmp_path, capsys):
    assert cli.main(["export", str(run), "--out", str(tmp_path / "set")]) == 0
    assert "2 episodes, 10 frames, 1 voided left out; " in capsys.readouterr().out
    reader = LeRobotReader(tmp_path / "set")
    assert [metadata for _, metadata in reader] == [{"attempt": 0}, {"attempt": 2}]
    assert reader.info["features"]["pld.base_action"]["shape"] == [2]
    assert reader.info["robot_type"] is None


def test_a_folder_of_episodes_needs_a_rate(tmp_path):
    EpisodeStore(tmp_path / "mine").append(make_episode(0))
    with pytest.raises(ConfigError, match="or --fps, with --units normalised"):
        export(ExportConfig(tmp_path / "mine", tmp_path / "set"))
    with pytest.raises(ConfigError, match="with --units normalised"):
        export(ExportConfig(tmp_path / "mine", tmp_path / "set", fps=10, units="metric"))
    export(ExportConfig(tmp_path / "mine", tmp_path / "set", fps=10))
    assert LeRobotReader(tmp_path / "set").info["fps"] == 10


@pytest.mark.parametrize("format", ["lerobot", "lerobot-v2.1"])
def test_what_is_there_is_added_to_only_when_asked_and_never_twice(run, tmp_path, format):
    config = ExportConfig(run, tmp_path / "set", format=format)
    export(config)
    with pytest.raises(ConfigError, match="set is not empty"):
        export(config)
    EpisodeStore(run / "probe").append(filmed(3), attempt=3)
    EpisodeStore(run / "probe").append(filmed(3), attempt=4)  # the like of it, of another attempt
    added = export(dataclasses.replace(config, append=True))
    assert (added.episodes, added.present, added.voided) == (2, 2, 1)
    assert len(LeRobotReader(tmp_path / "set")) == 4
    import_dataset(tmp_path / "set", tmp_path / "back")
    with pytest.raises(ConfigError, match="back holds 4 episodes already"):
        import_dataset(tmp_path / "set", tmp_path / "back")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["run", "--data", "harvest"], "holds no harvest episodes"),
        (["run", "--data", "demonstrations"], "--distill.data oracle"),
        (["run", "--push"], "--repo_id user/dataset"),
        (["run", "--format", "rlds", "--push", "--repo_id", "a/b"], "copied as a folder"),
        (["run", "--fps", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(run, tmp_path, capsys, arguments, words):
    assert cli.main(["export", *arguments, "--out", str(tmp_path / "set")]) == cli.EXIT_ERROR
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("arguments", [[], ["set"], ["--out", "x"], ["a", "b", "--out", "x"]])
def test_import_says_what_it_takes(capsys, arguments):
    assert cli.main(["import", *arguments]) == cli.EXIT_ERROR
    assert "usage: pld import DATASET --out STORE" in capsys.readouterr().err


# -- upload: huggingface_hub against a server of our own -------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as an upload of small files asks for."""

    requests: list[tuple[str, str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.requests.append((self.path, self.headers.get("Authorization", ""), body))
        if "Bearer good" not in self.headers.get("Authorization", ""):
            self._answer(401, {"error": "Invalid credentials"})
        elif self.path.endswith("/repos/create"):
            self._answer(200, {"url": f"http://{self.headers['Host']}/datasets/me/mine"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self._answer(
                200, {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        elif "/commit/" in self.path:
            made = {"commitUrl": f"http://{self.headers['Host']}/datasets/me/mine/commit/0", "commitOid": "0" * 40}
            self._answer(200, {**made, "hookOutput": "", "success": True})
        else:
            self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/mine", "sha": "0" * 40, "siblings": [], "private": True})

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch):
    """The requests that reach the server which huggingface_hub believes to be the Hub."""
    handler = type("Handler", (Hub,), {"requests": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "good")
    yield handler.requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_is_uploaded_unless_asked(run, tmp_path, hub):
    export(ExportConfig(run, tmp_path / "set", repo_id="me/mine"))
    assert hub == []


def test_an_upload_sends_every_file_and_the_version(run, tmp_path, hub):
    summary = export(ExportConfig(run, tmp_path / "set", repo_id="me/mine", push=True))
    assert "datasets/me/mine" in summary.address
    paths = [path for path, _, _ in hub]
    assert b"private" in hub[0][2]  # as its visibility
    commit = next(body for path, _, body in hub if "/commit/" in path)
    sent = set(re.findall(r'"path": ?"([^"]+)"', commit.decode()))
    there = {str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*") if path.is_file()}
    assert there <= sent
    assert any("/tag/" in path for path in paths)
    assert json.loads(hub[-1][2])["tag"] == layout.V30


def test_a_refused_upload_says_how_to_go_on(run, tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(StorageError, match="hf upload me/mine"):
        export(ExportConfig(run, tmp_path / "set", repo_id="me/mine", push=True))
    assert len(LeRobotReader(tmp_path / "set")) == 2
