#!/bin/sh
# Conversations from the command line: ns tokenize --chat, and ns inspect on rows of messages, with a chat template and a
# tokenizer of a few letters. Users are written as a, assistants as b.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"
cd "$dir" || exit 1
mkdir t
cat >t/tokenizer.json <<'X'
{"version": "1.0", "added_tokens": [{"id": 9, "content": "<s>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}, {"id": 10, "content": "</s>", "special": true, "normalized": false, "single_word": false,
 "lstrip": false, "rstrip": false}], "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
 "trim_offsets": true, "use_regex": true}, "decoder": {"type": "ByteLevel"}, "post_processor": null, "model": {"type": "BPE",
 "vocab": {"a": 0, "b": 1, "Ġ": 2, "Ċ": 3, "ab": 6, "{": 7, "}": 8, ":": 11, "\"": 12, "[": 13, "]": 14, ",": 15, "1": 16},
 "merges": ["a b"]}}
X
cat >t/tokenizer_config.json <<'X'
{"bos_token": "<s>", "eos_token": "</s>", "chat_template":
 "{% for t in tools or [] %}{{ t.b | tojson }}{% endfor %}{% for m in messages %}{{ {'user': 'a', 'assistant': 'b'}[m.role] }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}b\n{% endif %}"}
X
echo '{"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "ba"}]}' >row.json
printf '{%% for m in messages %%}{{ m.content }}{%% endfor %%}' >own.jinja
printf '{{ bos_token }}{%% for m in messages %%}{{ m.content }}{%% endfor %%}' >bos.jinja
printf 'a\n{%% fi %%}' >bad.jinja
printf '{{ a | trimm }}' >filter.jinja
c="$ns tokenize -t t --chat"
# shellcheck disable=SC2086 # $c is several words
{
    gives "ids" 0 "0 3 6 10 3 1 3 1 0 10 3" $c -i row.json
    gives "the text" 0 "$(printf 'a\nab</s>\nb\nba</s>\n')" $c -i row.json --render
    gives "JSON" 0 '{"form": "messages", "text": "a\nab</s>\nb\nba</s>\n", "ids": [0, 3, 6, 10, 3, 1, 3, 1, 0, 10, 3], "mask": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]}' \
        $c -i row.json --json
    gives "pieces" 0 '~10	T	"</s>"' $c -i row.json --pieces
    gives "count" 0 "11" $c -i row.json --count
    gives "a list of messages, up to the answer" 0 "$(printf 'a\nb</s>\nb\n')" \
        $c --generation-prompt --render --text '[{"role": "user", "content": "b"}]'
    gives "lines, forms mixed" 0 "$(printf '11\n11')" sh -c "{ cat row.json; echo '{\"instruction\": \"ab\", \"output\": \"ba\"}'; } | $c --lines --count"
    echo '[{"b": [1]}]' >tools.json
    gives "tools of a file" 0 "~[1]a" $c -i row.json --tools tools.json --render
    gives "roles" 0 '~"mask": [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]' $c -i row.json --json --roles-to-train user
    gives "a template file" 0 "abba" $c -i row.json --render --chat-template own.jinja --allow-missing-end
    gives "text of a special token" 3 "~--text: the content of turn 0 holds the special token '</s>'" $c --text '[{"role": "user", "content": "</s>"}]'
    gives "two BOS" 3 "~begins with two BOS tokens: the chat template writes one" \
        $c -i row.json --chat-template bos.jinja --add-bos --allow-missing-end
    gives "no end of turn" 3 "~a trained turn ends without an end token (the row ends 'abba')" $c -i row.json --chat-template own.jinja
    gives "a template that is wrong" 3 "~bad.jinja:2:4: unknown tag 'fi'" $c -i row.json --chat-template bad.jinja
    gives "a filter that is not there" 1 "~no filter named 'trimm': did you mean 'trim'?" $c -i row.json --chat-template filter.jinja
    gives "no such template" 2 "~has no chat template named 'rag'" $c -i row.json --chat-template rag
    gives "no row" 3 "~the row has a and no conversation" $c --text '{"a": 1}'
    gives "no JSON" 3 "~--text: byte 0: found 'x'" $c --text x
    gives "options of conversations alone" 2 "~without --chat" "$ns" tokenize -t t --render --text ab
    gives "plain and chat" 2 "~--chat excludes" $c --plain --text ab
}
# ns inspect sees the same rows
cp row.json rows.jsonl
gives "inspect" 0 "~rows.jsonl: 1 rows, format messages, layout t/tokenizer_config.json" "$ns" inspect rows.jsonl -t t
gives "inspect: parts" 0 "~  assistant " "$ns" inspect rows.jsonl -t t
gives "inspect: the row" 0 '~["ba</s>"]' "$ns" inspect rows.jsonl -t t --rows 1
exit $fails
