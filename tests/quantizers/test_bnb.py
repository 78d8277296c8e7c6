"""bitsandbytes behind the seam, held against bitsandbytes' own functions and layers, PEFT's layers, and written-out formulas."""

from __future__ import annotations

import math
from typing import Any, cast

import bitsandbytes
import peft
import pytest
import torch
from torch import nn

from peftlab import registry
from peftlab.backbones.contract import Backbone
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.quantized import dense_weight, make_dense, quantized_layers, restore_conv1d
from peftlab.nn.surgery import slice_fused
from peftlab.quantizers.contract import Quantizer
from tests.adapters.models import backbone, images, tokens
from tests.contracts.test_quantizers import gaussian, linear
from tests.contracts.tiny import CLASSES, TEXT

bnb = cast(Any, bitsandbytes)
NF4 = "-1 -.6961928010 -.5250730515 -.3949174881 -.2844413817 -.1847734302 -.0910500363 0 .0795802996 .1609302014 .2461123019 \
.3379152417 .4407098293 .5626170039 .7229568362 1"  # Dettmers et al. 2023, appendix E
FP4 = "0 .0625 8 12 4 6 2 3"  # twelfths


def quantizer(**options: Any) -> Quantizer:
    return registry.create("quantizer", {"name": "bnb", **options})


def _backbone(module: nn.Module, head: str) -> Backbone:
    return Backbone(
        name="tiny",
        family="",
        library="transformers",
        module=module,
        head=head,
        outputs=lambda m, x: m(**x).logits,
        save=lambda m, f: None,
    )


@pytest.mark.parametrize(
    ("options", "error", "bits"),
    [
        ({"bits": 4}, 0.092, 4.5),
        ({"bits": 4, "type": "fp4"}, 0.122, 4.5),
        ({"bits": 4, "double": True}, 0.092, 4.127),
        ({"bits": 8}, 0.008, 8.008),
    ],
)
def test_errors_and_bits_are_the_published_ones(options: dict[str, Any], error: float, bits: float) -> None:
    weight = gaussian((1024, 1024))
    layer = quantizer(**options).quantize(linear(weight))
    assert math.isclose(float((layer.dequantize() - weight).norm() / weight.norm()), error, abs_tol=6e-4)
    assert math.isclose(quantizer(**options).bits_per_parameter(4096, 4096), bits, abs_tol=1e-3)


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
def test_four_bits_are_bitsandbytes_own(book: str, double: bool) -> None:
    weight = gaussian((96, 64))
    layer: Any = quantizer(type=book, double=double).quantize(linear(weight))
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=64, quant_type=book, compress_statistics=double)
    assert torch.equal(layer.weight.data, packed)
    assert torch.equal(layer.dequantize(), bnb.functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize(("book", "values"), [("nf4", NF4), ("fp4", FP4)])
def test_four_bits_are_the_nearest_values_of_the_code_book(book: str, values: str) -> None:
    table = torch.tensor([float(word) for word in values.split()])
    table = table if book == "nf4" else torch.cat([table, -table]) / torch.tensor(12.0)
    weight = gaussian((32, 128))
    layer = quantizer(type=book).quantize(linear(weight))
    absmax = weight.view(-1, 64).abs().amax(1, keepdim=True)
    nearest = (weight.view(-1, 64) / absmax).unsqueeze(-1).sub(table).abs().min(-1)
    restored = (table[nearest.indices] * absmax).view_as(weight)
    torch.testing.assert_close(layer.dequantize(), restored, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        (table[layer.codes().long()].view(-1, 64) * absmax).view_as(weight), restored, rtol=1e-5, atol=1e-6
    )


def test_eight_bits_are_rounded_rows() -> None:
    weight = gaussian((48, 64)).half().float()
    layer = quantizer(bits=8).quantize(linear(weight))
    step = weight.abs().amax(1, keepdim=True) / 127
    assert float((layer.dequantize() - (weight / step).round() * step).abs().max()) < 0.51 * float(step.max())
    assert float((layer.codes() != (weight / step).round()).float().mean()) < 0.01  # ties, in float16


@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 4, "double": True}, {"bits": 8}])
def test_forward_and_gradient_are_those_of_bitsandbytes_own_layer(options: dict[str, Any]) -> None:
    plain = linear(gaussian((96, 64)))
    eight = options["bits"] == 8
    if eight:
        theirs = bnb.nn.Linear8bitLt(64, 96, has_fp16_weights=False, threshold=6.0)
    else:
        theirs = bnb.nn.Linear4bit(64, 96, quant_type="nf4", compress_statistics=options.get("double", False))
    theirs.load_state_dict(plain.state_dict(), strict=False)
    theirs = theirs.to("cpu")
    theirs.support_avx512bf16_for_cpu = False
    ours = quantizer(**options).quantize(plain)
    for training in (True, False):
        x, y = (gaussian((5, 64), seed=1).requires_grad_() for _ in range(2))
        a, b = ours.train(training)(x), theirs.train(training)(y)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        a.square().sum().backward()
        b.square().sum().backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-3)


def test_lora_beside_it_is_what_peft_s_own_bitsandbytes_layer_computes() -> None:
    from peft.tuners.lora.bnb import Linear4bit

    class Model(nn.Module):
        def __init__(self, loaded_in_4bit: bool) -> None:
            super().__init__()
            self.layer = quantizer().quantize(linear(gaussian((96, 64))))
            self.is_loaded_in_4bit = loaded_in_4bit

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    found = []
    for theirs in (False, True):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=4, target_modules=["layer"], init_lora_weights=False)
        model: Any = peft.get_peft_model(cast(Any, Model(theirs)), config)
        assert isinstance(model.base_model.model.layer, Linear4bit) is theirs
        x = gaussian((5, 64), seed=2).requires_grad_()
        y = model(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["timm", "vit", "deit", "gpt2"])
def test_the_same_layers_as_transformers_would_and_conv1d_too(kind: str) -> None:
    base = backbone(kind)
    floats = {n for n, m in base.module.named_modules() if type(m) is nn.Linear or type(m).__name__ == "Conv1D"}
    wanted = {n for n in floats if not base.in_head(n + ".") and "pooler" not in n}
    converted = quantizer().convert(base)
    assert set(converted.layers) == wanted
    assert set(converted.left) == floats - wanted
    assert not any(p.dtype is not torch.float32 for n, p in base.module.named_parameters() if n.rpartition(".")[0] not in wanted)


@pytest.mark.parametrize(
    ("options", "most"), [({"double": True}, 0.3), ({}, 0.3), ({"type": "fp4"}, 0.4), ({"bits": 8}, 0.05)], ids=str
)
def test_bert_and_llama(options: dict[str, Any], most: float) -> None:
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = BertForSequenceClassification(BertConfig(vocab_size=64, **sizes))
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
    for module, head, layers, left in (
        (bert, "classifier", 12, {"bert.pooler.dense", "classifier"}),
        (llama, "", 14, {"lm_head"}),
    ):
        module.eval()
        tokens = torch.arange(12).view(2, 6)
        plain = module(tokens).logits.detach()
        base = _backbone(module, head)
        converted = quantizer(**options).convert(base)
        assert len(converted.layers) == layers
        assert set(converted.left) == left
        assert 0 < float((module(tokens).logits.detach() - plain).norm() / plain.norm()) < most


@pytest.mark.parametrize("options", [{"bits": 4, "double": True}, {"bits": 8}], ids=["nf4-double", "int8"])
@pytest.mark.parametrize("kind", TEXT)
def test_a_step_beside_it_is_that_beside_the_rounded_weights_in_float(kind: str, options: dict[str, Any]) -> None:
    adapter = registry.create("adapter", {"name": "lora", "rank": 2, "targets": "all-linear"})
    stored, plain = backbone(kind), backbone(kind)
    for base in (stored, plain):
        slice_fused(base.module, adapter.sites(base))
    layers = quantizer(**options).convert(stored).layers
    assert len(layers) == {"gpt2": 12, "bert": 12, "llama": 14}[kind]
    for name, layer in quantized_layers(stored.module).items():
        weight: Any = plain.module.get_submodule(name).weight
        weight.data.copy_(dense_weight(layer).T if layer.transposed else dense_weight(layer))
    codes = {name: layer.codes().clone() for name, layer in quantized_layers(stored.module).items()}
    found = []
    for base in (stored, plain):
        adapted = adapter.attach(base, seed=0)
        start = {name: p.detach().clone() for name, p in adapted.trainable().items()}
        optimizer = torch.optim.AdamW(adapted.trainable().values(), lr=1e-2, weight_decay=0.0)
        torch.manual_seed(0)  # dropout
        logits = base.outputs(adapted.module.train(), {"input_ids": tokens()})
        loss = nn.functional.cross_entropy(logits, torch.arange(3) % CLASSES)
        loss.backward()
        gradients = {name: p.grad for name, p in adapted.trainable().items()}
        optimizer.step()
        assert all(not torch.equal(p, start[name]) for name, p in adapted.trainable().items() if "lora_A" not in name)
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
    assert len(found[0][1]) >= 2 * len(layers)
    adapters = {name.removeprefix("base_model.model.").removesuffix(".base_layer"): m
                for name, m in quantized_layers(stored.module).items()}  # fmt: skip
    assert all(torch.equal(layer.codes(), codes[name]) for name, layer in adapters.items())


def test_conv1d_comes_back_with_the_rounded_weights() -> None:
    base, plain = backbone("gpt2"), backbone("gpt2").module
    quantizer().convert(base)
    rounded = {name: dense_weight(layer) for name, layer in quantized_layers(base.module).items()}
    restore_conv1d(make_dense(base.module))
    for name, weight in rounded.items():
        layer: Any = base.module.get_submodule(name)
        assert type(layer).__name__ == "Conv1D"
        assert torch.equal(layer.weight, weight.T)
        assert layer.weight.shape == plain.get_submodule(name).weight.shape  # pyright: ignore


def test_a_trained_bias_and_the_codes_keep_their_types_under_autocast() -> None:
    layer = quantizer(compute_dtype="bfloat16").quantize(linear(gaussian((96, 64))))
    before = [tensor.clone() for tensor in layer.stored()]
    layer.eval()(gaussian((3, 64)).bfloat16())
    layer.train()(gaussian((3, 64)).bfloat16())
    assert layer.bias.dtype is torch.float32
    assert all(torch.equal(a, b) for a, b in zip(before, layer.stored(), strict=True))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"bits": 8, "double": True}, "double"),
        ({"bits": 8, "type": "nf4"}, "type"),
        ({"bits": 8, "compute_dtype": "float32"}, "compute_dtype"),
        ({"bits": 4, "threshold": 6.0}, "threshold"),
        ({"bits": 8, "threshold": -1.0}, "threshold"),
        ({"bits": 4, "type": "nf5"}, "type"),
        ({"bits": 3}, "bits"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError) as caught:
        quantizer(**options)
    assert caught.value.where.endswith(where)


def test_a_device_that_is_not_there_is_refused_with_what_it_says() -> None:
    assert quantizer().refuse("cpu") is None
    if not torch.backends.mps.is_available():
        assert "mps cannot run bitsandbytes nf4" in (quantizer().refuse("mps") or "")


def test_a_backbone_without_linear_layers_is_told() -> None:
    base = _backbone(nn.Sequential(nn.Conv2d(3, 4, 3)), "")
    with pytest.raises(DidNothing, match="no linear layer"):
        quantizer().convert(base)


def test_moving_and_copying_keep_the_values() -> None:
    import copy

    for options in ({"bits": 8}, {"bits": 4, "double": True}):
        base = backbone("vit")
        quantizer(**options).convert(base)
        twin = copy.deepcopy(base.module).to("cpu")
        with torch.no_grad():
            a, b = (module.eval()(images()).logits for module in (base.module, twin))
        assert torch.equal(a, b)
        first, second = (next(iter(quantized_layers(m).values())) for m in (base.module, twin))
        assert first.weight.data_ptr() != second.weight.data_ptr()
