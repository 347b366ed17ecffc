"""Whatever stands in a config file, the answer is a config or lines a user can act on, never a crash."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import catalog, check_file
from hw_configs.problems import InputError

TEXTS = {name: entry.path.read_text(encoding="utf-8") for name, entry in catalog().items()}
SNIPPETS = st.sampled_from([
    "", "{", "}", "[", "]", ":", " ", "\n", "null", "-1", "0", "1e400", "yes", "'", "*a", "&a", "!!set",
    "[]", "{}",
    "use: t4", "kind: gpu", "kind: dram", "kind: system", "value: ", "GB/s", "- ", "\t", "é", "9" * 30,
])  # fmt: skip


def outcome(path, text):
    path.write_text(text, encoding="utf-8")
    problems = ()
    try:
        check_file(path)
    except InputError as error:
        problems = error.problems
    for problem in problems:
        assert problem.message
        assert "\n" not in str(problem)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_words(tmp_path_factory, data):
    text = TEXTS[data.draw(st.sampled_from(sorted(TEXTS)))]
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 30, len(text))))
        text = text[:start] + data.draw(SNIPPETS) + text[end:]
    outcome(tmp_path_factory.getbasetemp() / "damaged.yaml", text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_value_in_the_place_of_a_figure_is_refused_in_words(tmp_path_factory, data):
    content = yaml.safe_load(TEXTS[data.draw(st.sampled_from(sorted(TEXTS)))])
    holder = content
    while True:
        key = data.draw(
            st.sampled_from(sorted(holder)) if isinstance(holder, dict) else st.integers(0, len(holder) - 1)
        )
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            holder = inner
            continue
        holder[key] = data.draw(VALUES)
        break
    outcome(tmp_path_factory.getbasetemp() / "changed.yaml", yaml.safe_dump(content, allow_unicode=True))
