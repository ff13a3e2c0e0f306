"""Reference renderings of chat templates and of small template fragments, by transformers (Jinja in its sandbox).

    python chat/make_chat.py        writes chat/templates.json and chat/snippets.json

templates.json: {"tokens": {...}, "conversations": {name: messages}, "options": {name: variables},
                 "cases": [[template, conversation, options, text, [[from, to], ...]]]}
    text null: refused by the reference too. The spans are the {% generation %} parts in characters, absent if there are none.
snippets.json: {"vars": {...}, "cases": [[fragment, text]]}
The templates in templates/ are ours, in the shapes that models use.
"""
import json
import re
from pathlib import Path

import transformers.utils.chat_template_utils as u

HERE = Path(__file__).parent

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "The \"weather\" of a city, e.g. Zürich",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "City"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "days": {"type": "array", "items": {"type": "integer"}, "default": [1, 2.5, None, True]}},
        "required": ["city"]}}}
NOARGS = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": "You are  helpful.\n"}
USER = {"role": "user", "content": " Hi <there> & é 😀\n"}
ANSWER = {"role": "assistant", "content": "Hello."}
USER2 = {"role": "user", "content": "Second?"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris", "unit": "c"}}}]}
CALLS = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}},
    {"id": "abcdefgh2", "type": "function", "function": {"name": "now", "arguments": {}}}]}
RESULT = {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "{\"t\": 20}"}
RESULT2 = {"role": "tool", "tool_call_id": "abcdefgh2", "name": "now", "content": "12:00"}
REASON = {"role": "assistant", "reasoning_content": "let me think", "content": "Answer."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]}
CONVERSATIONS = {
    "user": [USER], "system": [SYSTEM, USER], "answer": [USER, ANSWER], "two": [SYSTEM, USER, ANSWER, USER2],
    "thought": [SYSTEM, USER, ANSWER, USER2, THOUGHT], "thoughts": [USER, THOUGHT, USER2, THOUGHT],
    "call": [USER, CALL, RESULT], "called": [USER, CALL, RESULT, ANSWER],
    "calls": [SYSTEM, USER, CALLS, RESULT, RESULT2, ANSWER, USER2], "reason": [USER, REASON, USER2],
    "parts": [PARTS], "answer_only": [ANSWER], "two_users": [USER, USER2],
}
OPTIONS = {
    "plain": {"tools": None, "documents": None, "add_generation_prompt": False},
    "prompt": {"tools": None, "documents": None, "add_generation_prompt": True},
    "tools": {"tools": [TOOL, NOARGS], "documents": None, "add_generation_prompt": True},
    "extra": {"tools": [TOOL], "documents": None, "add_generation_prompt": True, "enable_thinking": False,
              "date_string": "24 Nov 2026", "tools_in_user_message": False},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

VARS = {
    "x": 3, "y": 2.5, "s": "Hello wörld\n  second line\n\nthird", "e": "", "n": None, "t": True, "l": [1, 2, 3, "a", None, 2.0],
    "d": {"b": 1, "A": [1, {"k": "v'"}], "c": None, "x y": True},
    "m": [{"role": "system", "content": " sys "}, {"role": "user", "content": "hi <b>"},
          {"role": "assistant", "content": "yo",
           "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "é": "\u2028\u007f\"\\/"}}}]},
          {"role": "tool", "content": "r"}],
    "big": 123456789012345678901234567890, "f": 1e16, "fl": 0.1, "neg": -7, "words": "the quick  brown\tfox", "w2": "a,b,,c",
    "nest": [[1, 2], [3]], "em": [], "ed": {},
}


def render(template, variables, spans=False):
    try:
        compiled = u._compile_jinja_template(template)
        if spans:
            text, found = u._render_with_assistant_indices(compiled_template=compiled, **variables)
            return text, [list(s) for s in found]
        return compiled.render(**variables), None
    except Exception:  # any refusal of the reference
        return None, None


def main():
    cases = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_text()
        marks = re.search(r"\{%-?\s*generation", template) is not None
        for conversation, messages in CONVERSATIONS.items():
            for options, variables in OPTIONS.items():
                everything = {**TOKENS, **variables, "messages": u._alias_reasoning_fields(messages)}
                text, spans = render(template, everything, marks)
                cases.append([path.stem, conversation, options, text] + ([spans] if marks else []))
    head = json.dumps({"tokens": TOKENS, "conversations": CONVERSATIONS, "options": OPTIONS})
    body = ",\n".join(json.dumps(c) for c in cases)
    (HERE / "templates.json").write_text(head[:-1] + ', "cases": [\n' + body + "\n]}\n")

    fragments = []
    for block in (HERE / "snippets.txt").read_text().split("\n----\n"):
        fragments.append(block)
    body = ",\n".join(json.dumps([f, render(f, VARS)[0]]) for f in fragments)
    (HERE / "snippets.json").write_text(json.dumps({"vars": VARS})[:-1] + ', "cases": [\n' + body + "\n]}\n")
    refused = sum(c[3] is None for c in cases)
    print(f"{len(cases)} renderings ({refused} refused), {len(fragments)} fragments")


if __name__ == "__main__":
    main()
