"""Where the shape of each built-in language model was published: the hub's repository, or a paper's table."""

from __future__ import annotations

from typing import Final

__all__ = ["SOURCES"]

SOURCES: Final[dict[str, str]] = {
    "bloom-176b": "bigscience/bloom",
    "deepseek-v2-lite": "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
    "falcon-40b": "tiiuae/falcon-40b",
    "falcon-7b": "tiiuae/falcon-7b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-4-26b-a4b": "google/gemma-4-26B-A4B",
    "gemma-7b": "google/gemma-7b",
    "glm-5": "zai-org/GLM-5",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "gpt-oss-20b": "openai/gpt-oss-20b",
    "gpt2": "openai-community/gpt2",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-xl": "openai-community/gpt2-xl",
    "gpt3-175b": "Brown et al., arXiv:2005.14165, table 2.1, written as a GPT-2 config",
    "kimi-k2": "moonshotai/Kimi-K2-Instruct",
    "llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "llama-2-70b": "meta-llama/Llama-2-70b-hf",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3.1-405b": "meta-llama/Llama-3.1-405B",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-4-scout": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "mixtral-8x22b": "mistralai/Mixtral-8x22B-v0.1",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
    "opt-1.3b": "facebook/opt-1.3b",
    "opt-125m": "facebook/opt-125m",
    "opt-13b": "facebook/opt-13b",
    "opt-175b": "Zhang et al., arXiv:2205.01068, table 1",
    "opt-2.7b": "facebook/opt-2.7b",
    "opt-30b": "facebook/opt-30b",
    "opt-350m": "facebook/opt-350m",
    "opt-6.7b": "facebook/opt-6.7b",
    "opt-66b": "facebook/opt-66b",
    "phi-2": "microsoft/phi-2",
    "qwen2-7b": "Qwen/Qwen2-7B",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen2.5-72b": "Qwen/Qwen2.5-72B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen3-8b": "Qwen/Qwen3-8B",
}
"""By built-in name."""
