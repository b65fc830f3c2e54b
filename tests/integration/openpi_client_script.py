"""Run by an environment that has openpi's own client and nothing of this project: what it gets, as JSON."""

import json
import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, requests = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
policy = WebsocketClientPolicy("127.0.0.1", port)
answers = []
for _ in range(requests):
    request = {
        "observation/image": rng.integers(0, 256, (224, 224, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (224, 224, 3), dtype=np.uint8),
        "observation/state": rng.normal(size=8),
        "prompt": "pick up the milk and place it in the basket",
    }
    answers.append(policy.infer(request))
refused = ""
try:
    policy.infer({"observation/state": np.zeros(8), "prompt": ""})
except RuntimeError as error:
    refused = str(error)
print(
    json.dumps(
        {
            "numpy": np.__version__,
            "metadata": policy.get_server_metadata(),
            "actions": [answer["actions"].tolist() for answer in answers],
            "dtype": str(answers[0]["actions"].dtype),
            "timing": [sorted(answer["server_timing"]) for answer in answers],
            "refused": refused,
        }
    )
)
