"""Writes a trained network for use elsewhere: as an ONNX model, or its weights as safetensors with a model card."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"onnx_model": ["export_onnx"], "safetensors_weights": ["export_weights"]}
)
