"""The versions of the packages that decide a result."""

from __future__ import annotations

import importlib.metadata
import platform

from leadwise import __version__

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Return the versions of leadwise, Python and the packages that compute scores, by name."""
    return {
        "leadwise": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
