"""An example of an engine: PyTorch itself, with programs of `torch.export` as its files."""
