"""Backbones held against independent implementations, timm's and transformers', on the same random checkpoints.

    python tests/references.py write FOLDER      in an environment with torch, timm and transformers: checkpoints of all
                                                 architectures, and what these make of pictures
    python tests/references.py compare FOLDER    in Lookbook's: what it makes of the same; it fails beyond 1e-4
    python tests/references.py golden            again in the first: tests/references.json, for tests/test_backbones.py

With timm 1.0.31, transformers 5.24 and torch 2.14 the largest difference of 22 was 1.7e-6 of the largest feature. A
tensor depends on its name and its shape alone, so no checkpoint is kept here.
"""

import json
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

GOLDEN = Path(__file__).with_suffix(".json")
SHOWN = 16  # of this many features a golden has one
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Case(NamedTuple):
    """name: of the architecture; whose: `timm` or `Hugging Face`; model: what they call it; size: height and width;
    made: how it is made smaller; golden: whether its features are kept."""

    name: str
    whose: str
    model: str
    size: tuple[int, int]
    made: dict
    golden: bool = False

    @property
    def title(self):
        return f"{self.name}, {self.whose}, {self.size[0]}x{self.size[1]}"


def cases():
    for number in (0, 1, 2):
        for size in ((70, 84), (224, 224)):
            name, model = f"efficientnet-lite{number}", f"tf_efficientnet_lite{number}"
            yield Case(name, "timm", model, size, {}, golden=size == (70, 84))
    for size in ((70, 84), (224, 224)):
        name, model = "mobilenetv4-conv-medium", "mobilenetv4_conv_medium"
        yield Case(name, "timm", model, size, {}, golden=size == (70, 84))
    for letter, word, wide in (("s", "small", 384), ("b", "base", 768)):
        for ours, theirs, model in (("", "", "Dinov2Model"), ("-reg", "_reg4", "Dinov2WithRegistersModel")):
            for side in (224, 518):
                name, made = f"dinov2-vit{letter}14{ours}", {"hidden_size": wide, "num_attention_heads": wide // 64}
                yield Case(name, "Hugging Face", model, (side, side), made)
                if ours or side == 518:  # timm antialiases positions without registers, too, unlike their authors
                    timms = f"vit_{word}_patch14{theirs}_dinov2"
                    yield Case(name, "timm", timms, (side, side), {"dynamic_img_size": True})
    small = {"embed_dim": 128, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    yield Case("two blocks-reg", "timm", "vit_small_patch14_reg4_dinov2", (70, 84), small, golden=True)
    small = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2}
    yield Case("two blocks", "Hugging Face", "Dinov2ForImageClassification", (70, 84), small, golden=True)
    yield Case("two blocks-reg", "Hugging Face", "Dinov2WithRegistersModel", (70, 84), small, golden=True)


CASES = list(cases())


def drawn(shapes):
    """Random tensors under PyTorch's names, in whose network numbers neither vanish nor grow: name -> float32 array."""
    found = {}
    for name, shape in shapes.items():
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            noise = np.zeros(shape)
        elif name.endswith("running_var"):
            noise = np.exp(noise / 4)
        elif len(shape) in (2, 4):
            noise *= np.sqrt(1.5 / np.prod(shape[1:]))
        elif len(shape) == 1:
            noise = noise / 10 + (1 if name.endswith(("weight", "gamma", "lambda1")) else 0)
        found[name] = noise.astype(np.float32)
    return found


def pictures(size):
    """Two of noise, smooth enough to differ in more than noise: uint8 [2, height, width, 3]."""
    coarse = np.random.RandomState(7).randint(0, 256, (2, -(-size[0] // 7), -(-size[1] // 7), 3))
    return coarse.repeat(7, axis=1).repeat(7, axis=2)[:, : size[0], : size[1]].astype(np.uint8)


def theirs(case):
    """Their features of `pictures`, and the checkpoint: float32 [2, features], name -> array."""
    import timm
    import torch
    import transformers

    torch.manual_seed(0)
    if case.whose == "timm":
        model = timm.create_model(case.model, pretrained=False, **case.made).eval()
    else:
        config = getattr(
            transformers, f"{case.model.removesuffix('Model').removesuffix('ForImageClassification')}Config"
        )
        made = getattr(transformers, case.model)
        model = made(config(**{"num_hidden_layers": 12, "image_size": 518, "patch_size": 14, **case.made})).eval()
    from_torch = {name: each.numpy() for name, each in model.state_dict().items()}
    found = drawn({saved(name, case): each.shape for name, each in from_torch.items()})
    model.load_state_dict({name: torch.tensor(found[saved(name, case)]) for name in from_torch})
    lite = "lite" in case.name
    mean, deviation = ((127 / 255,) * 3, (128 / 255,) * 3) if lite else (MEAN, DEVIATION)
    images = (pictures(case.size) / 255 - mean) / np.array(deviation)
    given = torch.tensor(images.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        if case.whose == "timm":
            made = model.forward_head(model.forward_features(given), pre_logits=True).numpy()
        else:
            made = getattr(model, "dinov2", model)(given).last_hidden_state[:, 0].numpy()
    return made, found


def saved(name, case):
    """What a tensor is called in their files. Those of transformers keep the names that version 4 had."""
    if case.whose == "timm":
        return name
    parts = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    for short, long in {**parts, "o_proj": "output.dense"}.items():
        name = name.replace(f"attention.{short}", f"attention.{long}")
    return name


def write(folder):
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if not case.name.startswith("two"):
            features, checkpoint = theirs(case)
            save_file(checkpoint, folder / f"{case.title}.safetensors")
            np.save(folder / f"{case.title}.npy", features)
            print(f"{case.title}: {np.abs(features).max():.3f} at most, {features.std(axis=0).mean():.3f} between both")


def compare(folder):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tasks.vision.backbone import Embedder
    from tasks.vision.checkpoints import read_safetensors
    from tasks.vision.recognition import to_backbone

    failed = False
    for case in CASES:
        if not case.name.startswith("two"):
            architecture, tensors = to_backbone(read_safetensors(folder / f"{case.title}.safetensors")[0])
            assert architecture.name == case.name, architecture
            found = Embedder(architecture, architecture.fold(tensors), "float32")(pictures(case.size))
            expected = np.load(folder / f"{case.title}.npy")
            off = np.abs(found - expected).max() / np.abs(expected).max()
            failed |= not off < 1e-4
            print(f"{off:.1e} {case.title}", flush=True)
    sys.exit(failed)


def golden():
    kept = {case.title: theirs(case)[0][:, ::SHOWN].round(5).tolist() for case in CASES if case.golden}
    GOLDEN.write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "golden":
        golden()
    else:
        {"write": write, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))
