"""Import a package with some names of *its* imports replaced, and of nobody else's.

A module resolves its import statements by `__import__` of its own `__builtins__`. The
modules of the package are given one that answers with overlays: what is imported, with
the replacements in front. The modules behind are never written to.
"""

import builtins
import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

Names = Mapping[str, object]


def import_with(
    package: str,
    *,
    replaced: Mapping[str, Names],
    stubs: Mapping[str, str],
    patches: Mapping[str, Callable[[ModuleType], Names]],
) -> ModuleType:
    """Import `package`, not imported yet, from source: all of it or nothing."""
    # Afterwards `sys.modules` holds the package and whatever it imports, as after any
    # import, and nothing else has changed; after an exception, not even the package.
    # `replaced` has names that the package is to see in a module instead of, or besides,
    # the module's own; it need not exist. `stubs` says why modules are left empty, to
    # whoever asks a name of them. `patches` makes, of an executed module, names to
    # replace in it.
    overlays = _overlays(replaced)
    own_builtins = vars(builtins) | {"__import__": _import_fn(overlays)}
    finder = _Finder(package, own_builtins, stubs, patches)
    _forget(package)  # what an earlier import that failed has left
    try:
        with _first_on_meta_path(finder):
            return importlib.import_module(package)
    except BaseException:
        _forget(package)
        raise


def is_imported_with(module: ModuleType) -> bool:
    """Whether `module` was imported by `import_with`."""
    return isinstance(getattr(module.__spec__, "loader", None), _Loader)


class _Overlay(ModuleType):
    """The names of a module, if it exists, behind names of our own."""

    def __init__(self, name: str, module: ModuleType | None, names: Names) -> None:
        super().__init__(name)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _overlays(replaced: Mapping[str, Names]) -> dict[str, _Overlay]:
    """An overlay for every module named and for its parents, each inside its parent."""
    overlays: dict[str, _Overlay] = {}

    def add(name: str, names: Names) -> None:
        parent, _, child = name.rpartition(".")
        if parent and parent not in overlays:
            add(parent, {})
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            module = None
        overlays[name] = _Overlay(name, module, names)
        if parent:
            setattr(overlays[parent], child, overlays[name])

    for name in sorted(replaced):  # parents come before children
        add(name, replaced[name])
    return overlays


def _import_fn(overlays: Mapping[str, ModuleType]) -> Callable[..., ModuleType]:
    """`__import__` that answers with overlays where there are any."""

    def import_(
        name: str,
        scope: Mapping[str, object] | None = None,
        local_scope: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
        /,
    ) -> ModuleType:
        root = name.partition(".")[0]
        if name not in overlays or level:
            module = builtins.__import__(
                name, scope, local_scope, fromlist or (), level
            )
            if fromlist or level or root not in overlays:
                return module
        return overlays[name if fromlist else root]

    return import_


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a module under builtins of its own, then patches it."""

    def __init__(
        self,
        name: str,
        path: str,
        own_builtins: Names,
        patch: Callable[[ModuleType], Names] | None,
    ) -> None:
        super().__init__(name, path)
        self._own_builtins = own_builtins
        self._patch = patch

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._own_builtins
        super().exec_module(module)
        if self._patch is not None:
            module.__dict__.update(self._patch(module))


class _StubLoader(importlib.abc.Loader):
    """Leaves a module empty, and says why to whoever asks it for a name."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def exec_module(self, module: ModuleType) -> None:
        def refuse(name: str) -> Any:
            raise AttributeError(f"`{module.__name__}.{name}`: {self._reason}")

        module.__dict__["__getattr__"] = refuse


@dataclasses.dataclass(frozen=True, eq=False)
class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one package, for the loaders above."""

    package: str
    own_builtins: Names
    stubs: Mapping[str, str]
    patches: Mapping[str, Callable[[ModuleType], Names]]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if not _belongs(fullname, self.package):
            return None
        if fullname in self.stubs:
            stub = _StubLoader(self.stubs[fullname])
            return importlib.machinery.ModuleSpec(fullname, stub, is_package=True)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(
            spec.loader, importlib.machinery.SourceFileLoader
        ):
            patch = self.patches.get(fullname)
            spec.loader = _Loader(fullname, spec.loader.path, self.own_builtins, patch)
        return spec


@contextlib.contextmanager
def _first_on_meta_path(finder: importlib.abc.MetaPathFinder) -> Iterator[None]:
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if _belongs(name, package)]:
        del sys.modules[name]


def _belongs(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
