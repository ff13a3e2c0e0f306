"""Does transformers stop by itself with an exported model? Dev-only Python: torch, transformers.

    check_stop.py HF_DIR...    generate() is led to the chat template's end of turn and must end there; the template that
                               transformers finds is the exported one. The weights do not matter: logits are overridden.
"""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList


class Lead(LogitsProcessor):
    """Makes the model say the given ids, one after another."""

    def __init__(self, ids, start):
        self.ids, self.start = ids, start

    def __call__(self, input_ids, scores):
        k = input_ids.shape[1] - self.start
        scores = torch.full_like(scores, -1e9)
        scores[:, self.ids[k] if k < len(self.ids) else self.ids[0]] = 0
        return scores


for path in sys.argv[1:]:
    tok = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me"}]
    whole = tok.apply_chat_template(talk, tokenize=False)
    prompt = tok.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt), (prompt, whole)
    answer = tok(whole[len(prompt):], add_special_tokens=False).input_ids
    end = next(i for i in answer if i in tok.all_special_ids or tok.convert_ids_to_tokens(i) in tok.get_added_vocab())
    answer = answer[: answer.index(end) + 1]
    ids = tok(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    # no eos, no maximum but a high one: only what the folder says may stop it
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64, pad_token_id=0,
                         logits_processor=LogitsProcessorList([Lead(answer, ids.shape[1])]))[0, ids.shape[1]:].tolist()
    assert out == answer, (out, answer)
    config = AutoConfig.from_pretrained(path).eos_token_id
    first = config[0] if isinstance(config, list) else config
    assert first == end, (config, end)
    print(f"{path}: generate() of transformers stops at {tok.convert_ids_to_tokens(end)!r} ({end}) after {len(out)} tokens; "
          f"eos_token_id of config.json {config}, of generation_config.json {model.generation_config.eos_token_id}")
