"""Caches that are not one pool of equal blocks: contiguous virtual memory, and layers that keep different things.

A request's cache then is a number of pages (:class:`~simulator.serving.rules.PageGroup`); no two requests share one.
"""

from __future__ import annotations

from typing import Final

from hw_configs.problems import bad_input
from simulator.serving.rules import PageGroup
from simulator.serving.scheduler import KvSpace

__all__ = ["VATTENTION_PAGES", "contiguous", "hybrid", "pages_of"]

VATTENTION_PAGES: Final = (64 << 10, 128 << 10, 256 << 10, 2 << 20)
"""Bytes of a page of physical memory that vAttention maps (Prabhu et al., ASPLOS 2025, table 3)."""


def pages_of(groups: tuple[PageGroup, ...], tokens: int, step_tokens: int) -> int:
    """Most pages that a request of ``tokens`` comes to hold; a step computes ``step_tokens`` of it at most."""
    total = 0
    for group in groups:
        if group.page_tokens == 0:
            total += group.pages
            continue
        whole = -(-tokens // group.page_tokens)
        if group.window > 0:
            # What a step computes, and what its first token looks back on; they may begin amid a page.
            whole = min(whole, -(-(group.window - 1 + step_tokens) // group.page_tokens) + 1)
        total += group.pages * whole
    return total


def contiguous(capacity_bytes: int, page_bytes: int, tensors: int, token_bytes: int) -> KvSpace:
    """VAttention's cache: each request has a contiguous stretch of virtual memory in each of ``tensors`` tensors.

    ``tensors``: keys and values of each layer, two a layer. ``token_bytes``: of one token in one of them. Physical
    pages of ``page_bytes`` (64 KiB to 2 MiB) are mapped behind as far as a request has come. Source: Prabhu et al.,
    "vAttention: Dynamic Memory Management for Serving LLMs without PagedAttention", ASPLOS 2025, section 5.
    """
    if not VATTENTION_PAGES[0] <= page_bytes <= VATTENTION_PAGES[-1]:
        raise bad_input(
            f"found {page_bytes} bytes; expected 65536 (64 KiB) to 2097152 (2 MiB)", path="page_bytes"
        )
    if token_bytes < 1 or tensors < 1 or page_bytes < token_bytes:
        raise bad_input(
            f"found {tensors} tensors of {token_bytes} bytes a token; expected 1 or more of each, within a page"
        )
    tokens = page_bytes // token_bytes
    return KvSpace(
        capacity_bytes // page_bytes, tokens, float(page_bytes), groups=(PageGroup(tokens, tensors),)
    )


def hybrid(pages: int, page_bytes: float, groups: tuple[PageGroup, ...]) -> KvSpace:
    """A model whose layers keep everything, a window, or a state, in ``pages`` pages of one size for all of them.

    Source: vLLM's hybrid KV cache manager (``vllm/v1/core/kv_cache_utils.py``, ``unify_hybrid_kv_cache_specs``); Jenga
    (Zhang et al., SOSP 2025).
    """
    if not groups or any(g.pages < 1 or g.page_tokens < 0 or g.window < 0 for g in groups):
        raise bad_input("a group has pages, and neither tokens nor a window below 0", path="groups")
    tokens = max(g.page_tokens for g in groups)
    return KvSpace(pages, max(tokens, 1), page_bytes, groups=groups)
