"""The original's own conversion scripts on the same files, for bench_export. Dev-only Python: torch, transformers, omegaconf.

    export_rival.py CONVERSION_DIR hf_nemo|nemo_hf IN OUT      (CONVERSION_DIR: nemo_skills/conversion of NeMo-Skills at a718f1d2)

hf_to_nemo_llama.py and nemo_to_hf_llama.py run unchanged; the classes of NeMo that they import are stand-ins which cost nothing: NeMo's
model is a dictionary of tensors, read and written by torch.distributed.checkpoint as NeMo does. So this is less than the original's work.
"""

import importlib.util
import os
import sys
import types

import torch
import torch.distributed.checkpoint as dcp
from omegaconf import OmegaConf
from transformers import AutoConfig, LlamaForCausalLM, LlamaTokenizer  # noqa: F401 before the stand-ins

conversion, direction, source, out = sys.argv[1:5]
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
    """What NeMo's model is to the scripts: tensors by name, one a layer."""

    tensors = {}

    def load_state_dict(self, state, strict=True):
        caught.update(state)
        return [], []

    def to(self, **k):
        return self

    def state_dict(self):
        return self.tensors

    @classmethod
    def restore_from(cls, path, **k):
        reader = dcp.FileSystemReader(path + "/model_weights")
        meta = reader.read_metadata().state_dict_metadata
        state = {n: torch.empty(tuple(m.size), dtype=m.properties.dtype) for n, m in meta.items()}
        dcp.load(state, storage_reader=reader, no_dist=True)
        model = cls()
        for name, w in state.items():
            if ".layers." in name:
                for i in range(w.shape[0]):
                    model.tensors[name.replace(".layers.", f".layers.{i}.")] = w[i]
            else:
                model.tensors[name] = w
        model.cfg = OmegaConf.load(path + "/model_config.yaml")
        return model


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
spec = importlib.util.spec_from_file_location("original", f"{conversion}/{'hf_to_nemo' if direction == 'hf_nemo' else 'nemo_to_hf'}_llama.py")
original = importlib.util.module_from_spec(spec)
spec.loader.exec_module(original)
original.AutoTokenizer = original.LlamaTokenizer = Anything()
os.makedirs(out)
if direction == "nemo_hf":
    original.convert(source, out, source + "/tokenizer", "10GB", precision="bf16", cpu_only=True)
else:
    original.args = types.SimpleNamespace(in_path=source, out_path="/nonexistent", precision="bf16", hf_model_name=source,
                                          override=False, nemo_format="torch_dist")
    loaded = LlamaForCausalLM.from_pretrained(source)
    for key, value in [("rope_scaling", None), ("rope_theta", 10000.0)]:  # today's transformers keeps them elsewhere
        loaded.config.__dict__[key] = value
    LlamaForCausalLM.from_pretrained = classmethod(lambda cls, path: loaded)
    original.convert(original.args)
    state, layers = {}, {}
    for name, w in caught.items():
        name = name.replace("model.module.", "model.")
        if ".layers." in name:
            head, rest = name.split(".layers.", 1)
            i, tail = rest.split(".", 1)
            layers.setdefault(f"{head}.layers.{tail}", {})[int(i)] = w
        else:
            state[name] = w
    for name, by_layer in layers.items():
        state[name] = torch.stack([by_layer[i] for i in range(len(by_layer))])
    dcp.save(state, storage_writer=dcp.FileSystemWriter(out + "/model_weights", thread_count=2), no_dist=True)
