"""The forward pass of a network as a few lines of plain torch that take its weights by name: for the model card.

So that whoever has the safetensors file needs nothing of petseg. The tests run these lines against the network itself.
"""

import torch

from petseg.nets.encoder_unet import EncoderUNet
from petseg.nets.model_config import NO_ENCODER, TORCHVISION, ModelConfig
from petseg.nets.normalise import whole_ratio
from petseg.nets.timm_encoders import any_size_options

_LAYERS = """
def conv(x, name, stride=1):
    kernel = w[f"{name}.weight"]
    return F.conv2d(x, kernel, w.get(f"{name}.bias"), stride, kernel.shape[-1] // 2)
"""
_BATCH_NORM = """
def norm(x, name):
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"])
"""
_GROUP_NORM = """
def norm(x, name):
    return F.group_norm(x, x.shape[1] // 8, w[f"{name}.weight"], w[f"{name}.bias"])
"""
_BLOCKS = """
def blocks(x, name, stride=1):
    for number in range(BLOCKS):
        here, stride = f"{name}.{number}", 1 if number else stride
        y = F.relu(norm(conv(x, f"{here}.conv1", stride), f"{here}.norm1"))
        y = norm(conv(y, f"{here}.conv2"), f"{here}.norm2")
        if stride == 2:
            x = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
        if f"{here}.shortcut.{stride - 1}.weight" in w:
            x = norm(conv(x, f"{here}.shortcut.{stride - 1}"), f"{here}.shortcut.{stride}")
        x = F.relu(x + y)
    return x
"""
_DECODER = """
def decoder(features):
    x = features.pop()
    for level, skip in enumerate(reversed(features)):
        here = f"decoder.rises.{level}"
RISE        if x.shape[-2:] != skip.shape[-2:]:
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        x = blocks(MERGED, f"{here}.mix")
    return x
"""
_PIXELS = '(image.float() - w["normalise.mean"]) / w["normalise.std"]'
_UNET = """
def network(image):  # uint8 or float (B, 3, H, W), 0..255, RGB -> logits (B, N, H, W)
    x = PIXELS
    x, features = F.relu(norm(conv(x, "stem.0", stride=SCALE), "stem.1")), []
    for level in range(LEVELS):
        x = blocks(x, f"levels.{level}", stride=2 if level else 1)
        features.append(x)
    logits = F.pixel_shuffle(conv(decoder(features), "head"), SCALE)
    return logits[..., : image.shape[-2], : image.shape[-1]]
"""
_ENCODER = """
encoder = timm.create_model("NAME", features_only=TrueOPTIONS)
encoder.load_state_dict({key.removeprefix("encoder."): w[key] for key in w if key.startswith("encoder.")})
encoder.eval()
w |= {key.replace("shallow.", "shallow").replace(".", ".0.", 1): w[key] for key in w if key.startswith("shallow.")}

def network(image):  # uint8 or float (B, 3, H, W), 0..255, RGB -> logits (B, N, H, W)
    height, width = image.shape[-2:]
    PREPARE
    found, features = encoder(x), []
    for level in range(SHALLOW):
        x = blocks(x, f"shallow{level}", stride=2 if level else SCALE)
        features.append(x)
    found = [CHANNELS_FIRST for number in OUTPUTS]
    for level, x in enumerate(found[:-1]):
        features.append(norm(conv(x, f"laterals.{level}.0"), f"laterals.{level}.1"))
    features.append(found[-1])
    logits = F.pixel_shuffle(conv(decoder(features), "head"), SCALE)
    return RESULT
"""
_PADDED = (
    'x = F.pad(PIXELS, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")',
    "logits[..., :height, :width]",
)
_ENLARGED = (
    "sides = [-(-side * UP // (DOWN * STRIDE)) * STRIDE for side in (height, width)]\n"
    '    x = F.interpolate(PIXELS, size=sides, mode="bilinear", align_corners=False)',
    'F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)',
)
_TORCHVISION = """
resnet = torchvision.models.ENCODER()
names = {"stem.0": "conv1", "stem.1": "bn1", **{f"levels.{i}": f"layer{i + 1}" for i in range(4)}}
for part, name in names.items():
    inside = {key.removeprefix(f"{part}."): w[key] for key in w if key.startswith(f"{part}.")}
    resnet.get_submodule(name).load_state_dict(inside)
resnet.eval()
w |= {key.replace("full.", "full.0.", 1): w[key] for key in w if key.startswith("full.")}

def network(image):  # uint8 or float (B, 3, H, W), 0..255, RGB -> logits (B, N, H, W)
    x = PIXELS
    features = [blocks(x, "full"), resnet.relu(resnet.bn1(resnet.conv1(x)))]
    x = resnet.maxpool(features[-1])
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = layer(x)
        features.append(x)
    return conv(decoder(features), "head")
"""
_TUTORIAL = """
def convs(x, name):
    for number in (0, 3):
        x = norm(F.relu(conv(x, f"{name}.{number}")), f"{name}.{number + 2}")
    return x

def double(x, name):
    return F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)

def network(image):  # uint8 or float (B, 3, H, W), 0..255, RGB -> logits (B, N, H, W)
    height, width = image.shape[-2:]
    x = PIXELS
    fine = convs(F.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate"), "down1")
    middle = convs(F.max_pool2d(fine, 2), "down2")
    x = convs(F.max_pool2d(middle, 2), "bottom")
    x = convs(torch.cat([double(x, "rise2"), middle], dim=1), "up2")
    x = convs(torch.cat([double(x, "rise1"), fine], dim=1), "up1")
    return conv(x, "head")[..., :height, :width]
"""


def forward_code(config: ModelConfig) -> str:
    """Return Python code that defines ``network(image)`` from ``w``, the weights by name; imports are the caller's.

    It needs ``torch``, ``torch.nn.functional as F`` and, with an encoder, ``timm`` or ``torchvision``; see
    :func:`module_of_encoder`.
    """
    parts = [_LAYERS, _GROUP_NORM if config.norm == "group" else _BATCH_NORM]
    if config.name == "tutorial":
        parts.append(_TUTORIAL)
    else:
        parts += [_blocks(config), _decoder(config)]
        parts.append(_unet(config) if config.encoder == NO_ENCODER else _encoder(config))
    return "\n".join(part.strip("\n") + "\n" for part in parts).replace("PIXELS", _PIXELS)


def _blocks(config: ModelConfig) -> str:
    if config.encoder != NO_ENCODER:  # beside it are single blocks, the others are BLOCKS
        loop = 'for number in range(1 if name.startswith(("full", "shallow")) else BLOCKS):'
        return _BLOCKS.replace("for number in range(BLOCKS):", loop).replace("BLOCKS", str(config.blocks))
    return _BLOCKS.replace("BLOCKS", str(config.blocks))


def _decoder(config: ModelConfig) -> str:
    lines, add = [], config.join == "add"
    if add:
        lines.append('x = norm(conv(x, f"{here}.rise.0"), f"{here}.rise.1")')
    if config.upsample == "transposed":
        rise = f"{{here}}.rise.{2 if add else 0}"
        lines.append(f'x = F.conv_transpose2d(x, w[f"{rise}.weight"], w[f"{rise}.bias"], stride=2, padding=1)')
    code = "".join(f"        {line}\n" for line in lines)
    return _DECODER.replace("RISE", code).replace("MERGED", "x + skip" if add else "torch.cat([x, skip], dim=1)")


def _unet(config: ModelConfig) -> str:
    scale = "2" if config.stem == "half" else "1"
    return _UNET.replace("SCALE", scale).replace("LEVELS", str(len(config.widths)))


def module_of_encoder(config: ModelConfig) -> str | None:
    """Return the module, beside torch, that the code of :func:`forward_code` needs."""
    if config.encoder == NO_ENCODER:
        return None
    return "torchvision" if config.encoder.startswith(TORCHVISION) else "timm"


def _encoder(config: ModelConfig) -> str:
    if config.encoder.startswith(TORCHVISION):
        return _TORCHVISION.replace("ENCODER", config.encoder.removeprefix(TORCHVISION))
    with torch.device("meta"):
        network = EncoderUNet(config)
    options = "".join(f", {name}={value}" for name, value in any_size_options(config.encoder).items())
    channels_last = getattr(network.encoder, "output_fmt", None) == "NHWC"
    prepare, result = _PADDED if config.input_scale == 1 else _ENLARGED
    up, down = whole_ratio(config.input_scale)
    facts = {
        "PREPARE": prepare,
        "RESULT": result,
        "UP": str(up),
        "DOWN": str(down),
        "NAME": config.encoder,
        "OPTIONS": options,
        "STRIDE": str(network.coarsest),
        "SHALLOW": str(len(network.shallow)),
        "SCALE": str(network.scale),
        "CHANNELS_FIRST": "found[number].permute(0, 3, 1, 2)" if channels_last else "found[number]",
        "OUTPUTS": str(tuple(network.outputs)),
    }
    code = _ENCODER
    for name, text in facts.items():
        code = code.replace(name, text)
    return code
