"""Glue for text: words to the numbers of a vocabulary."""

from __future__ import annotations

from cutset.beside import find_beside
from cutset.cascade.parts.base import CONTRIB, Part, PartError, Use, dims, model

_LARGEST_BYTES = 1 << 23


def _tokenizer(use: Use) -> str:
    """Return BERT's tokenizer (word pieces) of onnxruntime-extensions, on one text."""
    use.expect("text", "string")
    use.rank("text", 1)
    path = find_beside(use.document, use.settings["vocabulary"])
    if path is None:
        raise PartError(f"the vocabulary `{use.settings['vocabulary']}` lies outside the folder of this file")
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise PartError(f"the vocabulary `{use.settings['vocabulary']}` is over {_LARGEST_BYTES >> 20} MiB")
        pieces = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PartError(f"cannot read the vocabulary `{use.settings['vocabulary']}`: {error}") from error
    vocabulary = "\n".join(pieces).replace("\\", "\\\\").replace('"', '\\"')
    lower, most = int(use.settings.get("lower_case", True)), int(use.settings.get("most", 512))
    names = ("input_ids", "token_type_ids", "attention_mask")
    return model(
        use,
        f"(string[{dims(use.reads['text'])}] text) => ({', '.join(f'int64[1, pieces] {name}' for name in names)})"
        " <int64[1] top = {0}>",
        f"""ids, types, mask = {CONTRIB}.BertTokenizer
            <vocab_file = "{vocabulary}", do_lower_case = {lower}, max_length = {most}> (text)
        input_ids = Unsqueeze (ids, top)
        token_type_ids = Unsqueeze (types, top)
        attention_mask = Unsqueeze (mask, top)""",
        domains={CONTRIB: 1},
    )


PARTS = {
    "tokenizer": Part(inputs=("text",), text=_tokenizer, summary="one text to word pieces of BERT's vocabulary, [1, pieces]"),
}
