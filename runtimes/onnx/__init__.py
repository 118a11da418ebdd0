"""ONNX: made by torch.onnx, run by ONNX Runtime."""
