"""leadwise: multimodal ECG representation learning.

    import leadwise as lw

    model = lw.load("runs/mine")      # Model: embed, zeroshot, similar, explain
    ecg = lw.read("ecg.xml")          # ECG: signal, quality, plot
    lw.formats()                      # the file formats that can be read

The names below are imported on first access, so that `import leadwise` is fast and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from leadwise.ecg import ECG, formats, read
    from leadwise.model import Model, load
    from leadwise.sklearn import ECGEmbedder

_MODULES = {  # name -> the module that defines it
    "ECG": "ecg",
    "ECGEmbedder": "sklearn",
    "Model": "model",
    "formats": "ecg",
    "load": "model",
    "read": "ecg",
}
__all__ = ["ECG", "ECGEmbedder", "Model", "__version__", "formats", "load", "read"]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"leadwise.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'leadwise' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
