"""Bags hold every bit, survive kills and full disks, and read like rosbag2's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from bagged import STATE, STEP, TOPICS, fill, write_episode_bag
from recorded import assert_same, local_episodes, outcome_of_episode

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError, ContractError, StorageError
from pld_ros.recording.bag_reader import BagReader, bag_paths, read_episode
from pld_ros.recording.bags import OPEN, BagWriter, add_label, repair_bags
from pld_ros.recording.mcap_file import McapFile


@pytest.fixture(scope="module")
def episodes():
    found = local_episodes(2)
    assert {episode.success for episode in found} == {True, False}
    return found


@pytest.fixture
def failed(episodes):
    return next(episode for episode in episodes if not episode.success)


@pytest.fixture
def bags(tmp_path) -> Path:
    return tmp_path / "run" / "bags"


def test_an_episode_comes_back_bit_for_bit(bags, episodes):
    for k, episode in enumerate(episodes):
        bag = write_episode_bag(bags, episode, f"e{k}")
        assert bag == bags / f"e{k}"
        assert_same(read_episode(bag), episode)
    assert list((bags / OPEN).iterdir()) == []


def test_metadata_says_what_ros2_bag_info_needs(bags, episodes):
    bag = write_episode_bag(bags, episodes[0], "e0")
    text = (bag / "metadata.yaml").read_text()
    assert "&id" not in text, "rosbag2 writes no anchors"
    info = yaml.safe_load(text)["rosbag2_bagfile_information"]
    assert info["version"] == 9
    assert info["storage_identifier"] == "mcap"
    assert [(bag / name).exists() for name in info["relative_file_paths"]] == [True]
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in info["topics_with_message_count"]}
    assert counts[STEP] == len(episodes[0]) + 1
    assert counts[STATE] == 0
    assert info["message_count"] == sum(counts.values()) == info["files"][0]["message_count"]
    topic = info["topics_with_message_count"][0]["topic_metadata"]
    assert topic["offered_qos_profiles"][0]["reliability"] == "reliable"
    assert topic["type_description_hash"].startswith("RIHS01_")
    assert info["custom_data"]["episode_id"] == "e0"


def test_other_readers_of_mcap_agree(bags, episodes):
    reader = pytest.importorskip("mcap.reader")
    bag = write_episode_bag(bags, episodes[0], "e0")
    with open(bag / "e0.mcap", "rb") as stream:
        found = reader.make_reader(stream, validate_crcs=True)
        summary = found.get_summary()
        messages = list(found.iter_messages(topics=[STEP]))
    assert len(messages) == len(episodes[0]) + 1
    assert summary.channels[1].metadata["offered_qos_profiles"].startswith("- history: keep_last")
    assert summary.schemas[1].name == "pld_msgs/msg/PolicyStep"
    with BagReader(bag) as ours:
        times = [stamp for topic, _, stamp, _ in ours.raw() if topic == STEP]
    assert times == [message.log_time for _, _, message in messages]


def test_a_second_bag_of_an_episode_gets_a_name_of_its_own(bags, episodes):
    assert write_episode_bag(bags, episodes[0], "e0").name == "e0"
    assert write_episode_bag(bags, episodes[0], "e0").name == "e0-2"
    with pytest.raises(ContractError, match="letters"):
        BagWriter(bags, "../e0", TOPICS)


WRITER = """
    import sys
    from pathlib import Path
    from bagged import TOPICS, fill
    from pld_core.data.episode_store import EpisodeStore
    from pld_ros.recording.bags import BagWriter
    (episode,) = EpisodeStore(sys.argv[1] + ".episodes")
    writer = BagWriter(Path(sys.argv[1]), "e0", TOPICS)
    fill(writer, episode, "e0")
    print("written", flush=True)
    sys.stdin.read()
"""


def test_after_a_kill_all_complete_chunks_are_there(bags, failed):
    EpisodeStore(f"{bags}.episodes").append(failed)
    with killable(WRITER, bags) as writer:
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    torn = bags / OPEN / "e0" / "e0.mcap"
    with open(torn, "ab") as file:
        file.write(b"\x06\x00\x01\x00\x00")  # as if it had died while writing a chunk
    assert repair_bags(bags) == [bags / "e0"]
    assert repair_bags(bags) == []
    with BagReader(bags / "e0") as reader:
        episode, report = reader.assembled()
        assert reader.custom["interrupted"]
    assert episode.voided
    assert not episode.success
    assert "mid-episode" in report.reason
    assert episode.spec == failed.spec
    assert len(failed) - 21 <= len(episode) < len(failed), "a chunk holds one second"
    kept = len(episode) - 1
    assert episode.action[:kept].tobytes() == failed.action[:kept].tobytes()
    assert episode.images["top"][:kept].tobytes() == failed.images["top"][:kept].tobytes()


class killable:
    """A process that runs ``code`` with one argument, from the tests' folder."""

    def __init__(self, code: str, argument: Path) -> None:
        paths = [str(Path(__file__).parent), *sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(argument)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_bag_without_a_complete_chunk_is_dropped(bags, episodes):
    for name, size in (("empty", 0), ("torn", 100)):
        (bags / OPEN / name).mkdir(parents=True)
        (bags / OPEN / name / f"{name}.mcap").write_bytes(b"\x89MCAP0\r\n" + bytes(size) if size else b"")
    (bags / OPEN / "nothing").mkdir()
    assert repair_bags(bags) == []
    assert list((bags / OPEN).iterdir()) == []


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_file_cut_anywhere_is_repaired(bags, failed, cut):
    writer = BagWriter(bags, "e0", TOPICS)
    fill(writer, failed, "e0")
    writer.abandon()
    path = bags / OPEN / "e0" / "e0.mcap"
    size = path.stat().st_size
    os.truncate(path, size - cut * size // 41)
    for bag in repair_bags(bags):
        assert read_episode(bag).voided


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_on_a_full_disk_the_bag_ends_properly(tmp_path, failed):
    with small_disk(tmp_path / "disk", "700k") as disk:
        bags = disk / "bags"
        whole = write_episode_bag(bags, failed, "whole")
        writer = BagWriter(bags, "full", TOPICS)
        fill(writer, failed, "full")
        filled = fill_up(disk)
        with pytest.raises(StorageError, match="disk is full"):
            fill_often(writer, failed)
        bag = writer.finish(outcome_of_episode(failed, "full"))
        with BagReader(bag) as reader:
            assert reader.assembled().episode.voided or len(reader.assembled().episode) == len(failed)
            assert sum(1 for _ in reader.raw()) > 20
        with pytest.raises(StorageError, match="disk is full"):
            BagWriter(bags, "none", TOPICS)
        assert not list((bags / OPEN).iterdir())
        assert_same(read_episode(whole), failed)
        filled.unlink()
        assert_same(read_episode(write_episode_bag(bags, failed, "after")), failed)


def fill_often(writer: BagWriter, episode) -> None:
    for _ in range(100):
        fill(writer, episode, "full")


def fill_up(disk: Path) -> Path:
    """Leaves no room at all."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path
    raise AssertionError("The disk has no end.")


class small_disk:
    def __init__(self, path: Path, size: str) -> None:
        self.path, self.size = path, size

    def __enter__(self) -> Path:
        self.path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount: {done.stderr.strip()}")
        return self.path

    def __exit__(self, *_) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)


def test_a_write_that_fails_leaves_a_proper_bag(bags, failed, monkeypatch):
    """The same, for those who may not mount: the disk takes half a chunk, and no more."""
    writer = BagWriter(bags, "full", TOPICS)
    fill(writer, failed, "full")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half_full(os.pwrite))
        with pytest.raises(StorageError, match="disk is full"):
            writer._file.flush()
    bag = writer.finish(outcome_of_episode(failed, "full").void("the disk was full"))
    with BagReader(bag) as reader:
        assert reader.assembled().report.reason == "the disk was full"
        assert 20 < sum(1 for _ in reader.raw()) < 2 * len(failed)


def half_full(write):
    import errno

    calls = []

    def limited(handle, data, position):
        calls.append(position)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: len(data) // 2], position)

    return limited


def test_a_verdict_after_the_end_is_honoured(bags, failed):
    bag = write_episode_bag(bags, failed, "e0")
    add_label(bag, "void", in_time=True)
    add_label(bag, "success", in_time=False)
    assert read_episode(bag).success
    assert read_episode(bag).reward[-1] == 1.0
    assert read_episode(bag, as_learned=True).voided
    with pytest.raises(ContractError, match="success, failure, void"):
        add_label(bag, "fine", in_time=True)


def test_bags_are_found_in_the_order_of_their_beginning(bags, episodes):
    first = write_episode_bag(bags, episodes[0], "z", first=1)
    second = write_episode_bag(bags, episodes[1], "a", first=100)
    assert bag_paths(bags.parent) == bag_paths(bags) == [first, second]
    assert bag_paths(second) == [second]
    shutil.rmtree(first)
    shutil.rmtree(second)
    with pytest.raises(ConfigError, match="No bags in"):
        bag_paths(bags.parent)
    with pytest.raises(ConfigError, match=r"metadata\.yaml"):
        BagReader(bags)


def test_a_damaged_bag_is_named(bags, episodes):
    bag = write_episode_bag(bags, episodes[0], "e0")
    os.truncate(bag / "e0.mcap", 1000)
    with pytest.raises(StorageError, match="e0"):
        read_episode(bag)


def test_what_is_no_mcap_is_refused(tmp_path):
    path = tmp_path / "x.mcap"
    path.write_bytes(b"hello")
    with pytest.raises(StorageError, match="no MCAP"):
        McapFile.recover(path)
