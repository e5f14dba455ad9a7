#!/usr/bin/env python3
"""The other side of `cargo bench --bench scoring`: the same step, scored by others.

Run by that program, as `reference.py WORK.json`. The work names a checkout of openvalidators 1.2.0, folders of networks with
random weights and a step of random words. One JSON line is printed for each measurement:

  openvalidators 1.2.0   the reference's own reward classes, imported from the checkout, completion by completion
  torch, batched         the same networks in batches, heads where they are needed, each text embedded once
  onnxruntime, batched   the bidirectional networks exported, where onnxruntime and an exporter are installed

Needs torch, torchmetrics, safetensors, tokenizers and transformers 4.28 (what the reference was written for).
"""
import gc, json, os, resource, sys, time, types
from pathlib import Path
from unittest.mock import MagicMock

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torchmetrics.functional  # noqa: F401  before the stubs
import transformers
from safetensors.torch import load_file, save_file

WORK = json.loads(Path(sys.argv[1]).read_text())
MODELS, PROMPT, COMPLETIONS = Path(WORK["models"]), WORK["prompt"], WORK["completions"]
COMPARED = WORK["compared"]
# Rows of one batch: what a row of 520 tokens takes in DeBERTa's scores is 40 MB a layer.
BATCH = 10

# Resolved lazily, which stubs would disturb.
for name in ("GPT2LMHeadModel", "GPTJForSequenceClassification", "DebertaV2ForSequenceClassification", "MPNetModel",
             "BertModel", "RobertaForSequenceClassification", "PreTrainedTokenizerFast"):
    getattr(transformers, name)


class Stub(types.ModuleType):
    """A module the reference imports and the scoring of a step does not use."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


for name in ("bittensor", "wandb", "datasets", "loguru"):
    sys.modules[name] = Stub(name)
sys.path.insert(0, WORK["reference"])
torch.set_num_threads(WORK["threads"])
torch.set_grad_enabled(False)


def reference(module):
    """A module of the reference that loads networks from folders, in f32: on a processor f16 is slower still."""
    loaded = __import__(f"openvalidators.reward.{module}", fromlist=["x"])
    for name in ("AutoTokenizer", "AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"):
        if hasattr(loaded, name):
            setattr(loaded, name, From(getattr(transformers, name)))
    return loaded


class From:
    def __init__(self, auto):
        self.auto = auto

    def from_pretrained(self, path, **_):
        return self.auto.from_pretrained(path)


def folder(role):
    """The folder of a role, its weights marked as PyTorch's, which transformers insists on."""
    path = MODELS / role / "model.safetensors"
    marked = path.with_suffix(".marked")
    if not marked.exists():
        save_file(load_file(path), path, metadata={"format": "pt"})
        marked.touch()
    return str(MODELS / role)


def measure(part, how, work, numbers=None):
    """Prints what `work()` took, after a short one to warm up."""
    work(COMPLETIONS[:1])
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    usage = resource.getrusage(resource.RUSAGE_SELF)
    wall, processor = time.perf_counter(), usage.ru_utime + usage.ru_stime
    work(COMPLETIONS)
    wall = time.perf_counter() - wall
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(json.dumps({
        "part": part, "how": how, "wall_seconds": wall, "processor_seconds": usage.ru_utime + usage.ru_stime - processor,
        "peak_mib": peak, "numbers": numbers() if numbers else None,
    }), flush=True)


def batches(texts):
    return [texts[i:i + BATCH] for i in range(0, len(texts), BATCH)]


def encoded(tokenizer, *texts, **more):
    return tokenizer(*texts, padding=True, return_tensors="pt", **more)


def mean(states, mask):
    mask = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), p=2, dim=1)


def rows(scores):
    return [[float(score)] for score in scores]


def dpo():
    module = reference("dpo")
    module.DirectPreferenceRewardModel.reward_model_name = folder("dpo")
    reward = module.DirectPreferenceRewardModel("cpu")
    tokenizer, model = reward.tokenizer, reward.model

    def batched(completions):
        """Log-probabilities with the head on the completions' rows alone, without the repetition penalty."""
        prompt = len(tokenizer(PROMPT).input_ids)
        for batch in batches(completions):
            ids = encoded(tokenizer, [PROMPT + text for text in batch]).input_ids
            states = model.transformer(ids).last_hidden_state[:, prompt - 1:-1]
            model.lm_head(states).log_softmax(-1).gather(2, ids[:, prompt:].unsqueeze(2)).mean(1)

    measure("dpo", "openvalidators 1.2.0", lambda texts: reward.get_rewards(PROMPT, texts, "augment"),
            lambda: rows(reward.get_rewards(PROMPT, COMPLETIONS[:COMPARED], "augment")))
    measure("dpo", "torch, batched", batched)


def rlhf():
    module = reference("open_assistant")
    module.OpenAssistantRewardModel.reward_model_name = folder("rlhf")
    reward = module.OpenAssistantRewardModel("cpu")
    pairs = lambda batch: encoded(reward.tokenizer, [PROMPT] * len(batch), batch)
    measure("rlhf", "openvalidators 1.2.0", lambda texts: reward.get_rewards(PROMPT, texts, "augment"),
            lambda: rows(reward.get_rewards(PROMPT, COMPLETIONS[:COMPARED], "augment")))
    measure("rlhf", "torch, batched", lambda texts: [reward.model(**pairs(batch)) for batch in batches(texts)])
    session = onnx(reward.model, pairs(COMPLETIONS[:2]), "rlhf")
    if session:
        measure("rlhf", "onnxruntime, batched", lambda texts: [session(pairs(batch)) for batch in batches(texts)])


def reciprocate():
    module = reference("reciprocate")
    module.ReciprocateRewardModel.reward_model_path = folder("reciprocate")
    reward = module.ReciprocateRewardModel("cpu")
    talk = lambda batch: encoded(
        reward.tokenizer, [f"<|prompter|>{PROMPT}</s><|assistant|>{text}</s><|endoftext|>" for text in batch])
    measure("reciprocate", "openvalidators 1.2.0", lambda texts: reward.get_rewards(PROMPT, texts, "augment"),
            lambda: rows(reward.get_rewards(PROMPT, COMPLETIONS[:COMPARED], "augment")))
    measure("reciprocate", "torch, batched", lambda texts: [reward.model(**talk(batch)) for batch in batches(texts)])


def relevance():
    module, history = reference("relevance"), reference("diversity")
    module.BertRelevanceRewardModel.relevance_model_path = folder("relevance_bert")
    module.MpnetRelevenceModel.diversity_model_path = folder("relevance_mpnet")
    history.DiversityRewardModel.diversity_model_path = folder("relevance_mpnet")
    filters, diversity = module.RelevanceRewardModel("cpu"), history.DiversityRewardModel("cpu")
    # A completion about the subject passes both stages and is computed by both; with random weights that is luck.
    filters.bounds = [-1e9, -1e9]
    bert, mpnet = filters.models

    def reference_order(texts):
        filters.get_rewards(PROMPT, texts, "augment")
        # One completion has no neighbour, and the reference's diversity filter fails on it.
        diversity.get_rewards(PROMPT, texts if len(texts) > 1 else texts * 2, "augment")

    def embeddings():
        texts = [PROMPT, *COMPLETIONS[:COMPARED]]
        first = [bert.get_embedding(text).tolist() for text in texts]
        return first + [mpnet.get_embeddings(text)[0].tolist() for text in texts]

    def each_once(models):
        return lambda texts: [mean(model(inputs), inputs.attention_mask) for tokenizer, model in models
                              for batch in [[PROMPT], *batches(texts)]
                              for inputs in [encoded(tokenizer, batch, truncation=True)]]

    measure("relevance", "openvalidators 1.2.0", reference_order, embeddings)
    own = [(model.tokenizer, model.model) for model in (bert, mpnet)]
    measure("relevance", "torch, batched",
            each_once([(tokenizer, lambda inputs, model=model: model(**inputs)[0]) for tokenizer, model in own]))
    sessions = [(tokenizer, onnx(model, encoded(tokenizer, COMPLETIONS[:2]), "relevance")) for tokenizer, model in own]
    if all(session for _, session in sessions):
        measure("relevance", "onnxruntime, batched", each_once(sessions))


def nsfw():
    module = reference("nsfw")
    module.NSFWRewardModel.nsfw_filter_model_path = folder("nsfw")
    reward = module.NSFWRewardModel("cpu")
    texts_of = lambda batch: encoded(reward.tokenizer, batch)
    measure("nsfw", "openvalidators 1.2.0", lambda texts: reward.get_rewards(PROMPT, texts, "augment"),
            lambda: reward.model(**texts_of(COMPLETIONS[:COMPARED])).logits.tolist())
    measure("nsfw", "torch, batched", lambda texts: [reward.model(**texts_of(batch)) for batch in batches(texts)])
    session = onnx(reward.model, texts_of(COMPLETIONS[:2]), "nsfw")
    if session:
        measure("nsfw", "onnxruntime, batched", lambda texts: [session(texts_of(batch)) for batch in batches(texts)])


def onnx(model, inputs, part):
    """The network in onnxruntime: a function of inputs to its first output; none, with a note, where that does not work."""
    path = str(MODELS / "exported.onnx")
    try:
        import onnxruntime
        names = ["input_ids", "attention_mask"]
        network = Outputs(model).eval()
        axes = {name: {0: "rows", 1: "tokens"} for name in names}
        torch.onnx.export(network, tuple(inputs[name] for name in names), path, input_names=names,
                          output_names=["output"], dynamic_axes=axes, opset_version=17, dynamo=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = WORK["threads"]
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        run = lambda inputs: torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in names})[0])
        ours, theirs = run(inputs), network(*(inputs[name] for name in names))
        apart = (ours - theirs).abs().max().item()
        if apart > 1e-3:
            raise ValueError(f"its answers are {apart:.1e} from torch's")
        return run
    except Exception as error:  # whatever an exporter does not know costs a row of the table, no more
        print(json.dumps({"part": part, "note": f"no onnxruntime: {type(error).__name__}: {str(error)[:200]}"}), flush=True)
        return None
    finally:
        Path(path).unlink(missing_ok=True)


class Outputs(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]


if __name__ == "__main__":
    print(json.dumps({"note": f"torch {torch.__version__}, transformers {transformers.__version__}"}), flush=True)
    for part in WORK["parts"]:
        globals()[part]()
        gc.collect()
