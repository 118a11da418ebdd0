"""Write spec/bundle.schema.json from the manifest's struct."""

from __future__ import annotations

import json
from pathlib import Path

from sdk.bundle.manifest import json_schema
from sdk.files import write_whole

SCHEMA = Path(__file__).parents[1] / "spec" / "bundle.schema.json"

if __name__ == "__main__":
    write_whole(SCHEMA, json.dumps(json_schema(), indent=2) + "\n")
    print(SCHEMA)
