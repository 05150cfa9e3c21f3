"""Checkpoints as the real libraries write them: each maker leaves one in a folder and says how it is opened."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.hidden(x))))
"""


@dataclass(frozen=True)
class Format:
    """A row of the table.

    Attributes:
        name: what a reader calls it.
        make: writes it into a folder; returns its path and the module that was saved.
        flags: settings that open it, by field name.
        needs: packages that write it.
        kind: what sniffing calls it.
        tokens: whether the model reads tokens.
    """

    name: str
    make: Callable[[Path], tuple[Path, nn.Module]]
    kind: str
    flags: dict[str, Any] = field(default_factory=lambda: {"factory": "formats_net:Net"})
    needs: tuple[str, ...] = ()
    tokens: bool = False
    opened_by: str = "`--factory`"

    def __str__(self) -> str:
        return self.name


def net(folder: Path) -> nn.Module:
    """The module of CODE, trained for a moment, in evaluation mode."""
    (folder / "formats_net.py").write_text(CODE)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    sys.modules.pop("formats_net", None)
    import formats_net  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model = formats_net.Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x, y = data()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.optimizer = [optimizer]  # not a submodule
    return model.eval()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, generator=g), torch.randint(0, 4, (12,), generator=g)


def tokens() -> torch.Tensor:
    return torch.randint(0, 11, (9, 6), generator=torch.Generator().manual_seed(0))


def _saved(content: Callable[[Any], Any], name: str = "net.pt", **options: Any):
    def make(folder: Path) -> tuple[Path, nn.Module]:
        model = net(folder)
        torch.save(content(model), folder / name, **options)
        return folder / name, model

    return make


def _training(model: Any) -> dict[str, Any]:
    optimizer = model.optimizer[0]
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "args": argparse.Namespace(lr=0.01, name="run"),
        "best": np.float64(0.5),
        "epoch": 3,
    }


def _averaged(model: Any) -> dict[str, Any]:
    averaged = torch.optim.swa_utils.AveragedModel(model)
    other = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    return {"state_dict": other, "state_dict_ema": averaged.state_dict()}


def _whole(folder: Path) -> tuple[Path, nn.Module]:
    model = net(folder)
    del model.optimizer
    torch.save(model, folder / "net.pt")
    return folder / "net.pt", model


def _scripted(folder: Path) -> tuple[Path, nn.Module]:
    model = net(folder)
    del model.optimizer
    torch.jit.script(model).save(str(folder / "net.pt"))
    return folder / "net.pt", model


def _exported(folder: Path) -> tuple[Path, nn.Module]:
    model = net(folder)
    del model.optimizer
    program = torch.export.export(model, (data()[0],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2", model


def _safetensors(folder: Path) -> tuple[Path, nn.Module]:
    from safetensors.torch import save_model

    model = net(folder)
    save_model(model, str(folder / "net.safetensors"))
    return folder / "net.safetensors", model


def _lightning(folder: Path) -> tuple[Path, nn.Module]:
    import lightning

    inner = net(folder)
    del inner.optimizer

    class Module(lightning.LightningModule):
        def __init__(self, lr: float = 0.1, extra: Any = None):
            super().__init__()
            self.save_hyperparameters()
            self.model = inner

        def training_step(self, batch, _):
            x, y = batch
            return nn.functional.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), 4)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Module(extra=argparse.Namespace(a=1)), loader)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt", inner.eval()


ALONE = """
import sys, torch, torch.distributed.checkpoint as dcp
model, optimizer = torch.load(sys.argv[1])
dcp.save({"app": {"model": model, "optim": optimizer}, "step": 3}, checkpoint_id=sys.argv[2])
"""


def _distributed(folder: Path) -> tuple[Path, nn.Module]:
    model: Any = net(folder)
    torch.save((model.state_dict(), model.optimizer[0].state_dict()), folder / "whole.pt")
    words = [sys.executable, "-c", ALONE, str(folder / "whole.pt"), str(folder / "step_3")]
    subprocess.run(words, check=True, timeout=120)  # in a process of its own, without the tests' stand-in device
    return folder / "step_3", model


SHARDS = """
import os, sys, torch
import torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.tensor import Shard, Replicate, distribute_tensor, init_device_mesh
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
weights = torch.load(sys.argv[3])
place = lambda t: Shard(0) if t.dim() else Replicate()
dcp.save({"model": {k: distribute_tensor(t, mesh, [place(t)]) for k, t in weights.items()}}, checkpoint_id=sys.argv[4])
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # a thread of gloo that still holds a tensor could abort Python while it ends
"""


def _distributed_shards(folder: Path) -> tuple[Path, nn.Module]:
    model = net(folder)
    torch.save(model.state_dict(), folder / "whole.pt")
    arguments = [str(folder / name) for name in ("meeting", "whole.pt", "sharded")]
    ranks = [subprocess.Popen([sys.executable, "-c", SHARDS, str(rank), *arguments]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    return folder / "sharded", model


def gpt2(folder: Path, cls: str = "GPT2LMHeadModel", n_layer: int = 1, **more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11,
        n_positions=8,
        n_embd=4,
        n_layer=n_layer,
        n_head=2,
        n_inner=6,
        bos_token_id=0,
        eos_token_id=0,
        **more,
    )
    return getattr(transformers, cls)(config).eval()


def _hugging_face(folder: Path) -> tuple[Path, nn.Module]:
    model = gpt2(folder)
    model.save_pretrained(folder / "gpt2")
    return folder / "gpt2", model


def _hugging_face_shards(folder: Path) -> tuple[Path, nn.Module]:
    model = gpt2(folder, n_layer=2)
    model.save_pretrained(folder / "gpt2", max_shard_size="1KB")
    assert len(list((folder / "gpt2").glob("model-*.safetensors"))) > 1
    return folder / "gpt2", model


def _hugging_face_bin(folder: Path) -> tuple[Path, nn.Module]:
    model = gpt2(folder)
    (folder / "gpt2").mkdir()
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(folder / "gpt2")
    torch.save(model.state_dict(), folder / "gpt2" / "pytorch_model.bin")
    return folder / "gpt2", model


REMOTE = """
import torch
from torch import nn
from transformers import PreTrainedModel, PretrainedConfig
from transformers.modeling_outputs import CausalLMOutput

class OwnConfig(PretrainedConfig):
    model_type = "own-model"

class OwnForCausalLM(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11)
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return CausalLMOutput(logits=self.head(torch.tanh(self.embed(input_ids).cumsum(1))))
"""


def _remote_code(folder: Path) -> tuple[Path, nn.Module]:
    place = folder / "own"
    place.mkdir()
    (place / "own_model.py").write_text(REMOTE)
    sys.path.insert(0, str(place))
    sys.modules.pop("own_model", None)
    import own_model  # type: ignore[import-not-found]

    sys.path.remove(str(place))
    torch.manual_seed(0)
    model = own_model.OwnForCausalLM(own_model.OwnConfig()).eval()
    model.save_pretrained(place)
    config = json.loads((place / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnForCausalLM"}
    (place / "config.json").write_text(json.dumps(config))
    return place, model


def _adapter(folder: Path) -> tuple[Path, nn.Module]:
    import peft

    base = gpt2(folder)
    base.save_pretrained(folder / "base")
    settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    model = peft.get_peft_model(base, settings)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=g))
    model.base_model.model.config._name_or_path = str(folder / "base")
    for inner in model.peft_config.values():
        inner.base_model_name_or_path = str(folder / "base")
    model.save_pretrained(str(folder / "adapter"))
    return folder / "adapter", model.eval()


HF = {"flags": {}, "needs": ("transformers",), "tokens": True, "opened_by": "itself (extra `hf`)"}
TRUST = {"flags": {"trust": True}, "opened_by": "itself, `--trust`"}
FORMATS = [
    Format("torch.save: state dict", _saved(lambda m: m.state_dict()), "torch-zip"),
    Format(
        "torch.save: state dict, legacy format",
        _saved(lambda m: m.state_dict(), _use_new_zipfile_serialization=False),
        "torch-legacy",
    ),
    Format("torch.save: training dictionary", _saved(_training), "torch-zip"),
    Format(
        "torch.save: averaged (EMA) weights",
        _saved(_averaged),
        "torch-zip",
        {"factory": "formats_net:Net", "weights": "ema"},
        opened_by="`--factory`, `--weights ema`",
    ),
    Format(
        "torch.save: DataParallel and torch.compile prefixes",
        _saved(lambda m: {f"module._orig_mod.{k}": v for k, v in m.state_dict().items()}),
        "torch-zip",
    ),
    Format("Lightning checkpoint", _lightning, "torch-zip", needs=("lightning",)),
    Format("torch.save: whole module", _whole, "torch-zip", **TRUST),
    Format("TorchScript", _scripted, "torchscript", **TRUST),
    Format("torch.export .pt2", _exported, "torch-export", **TRUST),
    Format("safetensors", _safetensors, "safetensors"),
    Format("torch distributed checkpoint", _distributed, "distributed"),
    Format("torch distributed checkpoint, tensors in shards", _distributed_shards, "distributed"),
    Format("Hugging Face folder, safetensors", _hugging_face, "huggingface", **HF),
    Format("Hugging Face folder, shards", _hugging_face_shards, "huggingface", **HF),
    Format("Hugging Face folder, pytorch_model.bin", _hugging_face_bin, "huggingface", **HF),
    Format(
        "Hugging Face folder with code of its own",
        _remote_code,
        "huggingface",
        **{**HF, "flags": {"trust_remote_code": True}, "opened_by": "itself, `--trust-remote-code`"},
    ),
    Format("PEFT adapter and its base model", _adapter, "peft", **{**HF, "needs": ("transformers", "peft")}),
]


TABLE = Path(__file__).parents[2] / "curvtool" / "docs" / "formats.md"


def documented(row: str) -> None:
    """The row stands in the documentation's table; WRITE_DOCS=1 writes it there."""
    text = TABLE.read_text()
    if os.environ.get("WRITE_DOCS") and row not in text:
        name = row.split(" | ")[0]
        lines = [line for line in text.splitlines() if not line.startswith(name + " |")]
        TABLE.write_text("\n".join([*lines, row]) + "\n")
        return
    assert row in text.splitlines(), "WRITE_DOCS=1 pytest tests/problem/test_formats.py writes the table"
