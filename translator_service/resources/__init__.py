"""One module a GCE collection: plain mapping functions, and the functions of its methods.

A new collection is a proto and a module here; `load` finds it. A large one is a package.
"""

import pkgutil
from importlib import import_module


def load() -> None:
    """Import every module, which registers its methods and operation handlers."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        import_module(module.name)
