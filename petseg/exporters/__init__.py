"""Writes a trained network for use elsewhere: as ONNX, as safetensors, or as a repository of the Hugging Face Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "onnx_model": ["export_onnx"],
        "safetensors_weights": ["export_weights"],
        "hub_repository": ["export_hub"],
    },
)
