"""leadwise: multimodal ECG representation learning."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `leadwise.load` on first access, so that `import leadwise` is fast."""
    if name == "load":
        from leadwise.run import load

        return load
    raise AttributeError(f"module 'leadwise' has no attribute '{name}'")
