"""Loading from folders: strictly, from safetensors only, with typed refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftlab.backbones.bundled import BundledBackbone, bundled_folder
from peftlab.backbones.contract import Backbone
from peftlab.backbones.hub import TransformersBackbone
from peftlab.backbones.resolve import source_of
from peftlab.backbones.timm import TimmBackbone
from peftlab.errors import BackboneError
from tests.contracts.tiny import CLASSES, make

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "vit_tiny_patch16_224"
needs_weights = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared weights are not here")


@pytest.fixture(scope="module", params=["timm", "vit"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(kind, tmp_path_factory.mktemp(kind))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def load(folder: Path, **options: object) -> Backbone:
    return source_of(str(folder)).load(str(folder), outputs=CLASSES, **options)  # type: ignore[arg-type]


def images(size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))}


def logits(backbone: Backbone, size: int = 32) -> torch.Tensor:
    backbone.module.eval()
    with torch.no_grad():
        return backbone.outputs(backbone.module, images(size))


# --- what is loaded --------------------------------------------------------------------------------------------------------


def plain_state(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """What the library itself reads (transformers 5 writes other names than the model's own)."""
    if kind == "timm":
        return load_file(folder / "model.safetensors")
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification.from_pretrained(folder).state_dict()


def test_every_weight_but_the_head_is_the_files(kind: str, folder: Path) -> None:
    saved = plain_state(kind, folder)
    backbone = load(folder)
    state = backbone.module.state_dict()
    assert state.keys() == saved.keys()
    assert {name for name in state if not torch.equal(state[name].float(), saved[name]) if not backbone.in_head(name)} == set()
    assert state[f"{backbone.head}.weight"].shape == (CLASSES, 32)
    assert source_of(str(folder)) is (TimmBackbone if kind == "timm" else TransformersBackbone)


def test_the_head_depends_on_the_seed_alone(folder: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        backbone = load(folder, seed=seed)
        return backbone.module.get_submodule(backbone.head).weight.detach()  # pyright: ignore

    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = head(0)
    assert torch.equal(torch.random.get_rng_state(), state), "loading used the default generator"
    torch.manual_seed(2)
    assert torch.equal(head(0), first)
    assert not torch.equal(head(1), first)


def test_the_head_is_the_same_under_every_adapter(folder: Path) -> None:
    from peftlab import registry

    heads = []
    for spec in ("full", "linear-probe", {"name": "lora", "rank": 2}, {"name": "lora", "rank": 4, "init": "orthogonal"}):
        adapted = registry.create("adapter", spec).attach(load(folder, seed=7), seed=7)
        heads.append({n.split(".")[-1]: p.detach() for n, p in adapted.trainable().items() if adapted.is_head(n)})
    for other in heads[1:]:
        assert other.keys() == heads[0].keys()
        assert all(torch.equal(other[name], heads[0][name]) for name in other)


def test_planned_shapes_are_the_loaded_ones(folder: Path) -> None:
    planned, loaded = load(folder, device="meta"), load(folder)
    assert all(p.is_meta for p in planned.module.parameters())
    shapes = [{n: t.shape for n, t in b.module.state_dict().items()} for b in (planned, loaded)]
    assert shapes[0] == shapes[1]
    assert planned.roles == loaded.roles
    assert (planned.head, planned.parameters, planned.head_parameters) == (loaded.head, loaded.parameters, loaded.head_parameters)


def test_saving_gives_a_folder_that_plain_libraries_load(kind: str, folder: Path, tmp_path: Path) -> None:
    backbone = load(folder, image_size=48)
    backbone.save(backbone.module, tmp_path)
    wanted = logits(backbone, 48)
    if kind == "timm":
        import timm

        plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        found = plain(images(48)["pixel_values"])
    else:
        from transformers import AutoModelForImageClassification

        found = AutoModelForImageClassification.from_pretrained(tmp_path).eval()(**images(48)).logits
    torch.testing.assert_close(found, wanted)
    again = load(tmp_path)  # and peftlab itself, at the size it was saved with
    state = backbone.module.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in again.module.state_dict().items() if not again.in_head(n))


def test_fingerprints_follow_the_bytes(copied: Path) -> None:
    source = source_of(str(copied))
    before = source.fingerprint(str(copied))
    assert len(before) == 64
    assert source.fingerprint(str(copied)) == before
    state = load_file(copied / "model.safetensors")
    name = next(iter(state))
    save_file({**state, name: state[name] + 1}, copied / "model.safetensors")
    assert source.fingerprint(str(copied)) != before


# --- other image sizes -----------------------------------------------------------------------------------------------------


def test_position_embeddings_are_resampled_as_timm_does(kind: str, folder: Path) -> None:
    from timm.layers.pos_embed import resample_abs_pos_embed

    saved = plain_state(kind, folder)
    name = next(key for key in saved if key.endswith(("pos_embed", "position_embeddings")))
    backbone = load(folder, image_size=96)
    wanted = resample_abs_pos_embed(saved[name], [12, 12], num_prefix_tokens=1)
    assert torch.equal(backbone.module.get_parameter(name), wanted)
    assert logits(backbone, 96).shape == (2, CLASSES)
    assert load(folder, image_size=96, device="meta").parameters == backbone.parameters
    assert source_of(str(folder)).preprocessing(str(folder), 96).image_size == 96


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(BackboneError, match="multiple of its patch size 8"):
        load(folder, image_size=45, device=device)


def test_a_model_without_such_embeddings_works_at_its_own_size_only(tmp_path: Path) -> None:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, patch_size=4)
    SwinForImageClassification(config).save_pretrained(tmp_path)
    assert logits(load(tmp_path, image_size=32)).shape == (2, CLASSES)
    with pytest.raises(BackboneError, match="works at 32 px only"):
        load(tmp_path, image_size=64)


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_no_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"no \.safetensors"):
        load(copied)
    with pytest.raises(BackboneError, match=r"no \.safetensors"):
        source_of(str(copied)).fingerprint(str(copied))


def test_pickled_weights_are_never_read(copied: Path) -> None:
    """A pickle that would leave a file behind if anything unpickled it."""
    trap = copied / "opened"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    (copied / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pt"):
        torch.save({"x": Trap()}, copied / name)
    with pytest.raises(BackboneError, match="pickled"):
        load(copied)
    assert not trap.exists()


def test_corrupt_weights(copied: Path) -> None:
    path = copied / "model.safetensors"
    for content in (b"", b"\x00" * 64, path.read_bytes()[:-100]):
        path.write_bytes(content)
        with pytest.raises(BackboneError, match=r"safetensors|cannot be loaded"):
            load(copied)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_of_another_model(copied: Path, change: str) -> None:
    path = copied / "model.safetensors"
    state = load_file(path)
    name = next(key for key in state if key.endswith(("mlp.fc1.weight", "intermediate.dense.weight")))
    state[name] = state[name][:-1].contiguous()
    if change == "missing":
        del state[name]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"mlp\.fc1\.weight|do not fit") as caught:
        load(copied)
    assert caught.value.remedy


def test_a_config_that_is_no_json(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with pytest.raises(BackboneError, match="JSON"):
        load(copied)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"needs a config\.json"):
        source_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BackboneError, match="model_type"):
        source_of(str(tmp_path))


def test_a_folder_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "vit-tiny").mkdir()
    with pytest.raises(BackboneError, match="Did you mean 'vit-tiny'"):
        source_of(str(tmp_path / "vit-tinny"))


def test_architecture_names(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="Did you mean 'vit_tiny_patch16_224'"):
        TimmBackbone.load("timm/vit_tiny_patch16_2244", outputs=2, device="meta")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tinny_patch16_224"}))
    with pytest.raises(BackboneError, match="Did you mean 'vit_tiny_patch16_224'"):
        TimmBackbone.load(str(tmp_path), outputs=2)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vitt"}))
    with pytest.raises(BackboneError, match=r"cannot be loaded.*\n  -> check config\.json and the weights"):  # it is there
        TransformersBackbone.load(str(tmp_path), outputs=2, device="meta")
    with pytest.raises(BackboneError, match="timm models cannot do causal-lm"):
        TimmBackbone.load("timm/vit_tiny_patch16_224", outputs=2, head="causal-lm", device="meta")


@pytest.mark.parametrize("name", ["nobody/nothing-here", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_the_hub_when_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = source_of(name)
    for ask in (lambda: source.load(name, outputs=2), lambda: source.fingerprint(name)):
        with pytest.raises(BackboneError, match="cannot be loaded") as caught:
            ask()
        assert caught.value.where == name
        assert "local folder" in caught.value.remedy


@pytest.mark.parametrize("name", ["bundled:vit-nanno", "bundled:../weights/vit-nano", "bundled:"])
def test_bundled_names(name: str) -> None:
    assert source_of(name) is BundledBackbone
    with pytest.raises(BackboneError, match="no such bundled backbone"):
        bundled_folder(name)


ONE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


# --- modules the weights lack ----------------------------------------------------------------------------------------------


def test_a_pooler_that_the_weights_lack_trains_with_the_head(tmp_path: Path) -> None:
    """A frozen random layer before the head would throw the backbone's features away."""
    from transformers import BertConfig, BertForMaskedLM

    from peftlab.adapters.linear_probe import LinearProbe
    from peftlab.adapters.lora import Lora

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    pooler = "bert.pooler"

    def load_text(seed: int = 0) -> Backbone:
        return TransformersBackbone.load(str(tmp_path), outputs=2, head="sequence-classification", seed=seed)

    assert load_text().heads == ("classifier", pooler)
    for adapter in (LinearProbe(), Lora(rank=2)):
        names = [n for n in adapter.attach(load_text(), seed=0).trainable() if pooler in n]
        assert len(names) == 2
    first, same, other = (load_text(seed).module.get_parameter(pooler + ".dense.weight") for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("family", "options", "heads"),
    [
        ("DebertaV2", {**ONE, "intermediate_size": 64}, ("classifier", "pooler")),
        ("DistilBert", {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}, ("classifier", "pre_classifier")),
        ("Roberta", {**ONE, "intermediate_size": 64}, ("classifier",)),
        ("GPT2", {"n_embd": 36, "n_layer": 1}, ("score",)),
    ],
)
def test_all_that_stands_beside_the_body_is_fresh(family: str, options: dict, heads: tuple[str, ...], tmp_path: Path) -> None:
    import transformers

    getattr(transformers, f"{family}Config")(**options).save_pretrained(tmp_path)
    backbone = TransformersBackbone.load(str(tmp_path), outputs=2, head="sequence-classification", device="meta")
    assert backbone.heads == heads


# --- the shared ViT-Tiny ---------------------------------------------------------------------------------------------------


@needs_weights
def test_shared_weights_load_strictly_and_give_timms_own_logits() -> None:
    import timm

    plain = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    plain.load_state_dict(load_file(SHARED / "model.safetensors"), strict=True)
    backbone = TimmBackbone.load(str(SHARED), outputs=1000)
    assert backbone.parameters == 5_717_416
    head = plain.head.state_dict()
    backbone.module.get_submodule("head").load_state_dict(head)
    wanted = plain.eval()(images(224)["pixel_values"])
    assert torch.equal(logits(backbone, 224), wanted)


@needs_weights
def test_shared_weights_at_96_pixels_equal_timms_resampling() -> None:
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    plain = timm.create_model("vit_tiny_patch16_224", num_classes=1000, img_size=96)
    plain.load_state_dict(checkpoint_filter_fn(load_file(SHARED / "model.safetensors"), plain), strict=True)
    backbone = TimmBackbone.load(str(SHARED), outputs=1000, image_size=96)
    backbone.module.get_submodule("head").load_state_dict(plain.head.state_dict())
    wanted = plain.eval()(images(96)["pixel_values"])
    torch.testing.assert_close(logits(backbone, 96), wanted, rtol=0, atol=1e-5)


@needs_weights
def test_shared_preprocessing_is_that_of_its_config() -> None:
    found = TimmBackbone.preprocessing(str(SHARED))
    assert (found.image_size, found.interpolation, found.crop, found.mean, found.std) == (
        224,
        "bicubic",
        0.9,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    )


def test_a_name_that_nothing_accepts_is_told_the_forms(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no such backbone\n.*bundled:NAME, timm/NAME.* save_pretrained wrote"):
        source_of(str(tmp_path / "nowhere"))
    (tmp_path / "vit-tiny").mkdir()
    with pytest.raises(BackboneError, match=r"Did you mean 'vit-tiny'\?.*bundled:NAME"):
        source_of(str(tmp_path / "vit-tyni"))


def test_a_name_that_is_nearly_a_folder_or_a_model_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a slash or dot the word is taken for a hub id; whoever mistyped a folder here is told so."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit-tiny").mkdir()
    (tmp_path / "vit-tiny" / "config.json").write_text("{}")
    for name, what, hint in (
        ("vit-tini", "there is no such folder, but a folder 'vit-tiny'", "Did you mean 'vit-tiny'? "),
        ("vit_tiny_patch16_224", "is a model of timm", "Write 'timm/vit_tiny_patch16_224'. "),
    ):
        with pytest.raises(BackboneError) as caught:
            source_of(name).fingerprint(name)
        assert caught.value.what == what and caught.value.remedy.startswith(hint)
        assert "As a model of the hub it cannot be loaded: " in caught.value.remedy
    with pytest.raises(BackboneError) as caught:
        source_of("nobody/nothing").fingerprint("nobody/nothing")
    assert caught.value.remedy.startswith("check the name")


@pytest.mark.parametrize(("size", "sizes"), [(100, "96 or 112"), (10, "16")])
def test_a_size_that_does_not_fit_names_those_that_do(size: int, sizes: str) -> None:
    with pytest.raises(BackboneError, match="not a multiple of its patch size 16") as caught:
        TimmBackbone.load("timm/vit_tiny_patch16_224", outputs=2, image_size=size, device="meta")
    assert caught.value.remedy.endswith(sizes)
