"""Policies as files for other programs: one file an agent, as ONNX, npz or safetensors."""
