"""Linear attention: what its FLOPs count, and that chunks compute what the token-by-token rule says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.operators import LinearAttention


@dataclass
class Counted:
    """Arithmetic on arrays that counts its own FLOPs, a multiply-add as two, rectangles whole."""

    flops: float = 0.0

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        self.flops += 2.0 * left.shape[0] * left.shape[1] * right.shape[1]
        return left @ right

    def decayed(self, state: np.ndarray, by: float) -> np.ndarray:
        self.flops += state.size
        return state * by

    def inverse(self, lower: np.ndarray) -> np.ndarray:
        """(I + lower)^-1 of a strictly lower triangle, row by row."""
        n = len(lower)
        found = np.eye(n)
        for i in range(n):
            for j in range(i):
                # Row j of the inverse ends at its diagonal: j + 1 multiply-adds.
                found[i, : j + 1] -= lower[i, j] * found[j, : j + 1]
                self.flops += 2.0 * (j + 1)
        return found


def one_by_one(q, k, v, beta, decay, state, rule):
    """The rule as the papers write it, for one head; returns results and the state."""
    results = []
    for t in range(len(q)):
        state = decay[t] * state
        added = v[t] - k[t] @ state if rule == "delta" else v[t]
        state = state + beta[t] * np.outer(k[t], added)
        results.append(q[t] @ state)
    return np.array(results), state


def in_chunks(counted, q, k, v, beta, decay, state, rule, chunk):
    """The same by products of matrices, chunk after chunk."""
    results = []
    for start in range(0, len(q), chunk):
        part = slice(start, start + chunk)
        queries, keys, values, step = q[part], k[part], v[part], beta[part, None]
        total = np.cumprod(decay[part])
        between = np.tril(total[:, None] / total[None, :])
        scores = np.tril(counted.product(queries, keys.T)) * between
        if rule == "delta":
            overlaps = np.tril(counted.product(keys, keys.T), -1) * between * step
            solve = counted.inverse(overlaps)
            old = counted.product(solve, step * keys * total[:, None])
            values = counted.product(solve, step * values) - counted.product(old, state)
        else:
            values = step * values
        mixed = counted.product(scores, values)
        results.append(mixed + counted.product(queries * total[:, None], state))
        later = keys * (total[-1] / total)[:, None]
        state = counted.decayed(state, total[-1]) + counted.product(later.T, values)
    return np.concatenate(results), state


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["delta", "decay"]), st.integers(1, 40), st.integers(2, 16), st.integers(1, 6), st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_chunks_compute_the_rule_and_count_as_many_flops(
    rule: str, tokens: int, chunk: int, key: int, value: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    q, k, v = (random.normal(size=(tokens, n)) for n in (key, key, value))
    k /= np.linalg.norm(k, axis=1, keepdims=True)
    beta, decay = random.uniform(0.1, 0.9, tokens), random.uniform(0.8, 1.0, tokens)
    state = random.normal(size=(key, value))
    counted = Counted()
    wanted, last = one_by_one(q, k, v, beta, decay, state, rule)
    found, end = in_chunks(counted, q, k, v, beta, decay, state, rule, chunk)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    np.testing.assert_allclose(end, last, atol=1e-8)
    work = LinearAttention(
        batch=1, sequence=tokens, heads=1, kv_heads=1, key_dim=key, value_dim=value, rule=rule, chunk=chunk
    )
    assert work.flops == pytest.approx(counted.flops)


@pytest.mark.parametrize(("rule", "operations"), [("delta", 7), ("decay", 5)])
def test_a_decode_step_counts_every_element_of_the_states(rule: str, operations: int) -> None:
    work = LinearAttention(
        batch=3, sequence=2, heads=8, kv_heads=4, key_dim=16, value_dim=32, rule=rule, chunk=1
    )
    assert work.flops == 3 * 2 * 8 * 16 * 32 * operations


def test_heads_that_share_keys_share_scores_where_nothing_corrects_them() -> None:
    plain = {"batch": 1, "sequence": 64, "heads": 8, "key_dim": 16, "value_dim": 16}
    for rule, shared in (("decay", 2 * 64 * 64 * 16 * 6), ("delta", 0)):
        many = LinearAttention(**plain, kv_heads=8, rule=rule)
        few = LinearAttention(**plain, kv_heads=2, rule=rule)
        assert many.flops - few.flops == shared
