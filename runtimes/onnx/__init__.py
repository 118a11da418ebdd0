"""ONNX: made by torch.onnx, run by ONNX Runtime.

From 1.29 on, ONNX Runtime reports to its makers when it is imported: it looks up their servers, and keeps a database
and an identity of the device in the user's cache. It asks the environment whether it may, and only once. What an app
does on a device stays there, so the answer is no, unless the environment already has another one.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
