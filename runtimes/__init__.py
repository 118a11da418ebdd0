"""One folder per engine: how its files are made, and how they are run."""
