"""ExecuTorch: one `.pte` file whose graph is delegated to XNNPACK."""
