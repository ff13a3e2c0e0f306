"""Our NeMo folder against the original's own conversion code and against Megatron's own network. Dev-only Python: torch, transformers,
omegaconf, megatron-core.

    check_original.py CONVERSION_DIR HF_DIR NEMO_DIR     (NEMO_DIR: ns export HF_DIR NEMO_DIR --convert_to nemo)

1. hf_to_nemo_llama.py / hf_to_nemo_qwen.py of NeMo-Skills (nemo_skills/conversion at a718f1d2) run unchanged; the classes of NeMo that
   they import are stand-ins that keep the state dictionary which the script hands over. Every tensor must equal ours, by name.
2. megatron-core's GPTModel (local layer spec) gets our tensors by name; its logits must be those of transformers.
"""

import contextlib
import importlib.util
import json
import os
import sys
import types

import torch
import torch.distributed.checkpoint as dcp
from transformers import AutoTokenizer, LlamaForCausalLM, LlamaTokenizer, Qwen2ForCausalLM  # noqa: F401 before the stand-ins

conversion, hf, nemo = sys.argv[1:4]
config = json.load(open(hf + "/config.json"))
qwen = config["model_type"] == "qwen2"
caught = {}


class Anything:
    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"

    def __init__(self, *a, **k):
        pass

    def __getattr__(self, name):
        return Anything()

    def __call__(self, *a, **k):
        return Anything()


class Model(Anything):
    def load_state_dict(self, state, strict=True):
        caught.update(state)
        return [], []

    def to(self, **k):
        return self


def helper(cls, cfg, trainer, state):
    caught.update(state)
    return Model()


for name in ["nemo", "nemo.collections", "nemo.collections.nlp", "nemo.collections.nlp.models",
             "nemo.collections.nlp.models.language_modeling", "nemo.collections.nlp.models.language_modeling.megatron_gpt_model",
             "nemo.collections.nlp.parts", "nemo.collections.nlp.parts.nlp_overrides", "nemo.collections.nlp.parts.utils_funcs",
             "nemo.utils", "pytorch_lightning", "pytorch_lightning.core", "pytorch_lightning.core.saving",
             "pytorch_lightning.trainer", "pytorch_lightning.trainer.trainer"]:
    m = types.ModuleType(name)
    m.__getattr__ = lambda key: Model if key == "MegatronGPTModel" else helper if key == "load_state_dict_helper" else Anything() if key == "logging" else Anything
    m.__path__ = []
    sys.modules[name] = m
script = f"{conversion}/hf_to_nemo_{'qwen' if qwen else 'llama'}.py"
spec = importlib.util.spec_from_file_location("original", script)
original = importlib.util.module_from_spec(spec)
spec.loader.exec_module(original)
args = types.SimpleNamespace(in_path=hf, out_path="/nonexistent", precision="32", hf_model_name=hf, override=False,
                             nemo_format="torch_dist")
original.args = args
original.AutoTokenizer = original.LlamaTokenizer = Anything()
AutoConfig = original.Qwen2ForCausalLM if qwen else original.LlamaForCausalLM
loaded = AutoConfig.from_pretrained(hf)
for key in ["rope_scaling", "rope_theta"]:  # today's transformers keeps them elsewhere
    loaded.config.__dict__[key] = config.get(key)
type(loaded).from_pretrained = classmethod(lambda cls, path: loaded)
args.in_path = hf
if os.path.exists(hf + "/tokenizer.model"):
    original.LlamaTokenizer = types.SimpleNamespace(from_pretrained=lambda p: types.SimpleNamespace(vocab_file=p))
stdout, sys.stdout = sys.stdout, open(os.devnull, "w")
original.convert(args)
sys.stdout = stdout
for name in [n for n in sys.modules if n.split(".")[0] in ("nemo", "pytorch_lightning")]:
    del sys.modules[name]
theirs = {k.replace("model.module.", "model."): v for k, v in caught.items()}

reader = dcp.FileSystemReader(nemo + "/model_weights")
meta = reader.read_metadata().state_dict_metadata
ours = {k: torch.zeros(tuple(m.size), dtype=m.properties.dtype) for k, m in meta.items()}
dcp.load(ours, storage_reader=reader, no_dist=True)
flat = {}
for k, v in ours.items():
    if ".layers." in k:
        for l in range(v.shape[0]):
            flat[k.replace(".layers.", f".layers.{l}.")] = v[l]
    else:
        flat[k] = v
tied = config.get("tie_word_embeddings", False)
extra = set(theirs) ^ set(flat)
assert extra <= ({"model.output_layer.weight"} if tied else set()), extra
for k, v in flat.items():
    assert torch.equal(v.float(), theirs[k].float()), k
print(f"{os.path.basename(script)} at a718f1d2: {len(flat)} tensors equal, by name"
      + (" (tied: its copy of the embedding as output layer is not stored)" if tied else ""))

# ---- Megatron's network ----
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29611", RANK="0", WORLD_SIZE="1")
torch.distributed.init_process_group("gloo", rank=0, world_size=1)
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core import tensor_parallel
from megatron.core.transformer.transformer_config import TransformerConfig

parallel_state.initialize_model_parallel()
torch.cuda.current_device = lambda: "cpu"  # rotary_pos_embedding.py asks for it even without a GPU
tensor_parallel.get_cuda_rng_tracker = lambda: types.SimpleNamespace(fork=contextlib.nullcontext)  # of dropout, which is 0
nh = config["num_attention_heads"]
rope = config.get("rope_scaling") or {}
tc = TransformerConfig(
    num_layers=config["num_hidden_layers"], hidden_size=config["hidden_size"], ffn_hidden_size=config["intermediate_size"],
    num_attention_heads=nh, num_query_groups=config["num_key_value_heads"],
    kv_channels=config.get("head_dim", config["hidden_size"] // nh), normalization="RMSNorm",
    layernorm_epsilon=config["rms_norm_eps"], gated_linear_unit=True, activation_func=torch.nn.functional.silu,
    add_bias_linear=False, add_qkv_bias=qwen, hidden_dropout=0.0, attention_dropout=0.0, use_cpu_initialization=True,
    params_dtype=torch.float32, bias_activation_fusion=False, masked_softmax_fusion=False, attention_softmax_in_fp32=True,
    apply_rope_fusion=False, persist_layer_norm=False, gradient_accumulation_fusion=False)
net = GPTModel(config=tc, transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
               vocab_size=config["vocab_size"], max_sequence_length=4096, position_embedding_type="rope",
               rotary_base=config["rope_theta"], share_embeddings_and_output_weights=tied,
               rope_scaling=rope.get("rope_type") == "llama3", rope_scaling_factor=rope.get("factor", 8.0))
names = {"self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
         "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight"}
state = {}
for k, v in flat.items():
    k = k.removeprefix("model.")
    for a, b in names.items():
        k = k.replace(a, b)
    state[k] = v.float()
missing, unexpected = net.load_state_dict(state, strict=False)
missing = [k for k in missing if not k.endswith("_extra_state")]
assert not unexpected and missing in ([], ["output_layer.weight"]), (missing, unexpected)
net.eval()
T = 48
ids = torch.randint(0, config["vocab_size"], (1, T), generator=torch.Generator().manual_seed(5))
mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)[None, None]
with torch.no_grad():
    got = net(ids, torch.arange(T)[None], mask).float()[0]
    want = loaded.float()(ids).logits[0]
err = ((got - want).norm() / want.norm()).item()
assert err < 1e-5, err
print(f"megatron-core GPTModel, local spec: logits of {T} tokens differ from transformers' by {err:.2g} of their size")
