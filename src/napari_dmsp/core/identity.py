"""What makes one denoiser another: a hash of its code, its parameters and all that it refers to."""

from __future__ import annotations

import dis
import hashlib
import sys
import uuid
from importlib import import_module
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch


def fingerprint(value: Any) -> str:
    """Return a hash that is the same in every process for a callable that computes the same.

    Functions are their code, attributes, defaults, closures, the globals that they name, and what
    they name of modules; objects are their class and their state, networks with all parameters and
    buffers; installed packages are their version. What cannot be looked into, such as a file or a
    lock, gives a random one: it is equal to nothing, itself included.

    Parameters
    ----------
    value : object
        Most likely a ``denoiser(x, sigma)``.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    hasher = _Hasher()
    try:
        hasher.feed(value)
    # Reducing an object runs code of its class, which may fail in any way.
    except Exception:
        hasher.update(uuid.uuid4().bytes)
    return hasher.digest.hexdigest()


class _Hasher:
    """Feeds values into a hash, each of them once."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        # Values, too, so that no other one gets the number of one that is gone.
        self.seen: dict[int, tuple[int, Any]] = {}
        # What was added of modules that are not installed: their names, and names in them.
        self.named: set[tuple[str, str]] = set()

    def update(self, *parts: object) -> None:
        """Add bytes, or what describes a value in full."""
        for part in parts:
            content = part if isinstance(part, bytes) else repr(part).encode()
            self.digest.update(f"{type(part).__name__}:{len(content)}:".encode() + content)

    def feed(self, value: Any) -> None:
        """Add a value of any type, and what it refers to."""
        if value is None or value is ... or isinstance(value, _PLAIN):
            self.update(value)
            return
        if id(value) in self.seen:
            self.update("again", self.seen[id(value)][0])
            return
        self.seen[id(value)] = len(self.seen), value
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            self.update("tensor", str(value.dtype), tuple(value.shape), value.requires_grad)
            self.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
            self.update("array", value.dtype.str, value.shape, value.tobytes())
        elif isinstance(value, (list, tuple)):
            self.update(type(value).__qualname__, len(value))
            self._feed_all(value)
        elif isinstance(value, (set, frozenset)):
            self.update(type(value).__qualname__, *sorted(fingerprint(each) for each in value))
        elif isinstance(value, dict):
            self.update(type(value).__qualname__, len(value))
            self._feed_all(part for pair in value.items() for part in pair)
        elif isinstance(value, ModuleType):
            self._feed_name(value.__name__, "")
        elif isinstance(value, CodeType):
            self._feed_code(value)
        elif isinstance(value, MethodType):
            self._feed_all((value.__func__, value.__self__))
        elif isinstance(value, (FunctionType, type)):
            self._feed_definition(value)
        elif isinstance(value, BuiltinFunctionType):
            self._feed_name(value.__module__ or "", value.__qualname__)
            if not isinstance(value.__self__, (ModuleType, type(None))):
                self.feed(value.__self__)
        else:
            reduced = value.__reduce_ex__(4)
            if isinstance(reduced, str):
                self.update(type(value).__qualname__, reduced)
                # What decorators such as ``functools.lru_cache`` call.
                self.feed(getattr(value, "__wrapped__", None))
            else:
                # The last two are iterators over what lists and dictionaries hold.
                self._feed_all(reduced[:3])
                self._feed_all(list(part) for part in reduced[3:5] if part is not None)

    def _feed_all(self, values: Any) -> None:
        for value in values:
            self.feed(value)

    def _feed_name(self, module: str, name: str) -> bool:
        """Add where something is defined; whether that is an installed package."""
        package = sys.modules.get(module.partition(".")[0])
        file = getattr(package, "__file__", None) or ""
        standard = module.partition(".")[0] in sys.stdlib_module_names
        installed = standard or "site-packages" in file or "dist-packages" in file
        self.update(module, name, str(getattr(package, "__version__", "")) if installed else "")
        return installed and module != "__main__"

    def _feed_definition(self, value: Any) -> None:
        """Add a function or a class: by its name if it is installed, else by its code."""
        if self._feed_name(value.__module__ or "", value.__qualname__):
            return
        if isinstance(value, type):
            members = {k: v for k, v in vars(value).items() if k not in _GENERATED}
            self._feed_all((value.__bases__, {k: _inner(v) for k, v in members.items()}))
            return
        self._feed_all((value.__code__, value.__defaults__, value.__kwdefaults__, vars(value)))
        known, names, imports = _references(value.__code__)
        for cell in value.__closure__ or ():
            self._feed_named(cell.cell_contents, names)
        for name in sorted(known & value.__globals__.keys()):
            self.update(name)
            self._feed_named(value.__globals__[name], names)
        for name in sorted(imports):
            module = import_module(name, value.__globals__.get("__package__"))
            self._feed_named(module, names)

    def _feed_named(self, value: Any, names: set[str]) -> None:
        """Add a value; of a module that is not installed, all that code with such names uses."""
        if not isinstance(value, ModuleType):
            self.feed(value)
        elif not self._feed_name(value.__name__, ""):
            for name in sorted(names & vars(value).keys()):
                if (value.__name__, name) not in self.named:
                    self.named.add((value.__name__, name))
                    self.update(name)
                    self._feed_named(vars(value)[name], names)

    def _feed_code(self, code: CodeType) -> None:
        self.update(code.co_code, code.co_names, code.co_varnames, code.co_freevars)
        self.update(code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable)
        self._feed_all(code.co_consts)


# Types whose values are told apart by how they are written.
_PLAIN = (bool, int, float, complex, str, bytes)
# Attributes of classes that Python makes, and that say where, not what, a class is.
_GENERATED = ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__")


def _inner(member: Any) -> Any:
    """Return the functions in a member of a class."""
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    if isinstance(member, property):
        return [member.fget, member.fset]
    return member


def _references(code: CodeType) -> tuple[set[str], set[str], set[str]]:
    """Return the globals, all names, and the imports of code and of the functions in it."""
    steps = [i for i in dis.get_instructions(code) if i.opname != "EXTENDED_ARG"]
    globals_ = {i.argval for i in steps if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    # Two steps before, how many packages up a relative one begins.
    imports = {
        "." * before.argval + i.argval
        for before, i in zip(steps, steps[2:], strict=False)
        if i.opname == "IMPORT_NAME"
    }
    found = globals_, set(code.co_names), imports
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            for known, new in zip(found, _references(inner), strict=True):
                known |= new
    return found
