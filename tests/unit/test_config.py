"""Settings: presets, overrides, and every way in which they may be wrong."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pld_core import config as settings
from pld_core import config_rules as rules
from pld_core.config import TrainConfig, load_config
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.rl.config import LearnerConfig
from pld_core.stages.seeds import training_seeds


@pytest.mark.parametrize("preset", settings.preset_names())
def test_every_preset_loads_and_survives_a_round_trip(preset):
    config = load_config(preset)
    assert config.preset == preset
    assert settings.from_dict(yaml.safe_load(settings.to_yaml(config))) == config


def test_the_presets_that_the_readme_names_exist():
    expected = {"peg_insertion", "cube_pickup", "gpu_insertion", "peg_insertion_tokens", "debug"}
    assert expected <= set(settings.preset_names())


def test_overrides_by_dotted_key_and_by_section_agree():
    dotted = load_config("debug", {"learn.steps": 7, "learn.gamma": 0.9, "seed": 3})
    nested = load_config("debug", {"learn": {"steps": 7, "gamma": 0.9}, "seed": 3})
    assert dotted == nested
    assert (dotted.learn.steps, dotted.learn.gamma, dotted.seed) == (7, 0.9, 3)
    assert dotted.learn.batch_size == load_config("debug").learn.batch_size


def test_extends_takes_what_the_preset_does_not_say():
    assert load_config("peg_insertion_tokens").task == load_config("peg_insertion").task
    assert load_config("peg_insertion_tokens").base.head != load_config("peg_insertion").base.head


def test_a_preset_may_be_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: peg_insertion\nlearn: {steps: 12, learning_rate: 1e-4}\n")
    config = load_config(str(path))
    assert config.learn.steps == 12
    assert config.learn.learning_rate == pytest.approx(1e-4)  # YAML 1.1 reads 1e-4 as text
    assert config.run_name == "mine-seed0"


def test_presets_that_extend_each_other_are_refused(tmp_path):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(f"extends: {b}\n")
    b.write_text(f"extends: {a}\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(str(a))


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("learn.stepz", "learn.steps"), ("lern.steps", "learn.steps"), ("gamma", "learn.gamma"), ("sead", "seed")],
)
def test_unknown_keys_get_a_suggestion_with_the_full_path(key, suggestion):
    with pytest.raises(UnknownNameError) as caught:
        load_config("debug", {key: 1})
    assert caught.value.suggestion == suggestion
    assert key in str(caught.value)


def test_an_unknown_key_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("learn: {batchsize: 2}\n")
    with pytest.raises(UnknownNameError, match=r"mine\.yaml.*learn\.batchsize.*learn\.batch_size"):
        load_config(str(path))


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="Did you mean 'peg_insertion'"):
        load_config("peg_insertoin")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"learn.steps": "many"}, "learn.steps.*must be int, got 'many'"),
        ({"learn.steps": 1.5}, "learn.steps.*must be int"),
        ({"learn.steps": True}, "learn.steps.*must be int, got True"),
        ({"learn.gamma": "high"}, "learn.gamma.*must be float"),
        ({"learn.gamma": False}, "learn.gamma.*must be float"),
        ({"from_scratch": 1}, "from_scratch.*must be bool"),
        ({"learn.hidden": 256}, "learn.hidden.*must be"),
        ({"learn.hidden": [256, "x"]}, r"learn.hidden\[1\].*must be int"),
        ({"learn": 3}, "learn.*must be a mapping"),
        ({"learn.algorithm": "rldp"}, "learn.algorithm.*Did you mean 'rlpd'"),
        ({"base.head": 3}, "base.head.*must be"),
    ],
)
def test_wrong_types_name_key_given_and_expected(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("debug", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"learn.steps": 0}, "learn.steps must be greater than 0, got 0"),
        ({"lanes": -1}, "lanes must be greater than 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"learn.gamma": 1.01}, "learn.gamma must be between 0 and 1"),
        ({"learn.gamma": float("nan")}, "learn.gamma must be between 0 and 1"),
        ({"probe.alpha": -0.1}, "probe.alpha must be between 0 and 1"),
        ({"learn.hidden": []}, "learn.hidden"),
        ({"learn.hidden": [0]}, "learn.hidden"),
        ({"name": "../elsewhere"}, "plain folder name"),
        ({"name": "latest"}, "plain folder name"),
        ({"seed": 100}, "seed must be below 100, got 100"),
        ({"learn.gamma": 0.0}, "learn.gamma must be greater than 0"),
        ({"learn.tau": 0.0}, "learn.tau must be greater than 0"),
        ({"learn.policy_features": -1}, "learn.policy_features must be 0 or more"),
        ({"learn.initial_log_std": 2.0}, "learn.initial_log_std must lie between -5.0 and 1.0, got 2.0"),
        ({"learn.initial_log_std": float("nan")}, "learn.initial_log_std must lie between"),
        ({"learn.min_temperature": 1.0}, "learn.initial_temperature .* below learn.min_temperature"),
        ({"learn.replay_capacity": 1}, "learn.replay_capacity must be 2 or more"),
        ({"learn.xi_max": 0.0}, "learn.calql_steps needs learn.xi_max"),
    ],
)
def test_values_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("debug", override)


def test_broken_yaml_names_the_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("learn:\n  steps: [1\n")
    with pytest.raises(ConfigError, match=r"(?s)mine\.yaml is not valid YAML.*line"):
        load_config(str(path))
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="key: value"):
        load_config(str(path))
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(str(tmp_path / "absent.yaml"))


def test_a_key_that_is_given_twice_is_refused_with_its_lines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: debug\nlearn:\n  steps: 100\n  # a hundred lines further down\n  steps: 200\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: 'steps' is given twice, on line 3 and on line 5"):
        load_config(str(path))
    path.write_text("extends: debug\nlearn: {steps: 100}\nprobe: {episodes: 3}\nlearn: {gamma: 0.9}\n")
    with pytest.raises(ConfigError, match="'learn' is given twice, on line 2 and on line 4"):
        load_config(str(path))


def test_what_is_merged_in_may_be_given_anew(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("deep: {first: &first {<<: &base {a: 1, b: 2}, b: 3}}\nsecond: {<<: *first, a: 4}\nthird: *first\n")
    first, second = {"a": 1, "b": 3}, {"a": 4, "b": 3}
    assert settings.read_yaml(path) == {"deep": {"first": first}, "second": second, "third": first}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("extends: debug\n# f\u00fcr\n".encode("latin-1"), "is not UTF-8 text: byte 0xfc on line 2. Save it as UTF-8"),
        ("extends: debug\n".encode("utf-16"), "is not UTF-8 text: byte 0xff on line 1"),
        (b"extends: debug\nname: \x00\n", "is not valid YAML"),
        (b"extends: debug\nname: 2024-13-01\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, data, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))


def test_every_numeric_setting_has_a_range():
    """A new number without a rule would accept nonsense silently."""
    unruled = {"target_entropy", "initial_log_std"}  # any sign; the latter has bounds of its own
    ruled = rules.POSITIVE | rules.NOT_NEGATIVE | rules.FRACTIONS | unruled
    flat = settings.flatten(settings.to_dict(TrainConfig()))
    numbers = {k.rpartition(".")[2] for k, v in flat.items() if isinstance(v, (int, float)) and type(v) is not bool}
    assert numbers <= ruled, f"say in config.py which range these have: {sorted(numbers - ruled)}"
    leaves = {k.rpartition(".")[2] for k in flat}
    assert ruled <= leaves, f"rules for settings that do not exist: {sorted(ruled - leaves)}"


def test_what_is_accepted_here_is_accepted_where_it_is_used():
    learner = LearnerConfig()
    assert (learner.log_std_min, learner.log_std_max) == rules.LOG_STD
    highest = rules.SEEDS - 1
    assert load_config("debug", {"seed": highest}).seed == highest
    assert next(training_seeds("probe", highest + 100)) < 10**9  # a baseline's demonstrations: run seed + 100


def test_the_target_entropy_may_be_left_to_the_action_size(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: debug\nlearn: {target_entropy: null}\n")
    config = load_config(str(path))
    assert config.learn.target_entropy is None
    assert settings.from_dict(yaml.safe_load(settings.to_yaml(config))) == config


@pytest.mark.parametrize(
    ("preset", "task", "expected"),
    [
        ("peg_insertion", "peg_insertion", "peg_insertion-seed3"),
        ("peg_insertion_rlpd", "peg_insertion", "peg_insertion_rlpd-seed3"),
        ("debug", "cube_pickup", "debug-cube_pickup-seed3"),
        ("custom", "my_task", "my_task-seed3"),
        ("custom", "my_package.tasks:make_lanes", "make_lanes-seed3"),
        ("custom", "<my_package.tasks.make.<lambda>>", "lambda-seed3"),
    ],
)
def test_runs_of_different_tasks_get_different_folders(preset, task, expected):
    assert load_config(preset, {"task": task, "seed": 3}).run_name == expected


def test_what_may_change_on_resume():
    old = load_config("debug")
    harmless = dataclasses.replace(old, wandb=True, fresh=True, report=settings.ReportConfig(videos=False))
    assert settings.differing_keys(old, harmless) == {}
    changed = load_config("debug", {"learn.steps": 201, "seed": 1})
    assert settings.differing_keys(old, changed) == {"learn.steps": (200, 201), "seed": (0, 1)}


@given(
    steps=st.integers(1, 10**9),
    gamma=st.floats(0, 1, exclude_min=True),
    hidden=st.lists(st.integers(1, 4096), min_size=1, max_size=5),
    name=st.text("abcXYZ019_-. :#'\"", max_size=12).filter(lambda n: n not in (".", "..", "latest")),
)
def test_any_valid_settings_survive_yaml(steps, gamma, hidden, name):
    config = load_config("debug", {"learn.steps": steps, "learn.gamma": gamma, "learn.hidden": hidden, "name": name})
    assert settings.from_dict(yaml.safe_load(settings.to_yaml(config))) == config


def test_a_task_of_a_suite_has_the_preset_of_its_suite() -> None:
    assert settings.preset_for("libero_object/3") == "libero_object"
    assert settings.preset_for("libero_nowhere/3") == "custom"
    config = load_config("libero_object", {"task": "libero_object/3"})
    assert config.run_name == "libero_object-3-seed0"
    assert load_config("libero_object").run_name == "libero_object-8-seed0"
    assert load_config("custom", {"task": "libero_goal/3"}).run_name == "libero_goal-3-seed0"
    assert load_config("peg_insertion", {"task": "libero_goal/3"}).run_name == "peg_insertion-libero_goal-3-seed0"
