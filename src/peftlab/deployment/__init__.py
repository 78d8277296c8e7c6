"""Finished models in the forms that are deployed: packed safetensors, and ONNX for onnxruntime."""
