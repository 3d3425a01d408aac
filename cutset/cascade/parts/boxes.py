"""Glue between a detector and what comes after it: how many boxes there are is known only when they are found."""

from __future__ import annotations

from cutset.cascade.parts.base import Part, Use, dims, floats, model

ALL = 2**31 - 1
"""Stands for no cap."""


def _nms(use: Use) -> str:
    use.expect("boxes", "float32")
    use.expect("scores", "float32")
    box_rank, score_rank = use.rank("boxes", 2, 3), use.rank("scores", 1, 2, 3)
    lines = ["all_boxes = Unsqueeze (boxes, top)" if box_rank == 2 else "all_boxes = Identity (boxes)"]
    widen = {1: "all_scores = Unsqueeze (scores, outer)", 2: "all_scores = Unsqueeze (scores, top)"}
    lines.append(widen.get(score_rank, "all_scores = Identity (scores)"))
    return model(
        use,
        f"(float[{dims(use.reads['boxes'])}] boxes, float[{dims(use.reads['scores'])}] scores)"
        " => (float[found, 4] kept_boxes, float[found] kept_scores, int64[found] classes, int64[found] indices,"
        " int64[1] dropped)"
        f" <int64[1] most = {{{int(use.settings.get('most', ALL))}}}, int64[1] each = {{{ALL}}},"
        f" float[1] iou = {{{floats([use.settings['iou']])}}}, float[1] score = {{{floats([use.settings['score']])}}},"
        " int64[1] top = {0}, int64[2] outer = {0, 1}, int64 one = {1}, int64 two = {2}, int64[2] flat = {-1, 4}>",
        "\n".join(lines)
        + """
        chosen = NonMaxSuppression (all_boxes, all_scores, each, iou, score)
        found_scores = GatherND (all_scores, chosen)
        number = Shape (found_scores)
        kept = Min (number, most)
        dropped = Sub (number, kept)
        kept_scores, order = TopK <axis = 0, largest = 1, sorted = 1> (found_scores, kept)
        ordered = Gather <axis = 0> (chosen, order)
        classes = Gather <axis = 1> (ordered, one)
        indices = Gather <axis = 1> (ordered, two)
        rows = Reshape (all_boxes, flat)
        kept_boxes = Gather <axis = 0> (rows, indices)""",
    )


def _restore(use: Use) -> str:
    use.expect("boxes", "float32")
    use.rank("boxes", 2)
    use.rank("mapping", 2)
    return model(
        use,
        f"(float[{dims(use.reads['boxes'])}] boxes, float[3, 4] mapping) => (float[{dims(use.reads['boxes'])}] restored)"
        " <int64[1] first = {0}, int64[1] second = {1}, int64[1] third = {2}, float zero = {0.0}>",
        """offset = Gather <axis = 0> (mapping, first)
        scale = Gather <axis = 0> (mapping, second)
        limit = Gather <axis = 0> (mapping, third)
        moved = Sub (boxes, offset)
        scaled = Mul (moved, scale)
        positive = Max (scaled, zero)
        restored = Min (positive, limit)""",
    )


def _crop(use: Use) -> str:
    use.expect("image", "uint8", "float32")
    use.expect("boxes", "float32")
    rank = use.rank("image", 3, 4)
    use.rank("boxes", 2)
    height, width = use.settings["size"]
    shape = use.reads["image"].shape or ()
    channels = shape[2] if rank == 3 else shape[1]
    count = (use.reads["boxes"].shape or ("?",))[0] or "?"
    lines = ["chw = Transpose <perm = [2, 0, 1]> (image)", "whole = Unsqueeze (chw, top)"] if rank == 3 else []
    whole = "whole" if rank == 3 else "image"
    if use.reads["image"].dtype == "uint8":
        lines.append(f"real = Cast <to = 1> ({whole})")
        whole = "real"
    return model(
        use,
        f"({use.type('image')}[{dims(use.reads['image'])}] image, float[{dims(use.reads['boxes'])}] boxes)"
        f" => (float[{count}, {channels}, {int(height)}, {int(width)}] crops)" + (" <int64[1] top = {0}>" if rank == 3 else ""),
        "\n".join(lines)
        + f"""
        count = Shape <start = 0, end = 1> (boxes)
        picture = ConstantOfShape <value = int64[1] {{0}}> (count)
        crops = RoiAlign <mode = "avg", output_height = {int(height)}, output_width = {int(width)},
            sampling_ratio = {int(use.settings.get("samples", 2))}, coordinate_transformation_mode = "half_pixel">
            ({whole}, boxes, picture)""",
    )


def _filter(use: Use) -> str:
    use.rank("by", 1)
    kind = use.type("by")
    if "above" in use.settings:
        use.expect("by", "float32", "float64")
        test, value = "Greater", floats([use.settings["above"]])
    else:
        use.expect("by", "int32", "int64", "uint8")
        test, value = "Equal", str(int(use.settings["equals"]))
    return model(
        use,
        f"({kind}[{dims(use.reads['by'])}] by) => (int64[passed] indices, int64[1] dropped)"
        f" <{kind} limit = {{{value}}}, int64[1] most = {{{int(use.settings.get('most', ALL))}}}, int64[1] first = {{0}},"
        " int64[1] flat = {-1}>",
        f"""passes = {test} (by, limit)
        rows = NonZero (passes)
        line = Reshape (rows, flat)
        number = Shape (line)
        kept = Min (number, most)
        dropped = Sub (number, kept)
        indices = Slice (line, first, kept)""",
    )


def _gather(use: Use) -> str:
    use.expect("indices", "int64", "int32")
    use.rank("indices", 1)
    kind, shape = use.type("rows"), use.reads["rows"].shape or ()
    count = (use.reads["indices"].shape or ("?",))[0] or "?"
    gathered = ", ".join(str(dim or "?") for dim in (count, *shape[1:]))
    return model(
        use,
        f"({kind}[{dims(use.reads['rows'])}] rows, {use.type('indices')}[{dims(use.reads['indices'])}] indices)"
        f" => ({kind}[{gathered}] gathered)",
        "gathered = Gather <axis = 0> (rows, indices)",
    )


PARTS = {
    "nms": Part(
        inputs=("boxes", "scores"),
        text=_nms,
        summary="non-maximum suppression, the surest first; at most `most`, and how many were `dropped`",
    ),
    "restore": Part(inputs=("boxes", "mapping"), text=_restore, summary="boxes of a letterboxed picture in the picture itself"),
    "crop": Part(
        inputs=("image", "boxes"), text=_crop, summary="boxes of a picture at a fixed size: a batch of as many, or none"
    ),
    "filter": Part(inputs=("by",), text=_filter, summary="indices of the rows above a score or of a class, at most `most`"),
    "gather": Part(inputs=("rows", "indices"), text=_gather, summary="rows by index"),
}
