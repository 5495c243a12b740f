"""One module a GCE collection: plain mapping functions, and the functions of its methods.

A new collection is a proto and a module here; `load` finds it.
"""

import pkgutil
from importlib import import_module


def load() -> None:
    """Import every module, which registers its methods and operation handlers."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
