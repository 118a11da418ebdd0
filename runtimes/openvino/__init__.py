"""OpenVINO: an IR of two files, run by its CPU plugin.

When it is imported and when it converts, OpenVINO reports that to its makers over the network, unless its reporting
package is absent; then it takes its own stub. What an app does on a device stays there, so here it is absent.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None means: not installed
