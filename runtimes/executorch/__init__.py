"""ExecuTorch: one `.pte` file whose graph is delegated to XNNPACK, or to a backend of another device."""
