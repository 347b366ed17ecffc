"""Request traces in JSON: Mooncake's (lines with block hashes), ShareGPT-style conversations, vLLM's benchmark output.

Mooncake (github.com/kvcache-ai/Mooncake): ``timestamp`` ms, ``input_length``, ``output_length``, ``hash_ids`` of blocks
of 512 tokens; equal ids are equal tokens with equal tokens before them. ShareGPT: a list of ``conversations`` of
``from`` and ``value``; lengths are counts where they are given (``tokens``), else one token for every four
characters, rounded up, which is OpenAI's rule of thumb for English. vLLM: the result of
``vllm bench serve --save-result --save-detailed``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

from hw_configs.problems import InputError, bad_input
from workloads.requests.rows import Rows

__all__ = ["CHARACTERS_PER_TOKEN", "MOONCAKE_BLOCK", "read_mooncake", "read_sharegpt", "read_vllm"]

MOONCAKE_BLOCK: Final = 512
CHARACTERS_PER_TOKEN: Final = 4
MOST_CHARACTERS: Final = 64 * 2**20
"""Of one line or one conversation."""
CHUNK: Final = 1 << 18

Limit = Callable[[Rows], bool]

ASKS: Final = ("human", "user")
ANSWERS: Final = ("gpt", "assistant", "chatgpt", "bard", "bing", "model")


def _parsed(text: str, rows: Rows, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise bad_input(
            f"not valid JSON: {error.msg}", file=rows.file, line=line + error.lineno - 1
        ) from None
    except (ValueError, RecursionError) as error:
        raise bad_input(f"not valid JSON: {str(error)[:200]}", file=rows.file, line=line) from None


def read_mooncake(stream: IO[str], rows: Rows, full: Limit) -> None:
    """Lines of a Mooncake trace."""
    number = 0
    while (text := stream.readline(MOST_CHARACTERS)) and not full(rows):
        number += 1
        if len(text) == MOST_CHARACTERS and not text.endswith("\n"):
            raise bad_input(
                f"found a line of more than {MOST_CHARACTERS} characters", file=rows.file, line=number
            )
        if not text.strip():
            continue
        try:
            entry = _parsed(text.lstrip("\ufeff"), rows, number)
        except InputError as error:
            rows.problem(
                number, "", text.strip()[:60], error.problems[0].message.replace("not valid JSON", "JSON")
            )
            continue
        if not isinstance(entry, dict):
            rows.problem(number, "", entry, "an object with timestamp, input_length, output_length")
            continue
        time = rows.seconds(number, "timestamp", entry.get("timestamp", 0), 1e-3)
        prompt = rows.count(number, "input_length", entry.get("input_length"))
        output = rows.count(number, "output_length", entry.get("output_length"))
        if time is not None and prompt is not None and output is not None:
            segments = _blocks(rows, number, entry.get("hash_ids"), prompt)
            rows.add(time, prompt, output, segments)


def _blocks(rows: Rows, line: int, ids: Any, prompt: int) -> list[tuple[int, int]] | None:
    """Blocks of a prompt as segments; None where the line has none."""
    if ids is None:
        return None
    blocks = -(-prompt // MOONCAKE_BLOCK)
    if not isinstance(ids, list) or len(ids) != blocks:
        found = f"{len(ids)} blocks" if isinstance(ids, list) else ids
        rows.problem(
            line, "hash_ids", found, f"{blocks} blocks of {MOONCAKE_BLOCK} tokens for {prompt} tokens"
        )
        return None
    wrong = next(
        (x for x in ids if isinstance(x, bool) or not isinstance(x, int) or not 0 <= x < 2**40), None
    )
    if wrong is not None:
        rows.problem(line, "hash_ids", wrong, "whole numbers from 0")
        return None
    sizes = [MOONCAKE_BLOCK] * (blocks - 1) + [prompt - MOONCAKE_BLOCK * (blocks - 1)]
    return list(zip(ids, sizes, strict=True))


def _items(stream: IO[str], file: str) -> Iterator[tuple[int, Any]]:
    """The entries of a JSON list with their lines, one at a time: never more than one in memory."""
    decoder, buffer, line = json.JSONDecoder(), "", 1
    opened = False
    while True:
        stripped = buffer.lstrip(" \t\r\n,") if opened else buffer.lstrip(" \t\r\n\ufeff")
        line += buffer.count("\n", 0, len(buffer) - len(stripped))
        buffer = stripped
        if not opened and buffer:
            if buffer[0] != "[":
                raise bad_input("found no list; expected a JSON list of conversations", file=file, line=line)
            opened, buffer = True, buffer[1:]
            continue
        if buffer.startswith("]"):
            if (buffer[1:] + stream.read(CHUNK)).strip():
                raise bad_input("found more behind the list; expected its end", file=file, line=line)
            return
        if buffer:
            try:
                value, end = decoder.raw_decode(buffer)
                # A number at the buffer's end may go on behind it.
                if end < len(buffer):
                    yield line, value
                    line += buffer.count("\n", 0, end)
                    buffer = buffer[end:]
                    continue
            except json.JSONDecodeError as error:
                fault = f"not valid JSON: {error.msg}"
            except (ValueError, RecursionError) as error:
                raise bad_input(f"not valid JSON: {str(error)[:200]}", file=file, line=line) from None
            else:
                fault = "the list has no end"
        else:
            fault = "the list has no end"
        more = stream.read(max(CHUNK, len(buffer)))
        if not more:
            raise bad_input(fault, file=file, line=line)
        buffer += more
        if len(buffer) > MOST_CHARACTERS:
            raise bad_input(
                f"{fault}, or one entry has more than {MOST_CHARACTERS} characters", file=file, line=line
            )


def read_sharegpt(stream: IO[str], rows: Rows, full: Limit) -> None:
    """Conversations: the first question and the first answer of each, as vLLM's benchmark takes them."""
    for line, entry in _items(stream, rows.file):
        if full(rows):
            return
        turns = entry.get("conversations", entry.get("messages")) if isinstance(entry, dict) else None
        if isinstance(entry, dict) and turns is None and {"prompt_tokens", "output_tokens"} <= entry.keys():
            turns = [
                {"from": "human", "tokens": entry["prompt_tokens"]},
                {"from": "gpt", "tokens": entry["output_tokens"]},
            ]
        if not isinstance(turns, list):
            rows.problem(line, "conversations", turns if turns is not None else entry, "a list of turns")
            continue
        question = _turn(rows, line, turns, ASKS)
        answer = _turn(rows, line, turns, ANSWERS)
        if question is None or answer is None:
            continue
        if question < 1 or answer < 1:
            rows.skipped["a conversation without a question and an answer"] += 1
            continue
        rows.add(0.0, question, answer)


def _turn(rows: Rows, line: int, turns: list[Any], who: tuple[str, ...]) -> int | None:
    """Tokens of the first turn of somebody; 0: there is none, None: a problem was noted."""
    for place, turn in enumerate(turns):
        speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        if not isinstance(speaker, str):
            rows.problem(line, f"conversations.{place}.from", turn, "a turn with 'from' and 'value'")
            return None
        if speaker not in who:
            continue
        if "tokens" in turn:
            return rows.count(line, f"conversations.{place}.tokens", turn["tokens"], 0)
        text = turn.get("value", turn.get("content"))
        if not isinstance(text, str):
            rows.problem(line, f"conversations.{place}.value", text, "a text")
            return None
        return -(-len(text) // CHARACTERS_PER_TOKEN)
    return 0


def read_vllm(stream: IO[str], rows: Rows, full: Limit) -> None:
    """The requests of a detailed benchmark result; arrivals are its ``start_times`` where it has them."""
    text = stream.read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise bad_input(f"found more than {MOST_CHARACTERS} characters", file=rows.file)
    data = _parsed(text, rows, 1)
    if not isinstance(data, dict):
        raise bad_input("found no object; expected a benchmark result", file=rows.file, line=1)
    prompts, outputs = data.get("input_lens"), data.get("output_lens")
    if not isinstance(prompts, list) or not isinstance(outputs, list):
        message = "found no input_lens and output_lens; save the result with --save-detailed"
        raise bad_input(message, file=rows.file, line=1)
    starts = data.get("start_times", [0.0] * len(prompts))
    if not isinstance(starts, list) or not len(prompts) == len(outputs) == len(starts):
        raise bad_input(
            "input_lens, output_lens and start_times have different lengths", file=rows.file, line=1
        )
    for number, (start, prompt, output) in enumerate(zip(starts, prompts, outputs, strict=True)):
        if full(rows):
            return
        time = rows.seconds(1, f"start_times.{number}", start)
        asked = rows.count(1, f"input_lens.{number}", prompt)
        answered = rows.count(1, f"output_lens.{number}", output, 0)
        if time is None or asked is None or answered is None:
            continue
        if answered < 1:
            rows.skipped["no output tokens (a failure in the run)"] += 1
        else:
            rows.add(time, asked, answered)
