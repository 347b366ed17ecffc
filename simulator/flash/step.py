"""Steps of a kernel: functions that are compiled as part of the kernels that call them, and never alone.

Numba optimises every compiled function together with all it calls, turns both into machine code, and does the same
again for each caller. A kernel of many steps, each of which calls others, is so compiled dozens of times over. A
step is only typed and lowered; the kernel that calls it is optimised and turned into machine code once, with all its
steps. A step is also compiled once for all numbers: a constant among its arguments makes no further form of it.
"""

# mypy: disable-error-code="misc, no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

__all__ = ["inlined", "step"]


class _Part(JITCodeLibrary):
    """Code that is linked into a kernel: neither optimised nor made into machine code by itself."""

    def _optimize_functions(self, ll_module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _StepLowering(NativeLowering):
    """Numba's own lowering, into a part of a kernel."""

    _name = "step_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        result = state["cr"]
        # Numba tells compiled forms apart by what Python would call, and wants a builtin there. A step is not called
        # from Python: whatever the arguments are, this one finds them to be no number and raises a ``TypeError``.
        entry = object().__reduce_ex__
        state.targetctx.insert_user_function(entry, result.fndesc, [state.library])
        state["cr"] = result._replace(cfunc=entry)
        return True


class _StepCompiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (_StepLowering if made is NativeLowering else made, text) for made, text in manager.passes
        ]
        manager._finalized = False
        manager.finalize()
        return [manager]


def step(function: Callable[..., Any]) -> Any:
    """Decorator: compile a function as part of the kernels that call it. It must neither raise nor allocate."""
    return _compiled(function, inline=False)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: as :func:`step`, and no call is left: for what has one caller, or is a line or two."""
    return _compiled(function, inline=True)


def _compiled(function: Callable[..., Any], inline: bool) -> Any:
    made: Any = njit(  # type: ignore[call-overload]
        pipeline_class=_StepCompiler,
        forceinline=inline,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        no_rewrites=True,
        error_model="numpy",
        nogil=True,
        _nrt=False,
    )(function)
    if made is not function:
        template = made.get_call_template
        made.get_call_template = lambda args, kws: template(tuple(map(types.unliteral, args)), kws)
    return made
