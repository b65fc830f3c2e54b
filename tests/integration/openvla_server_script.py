"""A REST server of what OpenVLA's deploy.py is made of: FastAPI, uvicorn, json-numpy, "error" for all that fails.

    python openvla_server_script.py PORT CHUNK    (0: one action, as OpenVLA; else a list, as OpenVLA-OFT)

Run by an environment that has those packages and nothing of this project; the network is a mean over the pictures.
"""

import sys
from typing import Any

import json_numpy
import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

json_numpy.patch()
port, chunk = int(sys.argv[1]), int(sys.argv[2])


def act(payload: dict[str, Any]) -> Any:
    try:
        pictures = [payload[key] for key in payload if "image" in key]
        assert all(picture.dtype == np.uint8 and picture.shape == (224, 224, 3) for picture in pictures)
        assert payload.get("unnorm_key") in (None, "libero_object_no_noops")
        action = np.full(7, np.mean(pictures) / 255)
        action[0] = payload["state"].sum() if chunk else len(payload["instruction"]) / 100
        return JSONResponse([action + 0.01 * k for k in range(chunk)] if chunk else action)
    except Exception as error:
        print(repr(error), file=sys.stderr)
        return "error"


app = FastAPI()
app.post("/act")(act)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
