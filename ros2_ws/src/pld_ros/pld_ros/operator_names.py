"""Names of the operator node's services, and what they are called with."""

from __future__ import annotations

RESET = "operator/reset"
START = "operator/start"
SUCCESS = "operator/success"
FAIL = "operator/fail"
LABEL = "operator/label"
PAUSE = "operator/pause"
ESTOP = "operator/estop"
DRIVE = "operator/drive"  # topic: what a front end in another process wants; an empty action: let go
