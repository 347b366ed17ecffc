"""MLP Memory and Memory Decoder: a small network for every token instead of a search in a store of keys.

Wei et al., arXiv:2508.01832; Cao et al., arXiv:2508.09874. The search is kNN-LM's (faiss IVF-PQ, arXiv:1911.00172).
"""

from __future__ import annotations

from typing import Final

from hw_configs.library import load_system
from offchip.api import load_model, simulate
from offchip.studies.study import Basis, Certainty, Claim, Outcome, Study, StudyTable, compare
from offchip.tracing.bank import trace_bank
from simulator.memory_bank.result import MemoryTimes
from simulator.vector_search.footprint import footprint
from simulator.vector_search.search import SearchOptions, machine_of, simulate_search
from workloads.vector_index import InvertedFile, load_index

__all__ = ["DECODER", "STUDY", "search_seconds"]

HARDWARE: Final = "dgx-a100"
GPU: Final = "a100-80gb"
SIZES: Final = (50_000_000, 500_000_000, 5_000_000_000)
_MLP: Final = "MLP Memory, arXiv:2508.01832v1, abstract"
_DECODER: Final = "Memory Decoder, arXiv:2508.09874"
_SEARCH: Final = (
    "kNN-LM's settings: 4096 lists, 32 probes, codes of 64 bytes, 1024 neighbours; one query a token on one core, or "
    "on the GPU"
)


def _store(name: str, **changes: object) -> InvertedFile:
    index = load_index(name)
    assert isinstance(index, InvertedFile)
    return InvertedFile.model_validate(index.model_dump() | changes)


def search_seconds(index: InvertedFile) -> float:
    """Seconds of a search for one token."""
    return simulate_search(
        index, machine_of(load_system(HARDWARE), None), SearchOptions(queries=1)
    ).point.latency_mean_s


def _beside(name: str) -> MemoryTimes:
    found = trace_bank(name, GPU)
    assert isinstance(found, MemoryTimes)
    return found


def _step(name: str) -> float:
    return simulate(load_model(name, phase="decode", prompt=512), GPU).makespan_s


def _claim(
    id: str, statement: str, published: float, unit: str = "", certainty: Certainty = "published",
    basis: Basis = "mechanism",
) -> Claim:  # fmt: skip
    return Claim(id, statement, published, unit, _MLP, certainty, basis)


def _sizes() -> StudyTable:
    """What a search takes, by the store's size."""
    memory, rows = _beside("mlp-memory-mistral-7b"), []
    for size in SIZES:
        indexes = {
            "core": _store("knn-lm-500m", vectors=size),
            "core, keys": _store("knn-lm-500m", vectors=size, rerank=1024, store="drive"),
        }
        seconds = {name: search_seconds(index) for name, index in indexes.items() if _fits(index)}
        scanned = 32 / 4096 * size * 72
        rows.append(
            (
                size / 1e6, size * 8192 / 1e12, scanned / 1e6,
                *(seconds[name] * 1e3 if name in seconds else "does not fit" for name in indexes),
                memory.memory_bytes / 1e6, memory.memory_s * 1e3,
            )
        )  # fmt: skip
    columns = (
        "tokens, M", "keys, TB", "codes scanned, MB", "search, ms", "with exact keys from drives, ms",
        "MLP weights, MB", "MLP, ms",
    )  # fmt: skip
    return StudyTable("Beside Mistral 7B: a search for each token, or an MLP", columns, tuple(rows))


def _fits(index: InvertedFile) -> bool:
    machine = machine_of(load_system(HARDWARE), None)
    needed = footprint(index)
    return (
        needed.bytes_at("memory") <= (machine.memory_bytes() or 0)
        and needed.bytes_at("drive") <= machine.drive_bytes()
    )


def _run() -> Outcome:
    memory, larger = _beside("mlp-memory-gpt2-large"), _step("gpt2-xl")
    search = search_seconds(_store("knn-lm-500m", dimensions=1280))
    on_gpu = search_seconds(
        _store("knn-lm-500m", dimensions=1280, place="gpu", compute="gpu", store="memory")
    )
    over, over_gpu = ((memory.model_s + s) / memory.after_s for s in (search, on_gpu))
    unknown = "The machine of the measurement, its batch and how its search ran are not in the abstract."
    claims = [
        compare(
            _claim("over-knn-lm", "speed over kNN-LM with a store of 500 M tokens", 80.0),
            over,
            f"GPT-2 large and the MLP on one {GPU}, one token at a time, against the model and a search in host memory "
            f"on one core. {_SEARCH} ({over_gpu:.2f} with codes and search on the GPU).",
            f"{unknown} The search alone takes {search / memory.memory_s:.0f} times the MLP's time on a core and "
            f"{on_gpu / memory.memory_s:.2f} on a GPU; a factor of 80 needs a search of "
            f"{(80 * memory.after_s - memory.model_s) * 1e3:.0f} ms, ours {search * 1e3:.0f}. No exact keys are read.",
        ),
        compare(
            _claim("over-decoder", "speed over a decoder-only model of as many parameters", 1.3),
            larger / memory.after_s,
            f"GPT-2 XL (1.5 B) against GPT-2 large and an MLP of 774 M one after the other on one {GPU}, one token.",
            f"{unknown} On two devices beside one another the factor is {larger / memory.together_s:.2f}. One token at "
            "a time every kernel is bound by weights and launches, so equal parameters take nearly equal time.",
        ),
        compare(
            Claim("store", "keys of 5 B tokens", 40e12, "B", "LUMIA-Group/MLPMemory, README", "published", "counting"),
            float(footprint(_store("knn-lm-500m", vectors=5_000_000_000, rerank=1024)).parts[-1].bytes),
            "5 B keys of 4096 elements of 16 bits.",
        ),
        compare(
            Claim("weights", "the MLP that stands for them, 1 B parameters", 4e9, "B", "LUMIA-Group/MLPMemory, README",
                  "published", "counting"),
            2.0 * _beside("mlp-memory-mistral-7b").memory_bytes,
            "Weights of our MLP beside Mistral 7B at 32 bits.",
            "Its layers follow from the billion parameters.",
        ),
    ]  # fmt: skip
    return Outcome(claims, [_sizes()])


def _decoder_run() -> Outcome:
    found = _beside("memory-decoder-gpt2-xl")
    on_gpu = search_seconds(
        _store("knn-lm-wikitext-103", place="gpu", compute="gpu", rerank=0, store="memory")
    )
    with_keys = search_seconds(_store("knn-lm-wikitext-103"))
    slower = [(found.model_s + seconds) / found.model_s for seconds in (on_gpu, with_keys)]
    store = footprint(_store("knn-lm-wikitext-103", element="fp32", value_bytes=8))
    overview = "an overview of the paper (memorypapers.org)"
    claims = [
        compare(
            Claim("decoder", "time of a token with a Memory Decoder over that without", 1.28, "", _DECODER, "recalled",
                  "mechanism"),
            found.after_s / found.model_s,
            f"GPT-2 XL and GPT-2 small one after the other on one {GPU}, one token.",
            "The published figure is recalled, and its models may be of the Qwen family. On two devices, or in "
            "parallel as the paper describes it, the small model is hidden behind the large one.",
        ),
        compare(
            Claim("knn-lm", "time of a token with kNN-LM over that without", 2.17, "", overview, "second-hand",
                  "mechanism"),
            slower[0],
            f"GPT-2 XL, and a search on the GPU in the store of WikiText-103 whose codes lie there. {_SEARCH}.",
            f"With exact keys from the drives of {HARDWARE} and the search on a core it is {slower[1]:.1f}. The model "
            "and machine of the measurement are not known, nor what the search does beside distances.",
        ),
        compare(
            Claim("store", "bytes of the store of WikiText-103 on disk", 400e9, "B", "urvashik/knnlm, README",
                  "published", "counting"),
            float(store.bytes_at("drive")),
            "103 225 485 keys of 1024 elements of 32 bits, and values of 64 bits.",
            "The README says 400 GB; an overview of Memory Decoder says nearly 500 GB.",
        ),
    ]  # fmt: skip
    rows = tuple(
        (name, time.memory_bytes / 1e9, time.model_s * 1e3, time.memory_s * 1e3, time.after_s / time.model_s,
         time.together_s / time.model_s)
        for name in ("memory-decoder-gpt2-xl", "memory-decoder-qwen2.5-7b", "mlp-memory-gpt2-large",
                     "mlp-memory-mistral-7b")
        for time in (_beside(name),)
    )  # fmt: skip
    columns = ("memory", "weights, GB", "model, ms", "memory, ms", "after, x", "together, x")
    return Outcome(claims, [StudyTable(f"Memories of every token on one {GPU}", columns, rows)])


STUDY: Final = Study(
    "mlp-memory",
    "MLP Memory: weights instead of a search for every token",
    "Wei et al., MLP Memory: Language Modeling with Retriever-pretrained External Memory, arXiv:2508.01832",
    "One token at a time on an A100 80 GB. kNN-LM searches a store of keys in host memory for every token; an MLP "
    "reads its weights once. Perplexity is nowhere worked out.",
    _run,
)
DECODER: Final = Study(
    "memory-decoder",
    "Memory Decoder: a small language model instead of a store",
    "Cao et al., Memory Decoder: A Pretrained, Plug-and-Play Memory for Large Language Models, arXiv:2508.09874; "
    "NeurIPS 2025",
    "One token at a time on an A100 80 GB: GPT-2 XL alone, with GPT-2 small as its memory, and with a search in the "
    "store of WikiText-103.",
    _decoder_run,
)
