"""The example of docs/bring_your_own.md, run as it is printed there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bring_your_own.md"


@pytest.mark.slow
def test_the_documented_example_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert len(example.strip().splitlines()) <= 21
    exec(compile(example, str(PAGE), "exec"), {"__name__": "example"})
    outcome = json.loads(Path("runs/mountain_car/eval.json").read_text())
    assert 0.3 <= outcome["base"]["rate"] <= 0.9
    assert outcome["base"]["episodes"] == outcome["specialist"]["episodes"] == 50
    assert outcome["specialist"]["rate"] >= outcome["base"]["rate"] + 0.2
    assert float(capsys.readouterr().out.strip().splitlines()[-1]) == outcome["specialist"]["rate"]
