"""Glue for plain tensors: joining them, probabilities, the best of them."""

from __future__ import annotations

from cutset.cascade.parts.base import Part, PartError, Use, dims, model, text_type


def _concat(use: Use) -> str:
    first = next(iter(use.reads.values()))
    axis, rank = _axis(use, next(iter(use.reads)), 0)
    for name in use.reads:
        use.rank(name, rank)
        use.expect(name, first.dtype)
    sizes: list[object] = [dim or "?" for dim in first.shape or ()]
    along = [spec.shape[axis] for spec in use.reads.values() if spec.shape is not None]
    fixed = [dim for dim in along if isinstance(dim, int)]
    sizes[axis] = sum(fixed) if len(fixed) == len(along) else "joined_size"
    kind = text_type(first.dtype)
    inputs = ", ".join(f"{kind}[{dims(spec)}] {name}" for name, spec in use.reads.items())
    return model(
        use,
        f"({inputs}) => ({kind}[{', '.join(map(str, sizes))}] joined)",
        f"joined = Concat <axis = {axis}> ({', '.join(use.reads)})",
    )


def _softmax(use: Use) -> str:
    use.expect("logits", "float32", "float64", "float16")
    axis, _ = _axis(use, "logits", -1)
    kind, shape = use.type("logits"), dims(use.reads["logits"])
    return model(
        use,
        f"({kind}[{shape}] logits) => ({kind}[{shape}] probabilities)",
        f"probabilities = Softmax <axis = {axis}> (logits)",
    )


def _topk(use: Use) -> str:
    axis, rank = _axis(use, "values", -1)
    kind, shape = use.type("values"), list(use.reads["values"].shape or ())
    best, size = int(use.settings["k"]), shape[axis]
    sizes: list[object] = [dim or "?" for dim in shape]
    sizes[axis] = min(best, size) if isinstance(size, int) else "best"
    found = ", ".join(map(str, sizes))
    start = axis % rank
    return model(
        use,
        f"({kind}[{dims(use.reads['values'])}] values) => ({kind}[{found}] top, int64[{found}] indices)"
        f" <int64[1] most = {{{best}}}>",
        f"""size = Shape <start = {start}, end = {start + 1}> (values)
        number = Min (size, most)
        top, indices = TopK <axis = {axis}, largest = 1, sorted = 1> (values, number)""",
    )


def _axis(use: Use, name: str, default: int) -> tuple[int, int]:
    """Return the axis that is set, and the number of dimensions of an input.

    Raises:
        PartError: If the input has no such axis.
    """
    rank, axis = use.rank(name, *range(1, 9)), int(use.settings.get("axis", default))
    if not -rank <= axis < rank:
        raise PartError(f"`axis` is {axis}, and `{name}` has {rank} dimensions")
    return axis, rank


PARTS = {
    "concat": Part(inputs=None, text=_concat, summary="tensors one after the other"),
    "softmax": Part(inputs=("logits",), text=_softmax, summary="probabilities"),
    "topk": Part(inputs=("values",), text=_topk, summary="the largest values and where they are"),
}
