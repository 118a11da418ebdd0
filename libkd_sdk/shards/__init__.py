"""Many images in shards: what `libkd-sdk predict --out` reads, the folder that it fills, and the work itself."""
