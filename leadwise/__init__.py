"""leadwise: multimodal ECG representation learning."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`leadwise.load(folder)`, imported when asked for: `import leadwise` stays light."""
    if name == "load":
        from leadwise.run import load

        return load
    raise AttributeError(f"module 'leadwise' has no attribute '{name}'")
