"""Glue for pictures: bytes to pixels, other sizes, numbers as networks want them."""

from __future__ import annotations

from cutset.cascade.parts.base import EXTENSIONS, Part, PartError, Use, dims, floats, model

_LINEAR = 'mode = "linear", antialias = {antialias}, axes = [0, 1]'


def _decode(use: Use) -> str:
    use.expect("file", "uint8")
    use.rank("file", 1)
    if use.settings.get("channels", "rgb") == "bgr":
        return model(
            use,
            f"(uint8[{dims(use.reads['file'])}] file) => (uint8[height, width, 3] image)",
            f"image = {EXTENSIONS}.DecodeImage (file)",
            domains={EXTENSIONS: 1},
        )
    return model(
        use,
        f"(uint8[{dims(use.reads['file'])}] file) => (uint8[height, width, 3] image) <int64[3] backwards = {{2, 1, 0}}>",
        f"bgr = {EXTENSIONS}.DecodeImage (file)\nimage = Gather <axis = 2> (bgr, backwards)",
        domains={EXTENSIONS: 1},
    )


def _resize(use: Use) -> str:
    use.expect("image", "uint8", "float32")
    use.rank("image", 3)
    kind, given = use.type("image"), dims(use.reads["image"])
    channels = use.reads["image"].shape[2] if use.reads["image"].shape else "channels"
    how = _LINEAR.format(antialias=int(use.settings.get("antialias", True)))
    if "shorter" in use.settings:
        side = int(use.settings["shorter"])
        sizes, size, how = f"{side}, {side}", "height, width", f'{how}, keep_aspect_ratio_policy = "not_smaller"'
    else:
        sizes = size = _size(use)
    return model(
        use,
        f"({kind}[{given}] image) => ({kind}[{size}, {channels}] resized) <int64[2] sizes = {{{sizes}}}>",
        f'resized = Resize <{how}> (image, "", "", sizes)',
    )


def _center_crop(use: Use) -> str:
    use.rank("image", 3)
    kind = use.type("image")
    channels = use.reads["image"].shape[2] if use.reads["image"].shape else "channels"
    return model(
        use,
        f"({kind}[{dims(use.reads['image'])}] image) => ({kind}[{_size(use)}, {channels}] cropped)"
        f" <int64[2] sizes = {{{_size(use)}}}, int64[1] two = {{2}}, int64[2] axes = {{0, 1}}>",
        """extent = Shape <start = 0, end = 2> (image)
        spare = Sub (extent, sizes)
        first = Div (spare, two)
        last = Add (first, sizes)
        cropped = Slice (image, first, last, axes)""",
    )


def _letterbox(use: Use) -> str:
    """Return the picture in its frame, and ``mapping``: offset, scale and limit (x, y, x, y), a row each.

    Both axes have one scale, that of the side that fills the frame: Resize computes with it, and rounds the other side's size.
    """
    use.expect("image", "uint8")
    use.rank("image", 3)
    fill = int(use.settings.get("fill", 0))
    return model(
        use,
        f"(uint8[{dims(use.reads['image'])}] image) => (uint8[{_size(use)}, 3] boxed, float[3, 4] mapping)"
        f" <int64[2] sizes = {{{_size(use)}}}, int64[1] two = {{2}}, uint8 fill = {{{fill}}}, int64[2] pad_axes = {{0, 1}},"
        f" int64[4] xyxy = {{1, 0, 1, 0}}, int64[4] same = {{0, 0, 0, 0}}, int64[1] top = {{0}},"
        f" int64[3] known = {{{_size(use)}, 3}}>",
        f"""small = Resize <{_LINEAR.format(antialias=1)}, keep_aspect_ratio_policy = "not_larger"> (image, "", "", sizes)
        before = Shape <start = 0, end = 2> (image)
        after = Shape <start = 0, end = 2> (small)
        spare = Sub (sizes, after)
        first = Div (spare, two)
        last = Sub (spare, first)
        pads = Concat <axis = 0> (first, last)
        padded = Pad (small, pads, fill, pad_axes)
        boxed = Reshape (padded, known)
        before_real = Cast <to = 1> (before)
        sizes_real = Cast <to = 1> (sizes)
        first_real = Cast <to = 1> (first)
        ratios = Div (before_real, sizes_real)
        scale = ReduceMax (ratios)
        offset4 = Gather <axis = 0> (first_real, xyxy)
        scale4 = Gather <axis = 0> (scale, same)
        limit4 = Gather <axis = 0> (before_real, xyxy)
        offset_row = Unsqueeze (offset4, top)
        scale_row = Unsqueeze (scale4, top)
        limit_row = Unsqueeze (limit4, top)
        mapping = Concat <axis = 0> (offset_row, scale_row, limit_row)""",
    )


def _normalize(use: Use) -> str:
    """Return ``(pixels * scale - mean) / std`` as one product and one sum."""
    kind = use.expect("image", "uint8", "float32")
    rank = use.rank("image", 3, 4)
    mean, std = list(use.settings.get("mean", [0.0])), list(use.settings.get("std", [1.0]))
    channels = max(len(mean), len(std))
    if {len(mean), len(std)} - {1, channels}:
        raise PartError(f"`mean` has {len(mean)} numbers and `std` {len(std)}, expected as many, or one")
    mean, std = mean * (channels // len(mean)), std * (channels // len(std))
    scale = float(use.settings.get("scale", 1 / 255))
    factor, shift = [scale / s for s in std], [m / s for m, s in zip(mean, std, strict=True)]
    given = use.reads["image"].shape or ()
    found = given[2] if rank == 3 else given[1]
    if channels > 1 and isinstance(found, int) and found != channels:
        raise PartError(f"`mean` and `std` are for {channels} channels, the input has {found}")
    sizes = f"1, {given[2]}, {given[0]}, {given[1]}" if rank == 3 else ", ".join(map(str, given))
    lines = ["chw = Transpose <perm = [2, 0, 1]> (image)", "planes = Unsqueeze (chw, top)"] if rank == 3 else []
    planes = "planes" if rank == 3 else "image"
    if use.settings.get("reverse"):
        lines.append(f"reversed = Gather <axis = 1> ({planes}, backwards)")
        planes = "reversed"
    if kind == "uint8":
        lines.append(f"real = Cast <to = 1> ({planes})")
        planes = "real"
    plain = not any(shift)
    lines.append(f"{'tensor' if plain else 'scaled'} = Mul ({planes}, factor)")
    lines += [] if plain else ["tensor = Sub (scaled, shift)"]
    constants = [
        f"float[1, {channels}, 1, 1] factor = {{{floats(factor)}}}",
        *([] if plain else [f"float[1, {channels}, 1, 1] shift = {{{floats(shift)}}}"]),
        *(["int64[1] top = {0}"] if rank == 3 else []),
        *(["int64[3] backwards = {2, 1, 0}"] if use.settings.get("reverse") else []),
    ]
    return model(
        use,
        f"({use.type('image')}[{dims(use.reads['image'])}] image) => (float[{sizes}] tensor) <{', '.join(constants)}>",
        "\n".join(lines),
    )


def _size(use: Use) -> str:
    height, width = use.settings["size"]
    return f"{int(height)}, {int(width)}"


PARTS = {
    "decode": Part(inputs=("file",), text=_decode, summary="bytes of a JPEG, PNG or BMP file to pixels [height, width, 3]"),
    "resize": Part(inputs=("image",), text=_resize, summary="to a size, or until the shorter side has one"),
    "center_crop": Part(inputs=("image",), text=_center_crop, summary="the middle of a picture"),
    "letterbox": Part(inputs=("image",), text=_letterbox, summary="to a size, shape kept, edges filled; `mapping` leads back"),
    "normalize": Part(inputs=("image",), text=_normalize, summary="pixels to floats [n, channels, height, width]"),
}
