"""The one way to compile a kernel with numba.

Three things differ from numba's own decorator. A kernel is kept on disk by the content of all its sources
(:mod:`hw_configs.kernel_files`), so that it never outlives them. It holds no lock of the interpreter. And a kernel
that another kernel calls becomes part of that one: numba would optimise it and make machine code of it by itself,
then again in each function above it, up to the kernel that Python calls; here that last one alone is optimised,
with all it contains, which takes a third of the time.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final, overload

from hw_configs.kernel_files import KernelFile, fingerprint

__all__ = ["LOGGER", "compiled", "inlined"]

LOGGER: Final = logging.getLogger("offchip.compiled")
"""Says ``compiling, once`` (level INFO) before the first kernel of a process that is not on disk."""

_FRAME_SLOTS: Final = 66_000
"""Pointers: 524 KiB with what CPython adds, for which it takes 1 MiB, of which no more than the callees' is touched."""


@overload
def compiled(function: Callable[..., Any], /) -> Any: ...
@overload
def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]: ...
def compiled(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorator: compile a function with numba at its first call, or take it from disk.

    ``options`` are numba's own. The compiled code must not touch Python objects. ``_nrt=False`` leaves out
    reference counts, for a kernel that allocates nothing and keeps no array: they are atomic operations, and can
    cost more than the work itself. With ``NUMBA_DISABLE_JIT=1`` the function stays what it is.
    """
    if function is None:
        return lambda decorated: _compiled(decorated, options)
    return _compiled(function, {})


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: a small step that is put into the kernels that call it, without reference counts."""
    return _compiled(function, {"forceinline": True, "_nrt": False})


def _compiled(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    import numba
    from numba.core import types

    settings: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True, **options}
    whole, part = _compilers()
    njit: Any = numba.njit
    unliteral: Any = types.unliteral
    kernel = njit(**settings, pipeline_class=whole)(function)
    if kernel is function:
        return function
    kernel._cache = _kept_forms(function)
    kernel.compile = _quickly(kernel.compile)
    if options.get("inline") != "always":
        # What other kernels ask for when they call this one: its types, and what to link into themselves.
        step = njit(**settings, pipeline_class=part, no_cpython_wrapper=True)(function)
        forms = step.overloads
        step.add_overload = lambda form: forms.update({tuple(form.signature.args): form})
        kernel.get_overload = step.get_overload
        kernel.get_call_template = lambda args, kws: step.get_call_template(
            # One form for all numbers, not one for each number that stands in a call.
            tuple(unliteral(a) for a in args),
            {k: unliteral(a) for k, a in kws.items()},
        )
    return kernel


def _quickly(compile_form: Callable[..., Any]) -> Callable[..., Any]:
    """The same in two thirds of the processor's time, most of which goes into Python's own upkeep.

    The collector of cycles rests: a compiler makes much and drops little. And the compiler's many calls find their
    frames in one piece of memory: CPython takes frames in pieces of 16 KiB, so that a call which begins a piece asks
    the system for one, and gives it back at its return, however often it is made.
    """

    def compile_uncollected(signature: Any) -> Any:
        gc.disable()
        try:
            return compile_form(signature)
        finally:
            gc.enable()

    # A frame that says it needs a large stack gets a piece that holds it, and as much again for its callees.
    roomy = FunctionType(
        compile_uncollected.__code__.replace(co_stacksize=_FRAME_SLOTS), globals(), "compile_uncollected", None,
        compile_uncollected.__closure__,
    )  # fmt: skip

    def compile_quickly(signature: Any) -> Any:
        return roomy(signature) if gc.isenabled() else compile_form(signature)

    return compile_quickly


@cache
def _announce() -> None:
    LOGGER.info("compiling, once")


def _kept_forms(function: Callable[..., Any]) -> Any:
    """Numba's view of the directory: what it asks before it compiles a function, and gives what it compiled."""
    from numba.core.caching import NullCache
    from numba.core.compiler import CompileResult
    from numba.core.serialize import dumps

    source = Path(function.__code__.co_filename)

    class KeptForms(NullCache):
        """Compiled forms of one function, by the types of its arguments."""

        def _file(self, signature: Any, codegen: Any) -> KernelFile | None:
            made_from = fingerprint(function.__module__, source)
            if made_from is None:
                return None
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
            return KernelFile(
                f"{function.__module__}.{function.__qualname__}",
                made_from,
                function.__code__.co_firstlineno,
                str(signature),
                codegen.magic_tuple(),
                dumps(cells) if cells else b"",  # type: ignore[no-untyped-call]
            )

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            target_context.refresh()
            file = self._file(sig, target_context.codegen())
            data = file.read() if file is not None else None
            if data is not None:
                try:
                    return CompileResult._rebuild(target_context, *data)  # type: ignore[no-untyped-call]
                except Exception:
                    # Whole, but not what this numba can use.
                    pass
            _announce()
            return None

        def save_overload(self, sig: Any, data: Any) -> None:
            file = self._file(sig, data.codegen)
            fit = not data.library.has_dynamic_globals and all(loop.can_cache for loop in data.lifted)
            if file is not None and fit:
                file.write(dumps(data._reduce()))  # type: ignore[no-untyped-call]

    return KeptForms()


@cache
def _compilers() -> tuple[Any, Any]:
    """Numba's compiler for a kernel that Python calls, and for one as a part of others."""
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import CompilerBase, DefaultPassBuilder
    from numba.core.compiler_machinery import register_pass
    from numba.core.typed_passes import NativeLowering

    class Whole(JITCodeLibrary):
        """Code of a kernel with all its steps, as the machine runs it."""

        def finalize(self) -> None:
            # LLVM links a step only where something linked before calls it: callers go first.
            callees_first: dict[Any, None] = {}

            def visit(library: Any) -> None:
                if library not in callees_first:
                    for called in library._linking_libraries if isinstance(library, Part) else ():
                        visit(called)
                    callees_first[library] = None

            for library in self._linking_libraries:
                visit(library)
            self._linking_libraries = list(reversed(callees_first))
            super().finalize()  # type: ignore[no-untyped-call]

        def _verify_declare_only_symbols(self) -> None:
            # A call into nowhere would end the process without a word.
            missing = [
                f.name for f in self._final_module.functions if f.is_declaration and f.name.startswith("_ZN")
            ]
            if missing:
                raise AssertionError(f"steps not linked: {', '.join(missing)}")

    class Part(JITCodeLibrary):
        """Code of one step, neither optimised as a whole nor linked with what it calls."""

        def finalize(self) -> None:
            self._raise_if_finalized()  # type: ignore[no-untyped-call]
            self._finalize_dynamic_globals()  # type: ignore[no-untyped-call]
            self._finalized = True

    new_whole: Any = Whole
    new_part: Any = Part

    @register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
    class LowerWhole(NativeLowering):
        """Numba's lowering, into a library that puts its steps together itself."""

        _name = "lower_whole"

        def run_pass(self, state: Any) -> bool:
            state.library = new_whole(state.targetctx.codegen(), state.func_id.func_qualname)
            state.library.enable_object_caching()
            return bool(super().run_pass(state))  # type: ignore[no-untyped-call]

    @register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[no-untyped-call]
    class LowerPart(NativeLowering):
        """Numba's lowering, without machine code: that is for the kernel that holds this step."""

        _name = "lower_part"

        def run_pass(self, state: Any) -> bool:
            state.library = new_part(state.targetctx.codegen(), state.func_id.func_qualname)
            state.flags.no_compile = True
            super().run_pass(state)  # type: ignore[no-untyped-call]
            # What calls of this step are looked up by, instead of the address of machine code.
            place = object()
            state.targetctx.insert_user_function(place, state.cr.fndesc, [state.library])
            state.reload_init.extend(getattr(state.library, "_reload_init", ()))
            state.cr = state.cr._replace(cfunc=place)
            return True

    def compiler(lowering: Any) -> Any:
        class Compiler(CompilerBase):
            """Numba's own passes, but for the last one."""

            def define_pipelines(self) -> list[Any]:
                manager = DefaultPassBuilder.define_nopython_pipeline(self.state)  # type: ignore[no-untyped-call]
                manager.passes = [
                    (lowering if p is NativeLowering else p, what) for p, what in manager.passes
                ]
                manager.finalize()
                return [manager]

        return Compiler

    return compiler(LowerWhole), compiler(LowerPart)
